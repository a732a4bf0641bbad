"""What a silent process held is taken over, and what it says later changes nothing."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from stepstream.types import TaskEvent
from tests.support.cluster import running_cluster

pytestmark = [pytest.mark.parallel, pytest.mark.slow]

# The default is 5 and 15 s. What is promised is the silence limit and 2 s (design 8, promise 4).
SILENCE_S = 2.0
SETTINGS = {"STEPSTREAM_HEARTBEAT_INTERVAL": "0.5", "STEPSTREAM_SILENCE_LIMIT": str(SILENCE_S)}
TAKEOVER_S = SILENCE_S + 2.0


def leased(events: list[TaskEvent], number: int) -> float:
    """When the task was leased for the number-th time, in Unix seconds."""
    times = [event.time.timestamp() for event in events if event.type == "LEASED" and event.time]
    return times[number - 1]


async def test_a_frozen_workers_step_is_taken_over_and_its_late_result_refused(tmp_path: Path):
    async with running_cluster(tmp_path, **SETTINGS) as cluster:
        plan = {"plan": [{"progress": 0.5, "sleep": 1.0}, {"sleep": 1.5}]}
        task_id = (await cluster.client().submit("single", plan)).task_id
        assert await cluster.reported(task_id) == 0.5
        frozen = cluster.workers["w-0"]

        frozen.tell(signal.SIGSTOP)
        await cluster.start_worker("w-1")
        await cluster.begun(task_id, "work", attempt=2)
        said = len(frozen.lines)
        frozen.tell(signal.SIGCONT)

        await frozen.line("connected", after=said)
        (task,) = await cluster.finished([task_id])
        events = await cluster.history(task_id)
        assert [event.type for event in events] == ["SUBMITTED", "LEASED", "LOST", "LEASED", "DONE"]
        assert events[-1].actor == "w-1"
        assert [error.code for error in task.errors] == ["WORKER_LOST"]
        assert leased(events, 2) - leased(events, 1) <= TAKEOVER_S
        output = task.result
        assert isinstance(output, dict)
        assert output["attempt"] == 2


async def test_a_dead_dispatchers_work_is_taken_over_by_another(tmp_path: Path):
    """Its worker dies with it: nobody is left who could bring the attempt along."""
    async with running_cluster(tmp_path, dispatchers=2, workers=0, **SETTINGS) as cluster:
        worker = await cluster.start_worker("w-0", at=["d-0"])
        await cluster.start_worker("w-1", at=["d-1"], slots=1)
        client = cluster.client("d-0")
        # More than the living one can hold.
        plan = {"plan": [{"sleep": 1.0}]}
        ids = [(await client.submit("single", plan)).task_id for _ in range(4)]
        for task_id in ids[:3]:
            await cluster.begun(task_id, "work")
        held = {run.task for run in cluster.journal.unfinished(worker.pid)}

        await worker.kill()
        await cluster.dispatchers["d-0"].child.kill()

        tasks = await cluster.finished(ids, "d-1")
        assert held, "the dead held nothing"
        assert {task.state for task in tasks} == {"done"}
        again = {task.task_id for task in tasks if len(cluster.journal.runs(task=task.task_id)) > 1}
        assert again == held
