"""A dispatcher that is stopped for longer than the silence limit, and goes on.

Its workers move with what they run, the others take over the rest, and whatever it has in its pipes
when it goes on changes nothing that is not its own any more.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import grpc.aio
import pytest

from stepstream import AsyncClient
from stepstream.types import SubmitItem, Submitted, TaskEvent
from stepstream.v1 import worker_service_pb2 as pb
from stepstream.v1.worker_service_pb2_grpc import WorkerServiceStub
from tests.support.audit import audit
from tests.support.callers import running_callers
from tests.support.cluster import Cluster, running_cluster
from tests.support.load import tell
from tests.support.pace import lasts

pytestmark = [pytest.mark.parallel, pytest.mark.slow, pytest.mark.timeout(150)]

SILENCE_S = 2.0
SHORT = {"STEPSTREAM_HEARTBEAT_INTERVAL": "0.5", "STEPSTREAM_SILENCE_LIMIT": str(SILENCE_S)}
TAKEOVER_S = 17.0  # promised with the default limit of 15 s
SLACK_S = 1.0


async def submit(cluster: Cluster, seconds: list[float], dispatcher: str = "d-1") -> list[str]:
    """Tasks of one step each."""
    items = [SubmitItem(pipeline="single", input={"plan": [{"sleep": s}]}) for s in seconds]
    answers = await cluster.client(dispatcher).submit_batch(items)
    return [answer.task_id for answer in answers if isinstance(answer, Submitted)]


async def all_begun(cluster: Cluster, task_ids: list[str]) -> None:
    for task_id in task_ids:
        await cluster.begun(task_id, "work")


@asynccontextmanager
async def frozen(cluster: Cluster, name: str = "d-0") -> AsyncGenerator[None, None]:
    """A dispatcher stands still for as long as the block lasts."""
    child = cluster.dispatchers[name].child
    child.tell(signal.SIGSTOP)
    try:
        yield
    finally:
        child.tell(signal.SIGCONT)


async def healthy(cluster: Cluster, name: str = "d-0") -> None:
    """Wait until a dispatcher serves a task with a worker of its own."""
    await cluster.start_worker(f"w-{name}", at=[name], slots=1)
    client = cluster.client(name)
    submitted = await client.submit("single", {"plan": [{}]}, require_durable=True)
    await client.wait(submitted.task_id, timeout_s=15)


async def test_running_steps_move_with_their_workers_and_go_on(tmp_path: Path):
    async with running_cluster(tmp_path, dispatchers=2, workers=0, **SHORT) as cluster:
        await cluster.start_worker("w-0", at=["d-0", "d-1"], slots=8)
        # Some end while the dispatcher is frozen, and leave their results in its pipes.
        ids = await submit(cluster, [0.5, 0.5, 0.7, 0.9, 1.1, 5.0, 5.0, 5.0])
        await all_begun(cluster, ids)

        async with frozen(cluster):
            await lasts(2 * SILENCE_S)
        tasks = await cluster.finished(ids, "d-1")
        await healthy(cluster)

        assert [task.errors for task in tasks if task.errors] == []
        assert Counter(run.how for run in cluster.journal.runs()) == {"completed": len(ids) + 1}
        for task in tasks:
            types = [event.type for event in await cluster.history(task.task_id, "d-1")]
            assert [one for one in types if one != "ADOPTED"] == ["SUBMITTED", "LEASED", "DONE"]
        assert await audit(cluster.redis_url) == []


async def test_what_nobody_brought_along_is_taken_over_and_its_old_lease_changes_nothing(
    tmp_path: Path,
):
    async with running_cluster(tmp_path, dispatchers=2, workers=0, **SHORT) as cluster:
        (task_id,) = await submit(cluster, [0.0])
        async with HandMade(cluster.dispatchers["d-0"].address) as worker:
            held = await worker.attempt()
            async with frozen(cluster):
                await worker.report(held, "old")  # waits in the pipe of the frozen one
                await cluster.start_worker("w-1", at=["d-1"])
                (task,) = await cluster.finished([task_id], "d-1")
            receipt = await worker.receipt()
        events = await cluster.history(task_id, "d-1")
        await healthy(cluster)

        assert pb.ReceiptStatus.Name(receipt.status) == "RECEIPT_STATUS_STALE_LEASE"
        assert receipt.lease_token == held.lease_token
        types = [event.type for event in events]
        assert types == ["SUBMITTED", "LEASED", "RELEASED", "LEASED", "DONE"]
        assert (task.errors, events[-1].actor, events[-1].attempt) == ([], "w-1", 2)
        assert (await cluster.client("d-0").get(task_id)).version == len(events)
        assert await audit(cluster.redis_url) == []


async def test_under_load_nothing_is_doubled_by_the_one_that_goes_on(tmp_path: Path):
    """Its feeder and its timers had work in hand."""
    load = [
        ("single", {"plan": [{"error": "x"}, {"sleep": 0.1}]}),
        ("chain", {"plan": [{"sleep": 0.2}]}),
        ("single", {"plan": [{"sleep": 3.0}]}),
        ("single", {"plan": [{"sleep": 0.05}]}),
    ]
    async with running_cluster(tmp_path, dispatchers=2, workers=3, slots=8, **SHORT) as cluster:
        back = [cluster.dispatchers[name].address for name in ("d-1", "d-0")]
        async with running_callers(back, load) as callers:
            for _ in range(3):
                await lasts(1.0)
                async with frozen(cluster):
                    await lasts(2 * SILENCE_S)
        runs = Counter((run.task, run.step, run.attempt) for run in cluster.journal.runs())
        codes = Counter(error.code for task in callers.tasks.values() for error in task.errors)

        tell(f"{len(callers.tasks)} tasks, {callers.failures}, errors {codes}")
        assert callers.failures == []
        assert {key: n for key, n in runs.items() if n > 1} == {}
        assert set(codes) <= {"HANDLER_ERROR"}, "somebody was charged"
        assert {task.state for task in callers.tasks.values()} == {"done"}
        assert await audit(cluster.redis_url) == []


async def test_with_the_default_limit_its_work_is_taken_over_in_time(tmp_path: Path):
    async with (
        running_cluster(tmp_path, dispatchers=2, workers=0) as cluster,
        AsyncClient([one.address for one in cluster.dispatchers.values()]) as client,
    ):
        mover = await cluster.start_worker("w-0", at=["d-0", "d-1"], slots=2)
        running = await submit(cluster, [25.0, 25.0])
        await all_begun(cluster, running)
        (task_id,) = await submit(cluster, [0.0])
        async with HandMade(cluster.dispatchers["d-0"].address) as worker:
            await worker.attempt()
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(collect(client, running[0]))
                await lasts(SLACK_S)
                began = time.time()
                async with frozen(cluster):
                    call = group.create_task(answered_at(client))
                    await cluster.start_worker("w-1", at=["d-1"])
                    (task,) = await cluster.finished([task_id], "d-1")
                    await call
        taken_over_s = moment(await cluster.history(task_id, "d-1"), "RELEASED") - began
        tasks = await cluster.finished(running, "d-1")
        histories = [await cluster.history(one, "d-1") for one in running]

        moved_s = max(moment(events, "ADOPTED") for events in histories) - began
        called_s = call.result() - began
        tell(
            f"taken over after {taken_over_s:.1f} s, workers moved after {moved_s:.1f} s, "
            f"a call answered after {called_s:.1f} s"
        )
        assert taken_over_s <= TAKEOVER_S
        assert moved_s <= TAKEOVER_S
        assert called_s <= TAKEOVER_S
        assert watch.result() == histories[0]
        assert task.errors == []
        assert [one.errors for one in tasks] == [[], []]
        moved = [run for run in cluster.journal.runs() if run.pid == mover.pid]
        assert [run.how for run in moved] == ["completed", "completed"]


async def collect(client: AsyncClient, task_id: str) -> list[TaskEvent]:
    """Every event of a task."""
    return [item async for item in client.watch(task_id, after=0) if isinstance(item, TaskEvent)]


async def answered_at(client: AsyncClient) -> float:
    """When a call made now is answered, in Unix seconds."""
    await client.stats()
    return time.time()


def moment(events: list[TaskEvent], kind: str) -> float:
    """When an event happened, in Unix seconds."""
    event = next(event for event in events if event.type == kind)
    assert event.time is not None
    return event.time.timestamp()


class HandMade:
    """A worker with one slot, frame by frame, that is slow to notice that nobody listens."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self._call = WorkerServiceStub(self._channel).Work()  # type: ignore[no-untyped-call]

    async def __aenter__(self) -> Self:
        register = pb.Register(
            worker_name="hand-made",
            instance_id="hand-made-1",
            protocol_version=1,
            queues=["work"],
            step_types=["work", "block", "first", "second", "third"],
            max_in_flight=1,
            max_message_bytes=1 << 20,
        )
        await self._call.write(pb.WorkRequest(register=register))
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._call.cancel()
        await self._channel.close()

    async def attempt(self) -> pb.Assignment:
        """The first attempt that it is given, named in a heartbeat and then nothing more said."""
        frame = await self._until("batch")
        (assignment,) = frame.batch.assignments
        held = pb.HeldAttempt(
            assignment_id=assignment.assignment_id, lease_token=assignment.lease_token
        )
        beat = pb.Heartbeat(held=[held], batch_received=frame.batch.number)
        await self._call.write(pb.WorkRequest(heartbeat=beat))
        return assignment

    async def report(self, assignment: pb.Assignment, text: str) -> None:
        """Say that it ended well."""
        settlement = pb.Settlement(
            assignment_id=assignment.assignment_id, lease_token=assignment.lease_token
        )
        settlement.completed.output.text = text
        settlement.completed.outcome = "completed"
        report = pb.Report(settlements=[settlement])
        await self._call.write(pb.WorkRequest(report=report))

    async def receipt(self) -> pb.Receipt:
        """The answer to a report."""
        return (await self._until("receipts")).receipts.receipts[0]

    async def _until(self, part: str) -> pb.WorkResponse:
        async with asyncio.timeout(20):
            while True:
                frame = await self._call.read()
                assert isinstance(frame, pb.WorkResponse), "the stream ended"
                if frame.HasField(part):
                    return frame
