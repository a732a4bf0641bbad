"""Bounds and filters as a caller meets them: a real server on an engine in memory."""

from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from stepstream.v1 import dispatcher_service_pb2 as api
from stepstream.v1 import operator_service_pb2 as operator_api
from stepstream.v1.dispatcher_service_pb2_grpc import DispatcherServiceStub
from stepstream.v1.operator_service_pb2_grpc import OperatorServiceStub
from stepstream_dispatcher.rpc.dispatcher_service import DispatcherService
from stepstream_dispatcher.rpc.operator_service import OperatorService
from stepstream_dispatcher.rpc.server import RpcServer
from stepstream_dispatcher.rpc.worker_service import WorkerService
from tests.support.engine import Dispatcher, database

MEBIBYTE = 1024 * 1024
LIMITS = [("grpc.max_send_message_length", -1)]


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    async with Dispatcher(database(), "committer", "watch", "overview") as dispatcher:
        engine = dispatcher.engine
        server = RpcServer(
            dispatcher=DispatcherService(engine),
            worker=WorkerService(engine),
            operator=OperatorService(engine),
        )
        port = await server.start("127.0.0.1:0")
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=LIMITS) as channel:
                yield channel
        finally:
            await server.stop(0)


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> DispatcherServiceStub:
    return DispatcherServiceStub(channel)


def task(text: str = "text", **fields: object) -> api.SubmitRequest:
    request = api.SubmitRequest(pipeline="translation", **fields)  # type: ignore[arg-type]
    request.input.text = text
    return request


async def refusal(call: object) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return caught.value


async def test_batch_answers_for_each_request_in_its_place(stub: DispatcherServiceStub):
    requests = [
        task(labels={"": "no key"}),
        task(labels={"k": "v" * 63}, delay=Duration(seconds=60)),
        task(delay=Duration(seconds=-1)),
        api.SubmitRequest(pipeline="nothing"),
        task("x" * (MEBIBYTE + 1)),
        task(retry=api.RetryOverride(max_retries=-1)),
    ]

    answer = await stub.SubmitBatch(api.SubmitBatchRequest(requests=requests))

    fields = [result.error.field for result in answer.results]
    assert fields == ["labels", "", "delay", "pipeline", "input", "retry.max_retries"]
    assert answer.results[1].accepted.state == "scheduled"
    assert answer.results[4].error.reason == "PAYLOAD_TOO_LARGE"


async def test_same_request_id_twice_in_a_batch_is_one_task(stub: DispatcherServiceStub):
    requests = [task(request_id="one"), task(request_id="one"), task("other", request_id="one")]

    answer = await stub.SubmitBatch(api.SubmitBatchRequest(requests=requests))

    first, second, third = answer.results
    assert first.accepted.task_id == second.accepted.task_id
    assert (first.accepted.duplicate, second.accepted.duplicate) == (False, True)
    assert third.error.reason == "TASK_CONFLICT"


@pytest.mark.parametrize(
    ("requests", "words"),
    [
        ([], "got 0"),
        ([api.SubmitRequest()] * 1001, "got 1001"),
        ([task("x" * MEBIBYTE)] * 5, "limit 4194304"),
    ],
    ids=["none", "too many", "too large"],
)
async def test_batch_beyond_its_bounds_is_refused_whole(
    stub: DispatcherServiceStub, requests: list[api.SubmitRequest], words: str
):
    error = await refusal(stub.SubmitBatch(api.SubmitBatchRequest(requests=requests)))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in (error.details() or "")


async def test_list_of_an_unknown_state_is_refused(stub: DispatcherServiceStub):
    error = await refusal(stub.ListTasks(api.ListTasksRequest(state="transalting")))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "state: no pipeline has the state 'transalting'"


async def test_explanation_and_pipelines_have_all_their_fields(channel: grpc.aio.Channel):
    stub, operator = DispatcherServiceStub(channel), OperatorServiceStub(channel)
    accepted = await stub.Submit(task(delay=Duration(seconds=60)))
    await operator.PauseQueue(operator_api.PauseQueueRequest(queue="checks"))

    explanation = await stub.ExplainTask(api.ExplainTaskRequest(task_id=accepted.task_id))
    pipelines = (await operator.ListPipelines(operator_api.ListPipelinesRequest())).pipelines

    assert explanation.reason == api.EXPLAIN_REASON_WAITING_UNTIL
    assert explanation.HasField("until")
    (pipeline,) = pipelines
    assert (pipeline.name, len(pipeline.version)) == ("translation", 8)
    assert [(step.name, step.kind, step.queue, step.paused) for step in pipeline.steps] == [
        ("translate", "worker", "default", False),
        ("verify", "worker", "checks", True),
        ("review", "human", "", False),
    ]
    assert dict(pipeline.steps[0].on) == {"completed": "verify"}


async def test_watch_over_tasks_carries_no_payloads(channel: grpc.aio.Channel):
    stub = DispatcherServiceStub(channel)
    await stub.Submit(task())
    watch = stub.WatchTasks(api.WatchTasksRequest())

    frame = await watch.read()
    watch.cancel()

    assert frame.task.state == "pending"
    assert not frame.task.HasField("input")
