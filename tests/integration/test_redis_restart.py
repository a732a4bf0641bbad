"""kill -9 of Redis: it comes back on its data, and nothing that was accepted is lost."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from stepstream.types import SubmitItem, Submitted
from tests.support.cluster import running_cluster

pytestmark = [pytest.mark.parallel, pytest.mark.slow]

TASKS = 20


async def test_nothing_accepted_is_lost_and_the_dispatcher_reconnects_by_itself(tmp_path: Path):
    """With appendfsync always: by default a commit may be held back while a sync is under way."""
    options = ("--appendfsync", "always")
    async with running_cluster(tmp_path, workers=2, redis_options=options) as cluster:
        client = cluster.client()
        plan = {"plans": {"first": [{"sleep": 1.5}], "second": [{"sleep": 0.2}]}}
        items = [SubmitItem(pipeline="chain", input=plan)] * TASKS
        answers = await client.submit_batch(items)
        ids = [answer.task_id for answer in answers if isinstance(answer, Submitted)]
        await cluster.news.until(lambda: len(cluster.journal.runs()) >= 6, timeout_s=10)
        dispatcher = cluster.dispatchers["d-0"].child
        assert cluster.redis_process is not None

        await cluster.redis_process.kill()
        running = [run for run in cluster.journal.runs() if run.ended_mono is None]
        await cluster.news.until(
            lambda: all(run.ended_mono for run in cluster.journal.runs()), timeout_s=10
        )
        await cluster.start_redis()

        tasks = await cluster.finished(ids)
        assert Counter(task.state for task in tasks) == {"done": TASKS}
        assert [task.errors for task in tasks if task.errors] == []
        assert running, "nothing ran when redis was killed"
        counts = Counter((run.task, run.step) for run in cluster.journal.runs())
        assert {counts[run.task, run.step] for run in running} == {1}
        assert dispatcher.exit_code is None
        totals = (await client.stats()).totals
        assert (totals.processed, totals.failed) == (3 * TASKS, 0)
