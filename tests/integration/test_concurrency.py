"""Many slots: steps run side by side, never more of them than there are slots."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepstream.types import SubmitItem, Submitted
from tests.support.cluster import running_cluster
from tests.support.journal import Run

pytestmark = [pytest.mark.parallel]

TASKS, WORKERS, SLOTS, WORK_S = 24, 2, 3, 0.3


def most_at_once(runs: list[Run]) -> int:
    """How many runs were going on at the busiest moment."""
    moments = [(run.started_mono, 1) for run in runs]
    moments += [(run.ended_mono, -1) for run in runs if run.ended_mono is not None]
    going, most = 0, 0
    for _, change in sorted(moments):
        going += change
        most = max(most, going)
    return most


async def test_all_slots_are_used_and_none_twice(tmp_path: Path):
    async with running_cluster(tmp_path, workers=WORKERS, slots=SLOTS) as cluster:
        items = [SubmitItem(pipeline="single", input={"plan": [{"sleep": WORK_S}]})] * TASKS
        answers = await cluster.client().submit_batch(items)
        ids = [answer.task_id for answer in answers if isinstance(answer, Submitted)]

        await cluster.finished(ids)

        runs = cluster.journal.runs()
        assert len(runs) == TASKS
        assert most_at_once(runs) == WORKERS * SLOTS
        for pid in {run.pid for run in runs}:
            assert most_at_once([run for run in runs if run.pid == pid]) == SLOTS
