"""What operators do, at two dispatchers on one Redis: whichever is asked, all of them obey."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path

import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from stepstream.v1 import dispatcher_service_pb2 as api
from stepstream.v1 import operator_service_pb2 as operator
from stepstream.v1.dispatcher_service_pb2_grpc import DispatcherServiceStub
from stepstream.v1.operator_service_pb2_grpc import OperatorServiceStub
from stepstream.v1.task_pb2 import Payload
from tests.support.cluster import Cluster, running_cluster

pytestmark = [pytest.mark.parallel, pytest.mark.asyncio(loop_scope="module")]

LIMIT_S = 15.0
OBEYED_S = 2.0  # docs/guarantees.md


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """Dispatchers `d-0` and `d-1`; the worker `w-1` is connected to `d-1` alone."""
    folder = tmp_path_factory.mktemp("operations")
    async with running_cluster(folder, dispatchers=2, workers=0) as cluster:
        await cluster.start_worker("w-1", at=["d-1"], slots=4)
        yield cluster


class Asked:
    """What a test asks one dispatcher."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.operator = OperatorServiceStub(channel)
        self.tasks = DispatcherServiceStub(channel)

    async def worker(self, name: str) -> operator.Worker:
        answer = await self.operator.ListWorkers(operator.ListWorkersRequest(), timeout=LIMIT_S)
        return next(worker for worker in answer.workers if worker.name == name)

    async def explain(self, task_id: str) -> api.ExplainTaskResponse:
        request = api.ExplainTaskRequest(task_id=task_id)
        return await self.tasks.ExplainTask(request, timeout=LIMIT_S)

    async def reason(self, task_id: str) -> str:
        explanation = await self.explain(task_id)
        return api.ExplainReason.Name(explanation.reason).removeprefix("EXPLAIN_REASON_")

    async def until(self, task_id: str, *reasons: str) -> None:
        """Asks until the reason is one of these: workers write what they hold 4 times a second."""
        async with asyncio.timeout(LIMIT_S):
            while await self.reason(task_id) not in reasons:  # noqa: ASYNC110 - it asks
                await asyncio.sleep(0)

    async def pause(self, queue: str) -> None:
        await self.operator.PauseQueue(operator.PauseQueueRequest(queue=queue), timeout=LIMIT_S)

    async def resume(self, queue: str) -> None:
        await self.operator.ResumeQueue(operator.ResumeQueueRequest(queue=queue), timeout=LIMIT_S)

    async def paused_queues(self) -> set[str]:
        request = operator.ListPipelinesRequest()
        answer = await self.operator.ListPipelines(request, timeout=LIMIT_S)
        return {step.queue for one in answer.pipelines for step in one.steps if step.paused}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def asked(cluster: Cluster) -> AsyncIterator[dict[str, Asked]]:
    channels = {
        name: grpc.aio.insecure_channel(one.address) for name, one in cluster.dispatchers.items()
    }
    yield {name: Asked(channel) for name, channel in channels.items()}
    for channel in channels.values():
        await channel.close()


async def submitted(cluster: Cluster, *acts: dict[str, object], pipeline: str = "single") -> str:
    plan = {"plan": list(acts) or [{}]}
    return (await cluster.client("d-0").submit(pipeline, plan)).task_id


def code_of(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, str | None]:
    return error.code(), error.details()


# --- queues --------------------------------------------------------------------------------------


async def test_a_queue_paused_at_one_is_not_fed_at_the_other(
    cluster: Cluster, asked: dict[str, Asked]
):
    """The worker is at `d-1`; `d-0` was asked. What runs goes on."""
    runs = await submitted(cluster, {"sleep": 1.0})
    await cluster.begun(runs, "work")

    await asked["d-0"].pause("work")
    waits = await submitted(cluster)
    (ended,) = await cluster.finished([runs])

    assert ended.state == "done"
    assert cluster.journal.runs(task=waits) == []
    assert await asked["d-1"].paused_queues() == await asked["d-0"].paused_queues() == {"work"}
    for one in asked.values():
        explanation = await one.explain(waits)
        assert explanation.reason == api.EXPLAIN_REASON_QUEUE_PAUSED
        assert "stepstream resume work" in explanation.message

    began_mono = time.monotonic()
    await asked["d-0"].resume("work")
    (task,) = await cluster.finished([waits])

    assert (task.state, task.attempt) == ("done", 1)
    assert time.monotonic() - began_mono < OBEYED_S


async def test_a_pause_survives_the_restart_of_everything(tmp_path: Path):
    async with running_cluster(tmp_path) as cluster:
        async with grpc.aio.insecure_channel(cluster.dispatchers["d-0"].address) as channel:
            await Asked(channel).pause("work")
        for child in (cluster.workers["w-0"], cluster.dispatchers["d-0"].child):
            await cluster.terminate(child)
        assert cluster.redis_process is not None
        await cluster.redis_process.kill()

        await cluster.start_redis()
        await cluster.start_dispatcher()
        await cluster.start_worker()
        task_id = await submitted(cluster)
        other = (await cluster.client().submit("translation", {"plan": [{}]})).task_id
        await cluster.begun(other, "translate")

        assert cluster.journal.runs(task=task_id) == []
        async with grpc.aio.insecure_channel(cluster.dispatchers["d-0"].address) as channel:
            await Asked(channel).resume("work")
        (task,) = await cluster.finished([task_id])
        assert task.state == "done"


@pytest.mark.parametrize(
    ("method", "request_", "code"),
    [
        ("PauseQueue", operator.PauseQueueRequest(queue="nothing"), grpc.StatusCode.NOT_FOUND),
        ("ResumeQueue", operator.ResumeQueueRequest(queue="nothing"), grpc.StatusCode.NOT_FOUND),
        ("PauseQueue", operator.PauseQueueRequest(), grpc.StatusCode.INVALID_ARGUMENT),
        ("DrainWorker", operator.DrainWorkerRequest(name="nobody"), grpc.StatusCode.NOT_FOUND),
        ("Redrive", operator.RedriveRequest(), grpc.StatusCode.INVALID_ARGUMENT),
        ("UpdateInput", operator.UpdateInputRequest(), grpc.StatusCode.INVALID_ARGUMENT),
        (
            "ListDeadLetters",
            operator.ListDeadLettersRequest(page_size=-1),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
    ],
)
async def test_what_cannot_be_is_refused(
    asked: dict[str, Asked], method: str, request_: Message, code: grpc.StatusCode
):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await getattr(asked["d-0"].operator, method)(request_, timeout=LIMIT_S)

    assert caught.value.code() is code


# --- dead letters --------------------------------------------------------------------------------


async def test_a_dead_letter_whose_input_was_edited_ends_well_after_its_redrive(
    cluster: Cluster, asked: dict[str, Asked]
):
    task_id = await submitted(cluster, {"not_retryable": "no text"}, pipeline="chain")
    (failed,) = await cluster.finished([task_id])
    assert failed.state == "failed"

    listed = await asked["d-0"].operator.ListDeadLetters(
        operator.ListDeadLettersRequest(page_size=10), timeout=LIMIT_S
    )
    letter = next(task for task in listed.tasks if task.task_id == task_id)
    edit = operator.UpdateInputRequest(
        task_id=task_id,
        input=ParseDict({"json": {"plan": [{}]}}, Payload()),
        version=letter.version,
    )
    edited = await asked["d-0"].operator.UpdateInput(edit, timeout=LIMIT_S)
    with pytest.raises(grpc.aio.AioRpcError) as caught:  # by somebody who saw the older one
        await asked["d-1"].operator.UpdateInput(edit, timeout=LIMIT_S)
    redrive = operator.RedriveRequest(task_ids=[task_id, "0" * 32])
    redriven = await asked["d-1"].operator.Redrive(redrive, timeout=LIMIT_S)
    (task,) = await cluster.finished([task_id])

    assert [error.message for error in letter.errors] == ["no text"]
    assert edited.task.version == letter.version + 1
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert [(one.redriven, one.reason) for one in redriven.results] == [
        (True, ""),
        (False, "TASK_NOT_FOUND"),
    ]
    assert task.state == "done"


# --- why is it not running -----------------------------------------------------------------------


async def test_every_reason_is_told_of_real_tasks_at_both(
    cluster: Cluster, asked: dict[str, Asked]
):
    client = cluster.client("d-0")
    rejected = {"plans": {"translate": [{}], "verify": [{"outcome": "rejected"}]}}
    tasks = {
        "FINISHED": await submitted(cluster),
        "RUNNING": await submitted(cluster, {"sleep": 20}),
        "WAITING_UNTIL": (await client.submit("single", {}, delay_s=600)).task_id,
        "AWAITING_REVIEW": (await client.submit("translation", rejected)).task_id,
    }
    for reason, task_id in tasks.items():
        for one in asked.values():
            await one.until(task_id, reason)

    until = (await asked["d-1"].explain(tasks["WAITING_UNTIL"])).until
    created = (await client.get(tasks["WAITING_UNTIL"])).create_time
    assert created is not None
    assert abs(until.ToSeconds() - created.timestamp() - 600) < 2

    fillers = [await submitted(cluster, {"sleep": 20}) for _ in range(3)]
    for task_id in fillers:
        await cluster.begun(task_id, "work")
    waits = await submitted(cluster)
    for one in asked.values():
        await one.until(waits, "NO_FREE_SLOT")
    for task_id in (*fillers, tasks["RUNNING"]):
        await client.cancel(task_id, reason="for the test")
    await cluster.finished([*fillers, tasks["RUNNING"], waits])


async def test_missing_workers_are_told_by_what_is_missing(tmp_path: Path):
    """No worker at all; then one that serves the queue and not all of its steps."""
    async with running_cluster(tmp_path, dispatchers=2, workers=0) as cluster:
        task_id = await submitted(cluster)
        async with grpc.aio.insecure_channel(cluster.dispatchers["d-1"].address) as channel:
            asked = Asked(channel)
            nobody = await asked.explain(task_id)
            program = [
                "from stepstream import Worker, step",
                "work = step('work')(lambda ctx: None)",
                "Worker([work], queues=['work']).run()",
            ]
            await cluster.start_worker("partly", at=["d-0"], argv=python(program))
            partly = await asked.explain(task_id)

        assert nobody.reason == partly.reason == api.EXPLAIN_REASON_NO_WORKER
        assert "no connected worker serves queue work" in nobody.message
        assert "worker partly serves queue work but not its step block, first" in partly.message


def python(lines: Sequence[str]) -> list[str]:
    import sys  # noqa: PLC0415 - the interpreter of this test

    return [sys.executable, "-c", "\n".join(lines)]


# --- many tasks at once --------------------------------------------------------------------------


async def test_changes_at_one_are_watched_at_the_other(cluster: Cluster, asked: dict[str, Asked]):
    labels = {"watched": "yes"}
    client = cluster.client("d-0")
    present = (await client.submit("single", {}, delay_s=600, labels=labels)).task_id
    await client.submit("single", {}, delay_s=600)
    request = api.WatchTasksRequest(pipeline="single", labels=labels)
    seen: dict[str, list[str]] = {}
    async with (
        asyncio.timeout(LIMIT_S),
        aclosing(aiter(asked["d-1"].tasks.WatchTasks(request))) as frames,
    ):
        first = await anext(frames)
        new = (await client.submit("single", {"plan": [{"sleep": 0.5}]}, labels=labels)).task_id
        async for frame in frames:
            seen.setdefault(frame.task.task_id, []).append(frame.task.state)
            if frame.task.state == "done":
                break

    assert (first.task.task_id, first.task.state) == (present, "scheduled")
    assert dict(first.task.labels) == labels
    assert set(seen) == {new}
    assert seen[new][-1] == "done"


async def test_a_watch_of_what_cannot_be_is_refused(asked: dict[str, Asked]):
    call = asked["d-0"].tasks.WatchTasks(api.WatchTasksRequest(states=["transalting"]))

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "'transalting'" in (caught.value.details() or "")


# --- workers; last, since the worker leaves ------------------------------------------------------


async def test_a_worker_at_the_other_dispatcher_finishes_and_leaves(
    cluster: Cluster, asked: dict[str, Asked]
):
    runs = await submitted(cluster, {"sleep": 1.5})
    await cluster.begun(runs, "work")

    for _ in range(2):
        request = operator.DrainWorkerRequest(name="w-1")
        await asked["d-0"].operator.DrainWorker(request, timeout=LIMIT_S)
    told = [await one.worker("w-1") for one in asked.values()]
    waits = await submitted(cluster)
    explanation = await asked["d-0"].explain(waits)
    code = await cluster.workers["w-1"].ended()
    (task,) = await cluster.finished([runs])

    assert [(one.draining, one.dispatcher_id) for one in told] == [(True, "d-1")] * 2
    assert explanation.reason == api.EXPLAIN_REASON_NO_WORKER
    assert "is leaving" in explanation.message
    assert code == 0
    assert (task.state, task.attempt) == ("done", 1)
    assert cluster.journal.runs(task=waits) == []

    await cluster.start_worker("w-1", at=["d-1"])  # another process of that name is not meant
    (task,) = await cluster.finished([waits])
    assert task.state == "done"
    assert not (await asked["d-0"].worker("w-1")).draining
