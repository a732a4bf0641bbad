"""Queue integrity under load: afterwards every index agrees with the records."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from stepstream import AsyncClient
from stepstream.types import SubmitItem, Submitted
from tests.support.audit import audit
from tests.support.cluster import running_cluster

pytestmark = [pytest.mark.parallel]

# What the attempts of the tasks do, in turn: most end well, some are retried, some fail, some are
# sent back by their worker's limits.
PLANS = (
    {"plan": [{}]},
    {"plans": {"second": [{"error": "now and then"}, {}]}},
    {"plan": [{"sleep": 0.02}]},
    {"plans": {"third": [{"retry_after": 0.05}, {}]}},
    {"plans": {"first": [{"not_retryable": "never"}]}},
)
TASKS = 600
EACH = 50  # tasks of one call


async def submit(client: AsyncClient, first: int) -> list[str]:
    items = [
        SubmitItem(
            pipeline="chain",
            input=PLANS[number % len(PLANS)],
            request_id=f"load-{number}",
            initial_delay_s=0.05,
        )
        for number in range(first, first + EACH)
    ]
    answers = await client.submit_batch(items)
    again = await client.submit_batch(items[:5])
    assert all(isinstance(one, Submitted) and one.duplicate for one in again)
    return [one.task_id for one in answers if isinstance(one, Submitted)]


async def test_indexes_agree_with_records_after_a_load(tmp_path: Path):
    async with running_cluster(tmp_path, dispatchers=2, workers=3, slots=8) as cluster:
        clients = [cluster.client("d-0"), cluster.client("d-1")]

        async with asyncio.TaskGroup() as group:
            calls = [
                group.create_task(submit(clients[number % 2], number * EACH))
                for number in range(TASKS // EACH)
            ]
        ids = [task_id for call in calls for task_id in call.result()]
        tasks = await cluster.finished(ids, timeout_s=60)

        assert len(set(ids)) == TASKS
        states = Counter(task.state for task in tasks)
        assert states == {"done": TASKS * 4 // 5, "failed": TASKS // 5}
        assert await audit(cluster.redis_url) == []
        started = Counter((run.task, run.step, run.attempt) for run in cluster.journal.runs())
        assert set(started.values()) == {1}
