"""What is taken in at once, by bytes, calls and peers: at the limit, and one beyond."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from structlog.testing import capture_logs

from stepstream.v1 import dispatcher_service_pb2 as api
from stepstream.v1 import operator_service_pb2, worker_service_pb2
from stepstream.v1.dispatcher_service_pb2_grpc import (
    DispatcherServiceServicer,
    DispatcherServiceStub,
)
from stepstream.v1.operator_service_pb2_grpc import OperatorServiceServicer
from stepstream.v1.worker_service_pb2_grpc import WorkerServiceServicer
from stepstream_dispatcher.rpc.intake import (
    METHODS_WITH_PAYLOAD,
    READERS_MAX,
    READERS_OF_HOST_MAX,
    SLOW_OF_HOST_MAX,
    SLOW_SHARES,
    CallLimits,
    host_of,
)
from stepstream_dispatcher.rpc.server import RpcServer
from tests.support.pace import before_the_next_look

LIMIT = 20_000
FEW = 50
BURST = 4_000  # of which gRPC's defaults would drop a third, as CANCELLED
NO_LIMIT = [("grpc.max_send_message_length", -1)]


class Holding(DispatcherServiceServicer):
    """Answers when it is let; counts those that were let in."""

    def __init__(self) -> None:
        self.let = asyncio.Event()
        self.entered = asyncio.Semaphore(0)
        self.bytes_at_once = 0
        self.bytes_most = 0

    async def Submit(self, request: api.SubmitRequest, context: Any) -> api.SubmitResponse:  # noqa: N802
        self.bytes_at_once += request.ByteSize()
        self.bytes_most = max(self.bytes_most, self.bytes_at_once)
        self.entered.release()
        await self.let.wait()
        self.bytes_at_once -= request.ByteSize()
        return api.SubmitResponse(task_id=request.pipeline)

    async def SubmitBatch(  # noqa: N802
        self, request: api.SubmitBatchRequest, context: Any
    ) -> api.SubmitBatchResponse:
        return api.SubmitBatchResponse()

    async def CancelTask(  # noqa: N802
        self, request: api.CancelTaskRequest, context: Any
    ) -> api.CancelTaskResponse:
        return api.CancelTaskResponse()

    async def DecideReview(  # noqa: N802
        self, request: api.DecideReviewRequest, context: Any
    ) -> api.DecideReviewResponse:
        return api.DecideReviewResponse()

    async def WaitTask(self, request: api.WaitTaskRequest, context: Any) -> api.WaitTaskResponse:  # noqa: N802
        self.entered.release()
        await self.let.wait()
        return api.WaitTaskResponse(timed_out=True)

    async def WatchTask(self, request: api.WatchTaskRequest, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        await context.write(api.WatchTaskResponse())
        await self.let.wait()


@pytest.fixture
async def servicer() -> Holding:
    return Holding()


@pytest.fixture
def limits() -> CallLimits:
    return CallLimits(
        bytes_in_hand=LIMIT, streams_of_peer=2, calls=BURST, wait_s=0.05, slow_s=0.1, read_s=0.2
    )


@pytest.fixture
async def port(servicer: Holding, limits: CallLimits) -> AsyncIterator[int]:
    server = RpcServer(
        dispatcher=servicer,
        worker=WorkerServiceServicer(),
        operator=OperatorServiceServicer(),
        limits=limits,
    )
    yield await server.start("127.0.0.1:0")
    await server.stop(0)


@pytest.fixture
async def channel(port: int) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=NO_LIMIT) as channel:
        yield channel


@pytest.fixture
async def other_host(port: int) -> AsyncIterator[DispatcherServiceStub]:
    """Calls that come from another address of the loopback."""

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            sink.write(data)
            await sink.drain()
        sink.close()
        await sink.wait_closed()

    async def relay(near: asyncio.StreamReader, to_near: asyncio.StreamWriter) -> None:
        relays.append(asyncio.current_task())
        far, to_far = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0))
        async with asyncio.TaskGroup() as pumps:
            pumps.create_task(pump(near, to_far))
            pumps.create_task(pump(far, to_near))

    relays: list[asyncio.Task[Any] | None] = []
    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    address = "{}:{}".format(*server.sockets[0].getsockname())
    async with grpc.aio.insecure_channel(address) as channel:
        yield DispatcherServiceStub(channel)
    server.close()
    async with asyncio.timeout(10):
        for one in filter(None, relays):
            await one


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> DispatcherServiceStub:
    return DispatcherServiceStub(channel)


def request_of(size: int) -> api.SubmitRequest:
    """A request of exactly so many bytes."""
    request = api.SubmitRequest(pipeline="p" * size)
    request.pipeline = "p" * (2 * size - request.ByteSize())
    assert request.ByteSize() == size
    return request


def without_body(channel: grpc.aio.Channel, count: int) -> list[Any]:
    """So many calls of which nothing comes but the headers."""
    submit: Any = channel.stream_unary("/stepstream.v1.DispatcherService/Submit")
    return [submit() for _ in range(count)]


async def until_ended(calls: list[Any], count: int) -> None:
    async with asyncio.timeout(10):
        while sum(call.done() for call in calls) < count:
            await before_the_next_look()


async def reasons(call: Any) -> tuple[grpc.StatusCode, str, float]:
    """Status, reason and seconds until the next try of a call that is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    metadata: Any = dict(refused.value.trailing_metadata() or ())
    status = Status.FromString(metadata["grpc-status-details-bin"])
    info, retry = ErrorInfo(), RetryInfo()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(retry)
    return refused.value.code(), info.reason, retry.retry_delay.ToTimedelta().total_seconds()


REFUSED = (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED", 1.0)


async def test_a_call_below_the_limit_of_bytes_is_read(
    servicer: Holding, stub: DispatcherServiceStub
):
    first = stub.Submit(request_of(LIMIT - 1))
    await servicer.entered.acquire()

    second = stub.Submit(request_of(1_000))
    await servicer.entered.acquire()
    servicer.let.set()

    assert len([await first, await second]) == 2


async def test_a_call_at_the_limit_of_bytes_is_refused(
    servicer: Holding, stub: DispatcherServiceStub
):
    first = stub.Submit(request_of(LIMIT))
    await servicer.entered.acquire()

    assert await reasons(stub.Submit(request_of(1_000))) == REFUSED

    servicer.let.set()
    await first
    assert (await stub.Submit(request_of(LIMIT))).task_id


async def test_a_refused_request_is_never_in_memory(servicer: Holding, stub: DispatcherServiceStub):
    """64 times the limit is offered; what is let in is the limit and those that read beside it."""
    calls = [stub.Submit(request_of(LIMIT)) for _ in range(64)]
    async with asyncio.timeout(10):
        while sum(call.done() for call in calls) + servicer.entered._value < len(calls):
            await before_the_next_look()
    servicer.let.set()
    codes = Counter([await call.code() for call in calls])

    assert codes[grpc.StatusCode.RESOURCE_EXHAUSTED] >= 64 - 33
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert servicer.bytes_most <= LIMIT * 33


async def test_a_burst_at_the_limit_of_calls_is_answered(
    servicer: Holding, stub: DispatcherServiceStub, limits: CallLimits
):
    servicer.let.set()

    calls = [stub.Submit(api.SubmitRequest()) for _ in range(BURST)]
    codes = Counter([await call.code() for call in calls])

    refused = codes.pop(grpc.StatusCode.RESOURCE_EXHAUSTED, 0)  # they waited for longer than 50 ms
    assert codes == {grpc.StatusCode.OK: BURST - refused}


@pytest.mark.parametrize("limits", [CallLimits(calls=FEW)])
async def test_one_call_too_many_is_refused(servicer: Holding, stub: DispatcherServiceStub):
    calls = [stub.Submit(api.SubmitRequest()) for _ in range(FEW)]
    for _ in range(FEW):
        await servicer.entered.acquire()

    assert await reasons(stub.Submit(api.SubmitRequest())) == REFUSED

    servicer.let.set()
    assert {await call.code() for call in calls} == {grpc.StatusCode.OK}


async def test_watches_and_waits_of_one_host_are_limited(
    servicer: Holding, stub: DispatcherServiceStub
):
    watch: Any = stub.WatchTask(api.WatchTaskRequest())
    await watch.read()
    wait = stub.WaitTask(api.WaitTaskRequest())
    await servicer.entered.acquire()

    assert await reasons(stub.WaitTask(api.WaitTaskRequest())) == REFUSED
    assert await reasons(stub.WatchTask(api.WatchTaskRequest()).read()) == REFUSED

    servicer.let.set()
    assert (await wait).timed_out
    assert await watch.code() is grpc.StatusCode.OK
    assert (await stub.WaitTask(api.WaitTaskRequest())).timed_out


async def test_a_long_filter_is_refused(stub: DispatcherServiceStub):
    request = api.WatchTasksRequest(states=["s" * 140_000])

    code, reason, _ = await reasons(stub.WatchTasks(request).read())

    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PAYLOAD_TOO_LARGE")


async def test_a_long_reason_is_refused(stub: DispatcherServiceStub):
    request = api.CancelTaskRequest(reason="r" * 140_000)

    code, reason, _ = await reasons(stub.CancelTask(request))

    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PAYLOAD_TOO_LARGE")


async def test_a_room_full_of_submits_keeps_nobody_from_ending_them(
    servicer: Holding, stub: DispatcherServiceStub
):
    first = stub.Submit(request_of(LIMIT))
    await servicer.entered.acquire()
    assert await reasons(stub.SubmitBatch(api.SubmitBatchRequest())) == REFUSED

    assert await stub.CancelTask(api.CancelTaskRequest()).code() is grpc.StatusCode.OK
    large = api.DecideReviewRequest(feedback="f" * 140_000)
    assert await stub.DecideReview(large).code() is grpc.StatusCode.OK
    servicer.let.set()
    await first


def can_hold(message: Descriptor, seen: frozenset[str] = frozenset()) -> bool:
    """Whether a message has a payload, at any depth."""
    if message.full_name in seen:
        return False
    inner = [field.message_type for field in message.fields if field.message_type is not None]
    return message.full_name == "stepstream.v1.Payload" or any(
        can_hold(one, seen | {message.full_name}) for one in inner
    )


def test_every_method_whose_request_has_a_payload_is_known():
    services = [
        service
        for module in (api, operator_service_pb2, worker_service_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
    ]
    methods = [method for service in services for method in service.methods]

    found = {method.name for method in methods if can_hold(method.input_type)} - {"Work"}

    assert found == METHODS_WITH_PAYLOAD
    assert {"Submit", "CancelTask", "Repair"} <= {method.name for method in methods}


async def test_a_call_without_a_request_is_refused(channel: grpc.aio.Channel):
    call: Any = channel.stream_unary("/stepstream.v1.DispatcherService/Submit")()
    await call.done_writing()

    code, reason, _ = await reasons(call)

    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_TASK")


@pytest.mark.parametrize("method", ["Submit", "WaitTask"])
async def test_bytes_that_are_no_message_are_the_callers_fault(
    channel: grpc.aio.Channel, method: str
):
    with capture_logs() as logs:
        call: Any = channel.unary_unary(f"/stepstream.v1.DispatcherService/{method}")(b"\xff\xff")
        code, reason, _ = await reasons(call)

    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_TASK")
    assert logs == []


async def test_a_request_that_does_not_arrive_is_given_up(channel: grpc.aio.Channel):
    call: Any = channel.stream_unary("/stepstream.v1.DispatcherService/Submit")()
    await call.wait_for_connection()

    assert await reasons(call) == REFUSED


@pytest.mark.parametrize("limits", [CallLimits(wait_s=0.05, slow_s=60, read_s=60)])
async def test_a_host_that_sends_nothing_holds_up_no_other(
    servicer: Holding, channel: grpc.aio.Channel, other_host: DispatcherServiceStub
):
    servicer.let.set()
    calls = without_body(channel, READERS_MAX)
    await until_ended(calls, READERS_MAX - READERS_OF_HOST_MAX)

    assert (await other_host.Submit(api.SubmitRequest(pipeline="p"))).task_id == "p"
    assert sum(call.done() for call in calls) == READERS_MAX - READERS_OF_HOST_MAX


@pytest.mark.parametrize("limits", [CallLimits(slow_s=0.05, read_s=60)])
async def test_one_slow_request_too_many_of_a_host_is_refused(channel: grpc.aio.Channel):
    calls = without_body(channel, SLOW_OF_HOST_MAX + 1)
    await until_ended(calls, 1)

    (refused,) = [call for call in calls if call.done()]
    assert await reasons(refused) == REFUSED


SLOW_LIMITS = CallLimits(bytes_in_hand=LIMIT, wait_s=0.05, slow_s=0.05, read_s=60)


@pytest.mark.parametrize("limits", [SLOW_LIMITS])
async def test_slow_requests_count_until_they_end(
    servicer: Holding, channel: grpc.aio.Channel, stub: DispatcherServiceStub
):
    rest = stub.Submit(request_of(LIMIT - SLOW_OF_HOST_MAX * (LIMIT // SLOW_SHARES)))
    await servicer.entered.acquire()
    calls = without_body(channel, SLOW_OF_HOST_MAX + 1)
    await until_ended(calls, 1)

    assert await reasons(stub.Submit(request_of(1_000))) == REFUSED

    for call in calls:
        call.cancel()
    async with asyncio.timeout(10):
        while await stub.SubmitBatch(api.SubmitBatchRequest()).code() is not grpc.StatusCode.OK:
            await before_the_next_look()
    servicer.let.set()
    await rest


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:10.0.0.1:5000", "ipv4:10.0.0.1"),
        ("ipv6:%5B::1%5D:5000", "ipv6:%5B::1%5D"),
        ("unix:", "unix:"),
    ],
)
def test_host_is_the_peer_without_its_port(peer: str, host: str):
    assert host_of(peer) == host
