"""SIGTERM: running steps finish or go back uncharged, and the exit status is 0."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, running_cluster

pytestmark = [pytest.mark.parallel, pytest.mark.slow]


async def types(cluster: Cluster, task_id: str) -> list[str]:
    return [event.type for event in await cluster.history(task_id)]


async def submit(cluster: Cluster, sleep_s: float, later_s: float = 0) -> str:
    plan = {"plan": [{"sleep": sleep_s}, {"sleep": later_s}]}
    return (await cluster.client().submit("single", plan)).task_id


async def test_a_worker_finishes_what_runs_and_takes_nothing_more(tmp_path: Path):
    async with running_cluster(tmp_path, slots=1) as cluster:
        worker = cluster.workers["w-0"]
        running = await submit(cluster, 1.0)
        await cluster.begun(running, "work")
        queued = await submit(cluster, 0)

        exit_code = await cluster.terminate(worker)

        assert exit_code == 0
        assert await types(cluster, running) == ["SUBMITTED", "LEASED", "DONE"]
        waiting = await cluster.client().get(queued)
        assert (waiting.phase, waiting.errors) == ("QUEUED", [])
        assert [run.task for run in cluster.journal.runs()] == [running]


async def test_a_worker_gives_back_uncharged_what_outlasts_its_grace(tmp_path: Path):
    async with running_cluster(tmp_path, workers=0) as cluster:
        worker = await cluster.start_worker(STEPSTREAM_WORKER_GRACE="0.5")
        task_id = await submit(cluster, 30)
        await cluster.begun(task_id, "work")

        exit_code = await cluster.terminate(worker)

        assert exit_code == 0
        await cluster.start_worker("w-1")
        (task,) = await cluster.finished([task_id])
        assert (task.state, task.errors) == ("done", [])
        # Where the next worker takes a second to start, the entry is put back for want of room.
        told = [each for each in await types(cluster, task_id) if each != "QUEUED"]
        assert told == ["SUBMITTED", "LEASED", "RELEASED", "LEASED", "DONE"]
        stats = await cluster.client().stats()
        assert stats.totals.failed == 0


async def test_what_a_leaving_worker_is_known_to_run_is_given_back_too(tmp_path: Path):
    """One that only went away with it would be charged: its dispatcher knows that it ran."""
    async with running_cluster(tmp_path, workers=0) as cluster:
        worker = await cluster.start_worker(STEPSTREAM_WORKER_GRACE="0.5")
        plan = {"plan": [{"progress": 0.5, "sleep": 30}]}
        task_id = (await cluster.client().submit("single", plan)).task_id
        assert await cluster.reported(task_id) == 0.5

        exit_code = await cluster.terminate(worker)

        assert exit_code == 0
        task = await cluster.client().get(task_id)
        assert (task.phase, task.errors) == ("QUEUED", [])


async def test_a_dispatcher_alone_waits_for_running_steps(tmp_path: Path):
    async with running_cluster(tmp_path) as cluster:
        dispatcher = cluster.dispatchers["d-0"]
        task_id = await submit(cluster, 2.0)
        await cluster.begun(task_id, "work")

        exit_code = await cluster.terminate(dispatcher.child)

        assert exit_code == 0
        assert cluster.journal.runs()[0].how == "completed"
        await cluster.start_dispatcher()
        assert await types(cluster, task_id) == ["SUBMITTED", "LEASED", "DONE"]


async def test_a_dispatcher_leaves_after_its_grace_and_the_next_one_adopts(tmp_path: Path):
    async with running_cluster(tmp_path, STEPSTREAM_GRACE="0.3") as cluster:
        dispatcher = cluster.dispatchers["d-0"]
        task_id = await submit(cluster, 5.0)
        await cluster.begun(task_id, "work")

        exit_code = await cluster.terminate(dispatcher.child)

        assert exit_code == 0
        assert cluster.journal.runs()[0].ended_mono is None
        await cluster.start_dispatcher()
        (task,) = await cluster.finished([task_id])
        assert (task.state, task.errors) == ("done", [])
        assert [run.how for run in cluster.journal.runs()] == ["completed"]


async def test_idle_processes_leave_at_once(tmp_path: Path):
    async with running_cluster(tmp_path) as cluster:
        worker, dispatcher = cluster.workers["w-0"], cluster.dispatchers["d-0"].child

        worker.tell(signal.SIGINT)
        assert await worker.ended(timeout_s=5) == 0
        dispatcher.tell(signal.SIGTERM)
        assert await dispatcher.ended(timeout_s=5) == 0
