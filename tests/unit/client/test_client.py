"""The asynchronous client against a real grpc.aio server."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import grpc.aio
import pytest

from stepstream import AsyncClient, SubmitItem, errors
from stepstream.types import Submitted, Task, TaskEvent
from stepstream.v1.dispatcher_service_pb2_grpc import add_DispatcherServiceServicer_to_server
from tests.unit.client.dispatcher_stub import (
    HOLD,
    SERVER_OPTIONS,
    BareStatus,
    StubDispatcher,
    frame,
    make_event,
    make_task,
    serving,
    snapshot,
)

_BROKEN = BareStatus(code=grpc.StatusCode.UNAVAILABLE)


@pytest.fixture
def stub() -> StubDispatcher:
    return StubDispatcher()


@pytest.fixture
def address(stub: StubDispatcher) -> Iterator[str]:
    with serving(stub) as address:
        yield address


@pytest.fixture
async def client(address: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(address, timeout_s=10.0) as client:
        yield client


async def test_submit_sends_every_argument(client, stub):
    submitted = await client.submit(
        "translation",
        {"text": "x", "n": 1},
        request_id="r1",
        delay_s=1.5,
        deadline_s=90.5,
        labels={"a": "b"},
        require_durable=True,
        max_retries=0,
        initial_delay_s=0.25,
        timeout_s=9,
    )

    assert submitted == Submitted(
        task_id="t1",
        execution_mode="PARALLEL",
        durability="AOF_1S",
        duplicate=False,
        state="pending",
    )
    request = stub.requests[0]
    assert (request.pipeline, request.request_id) == ("translation", "r1")
    assert request.input.json["text"] == "x"
    assert (request.delay.seconds, request.delay.nanos) == (1, 500_000_000)
    assert (request.deadline.seconds, request.deadline.nanos) == (90, 500_000_000)
    assert dict(request.labels) == {"a": "b"}
    assert request.require_durable
    assert (request.retry.HasField("max_retries"), request.retry.max_retries) == (True, 0)
    assert request.retry.initial_delay.nanos == 250_000_000
    assert request.retry.timeout.seconds == 9


async def test_submit_without_options_sets_only_a_random_request_id(client, stub):
    await client.submit("p", "text")
    await client.submit("p", "text")

    first, second = stub.requests
    assert len(first.request_id) == 32
    assert first.request_id != second.request_id
    assert not first.HasField("retry")
    assert not first.HasField("delay")
    assert not first.HasField("deadline")


async def test_a_repeated_submit_keeps_its_request_id(client, stub):
    stub.refusals.append(errors.StoreUnavailable("redis is away"))

    submitted = await client.submit("p", None)

    first, second = stub.requests
    assert submitted.task_id == "t1"
    assert first.request_id == second.request_id


async def test_submit_batch_answers_item_by_item(client):
    items = [SubmitItem(pipeline="p", input="x", request_id="r"), SubmitItem(pipeline="", input="")]

    accepted, refused = await client.submit_batch(items)

    assert isinstance(accepted, Submitted)
    assert accepted.task_id == "r"
    assert isinstance(refused, errors.QueueFull)
    assert (str(refused), refused.retry_after_s) == ("queue full", 2.0)


async def test_a_bad_item_of_a_batch_is_named_by_its_index(client):
    items = [SubmitItem(pipeline="p", input="x"), SubmitItem(pipeline="p", input={"a": 2**60})]

    with pytest.raises(errors.InvalidTask) as caught:
        await client.submit_batch(items)

    assert caught.value.field == "requests[1].input.json.a"


async def test_reads_hand_on_what_the_dispatcher_says(client, stub):
    stub.tasks["t1"] = make_task(state="done", labels={"k": "v"})
    stub.stats.workers["worker-0"].processed = 5

    task = await client.get("t1", payloads=False)
    page = await client.list(state="done")
    stats = await client.stats()

    assert (task.state, task.labels) == ("done", {"k": "v"})
    assert not stub.requests[0].include_payloads
    assert page.tasks == [task]
    assert stats.workers["worker-0"].processed == 5


async def test_wait_asks_again_until_the_task_has_ended(client, stub):
    stub.tasks["t1"] = make_task(state="done")
    stub.wait_timeouts = 2

    task = await client.wait("t1", timeout_s=5.0, through_review=True)

    assert task.finished
    assert len(stub.requests) == 3
    assert stub.requests[0].through_review


async def test_wait_gives_up_at_its_timeout(client, stub):
    stub.tasks["t1"] = make_task(state="translating")
    stub.wait_timeouts = 1_000_000

    with pytest.raises(TimeoutError, match=r"task t1 is translating after 0\.05 s"):
        await client.wait("t1", timeout_s=0.05)


async def test_cancel_and_review_answer_with_the_task(client, stub):
    stub.tasks["t1"] = make_task()

    cancelled = await client.cancel("t1", reason="changed my mind")
    reviewed = await client.review(
        "t1", "edited", reviewer="ada", output={"text": "better"}, version=3
    )

    assert cancelled.state == "cancelled"
    assert reviewed.reviewer == "ada"
    assert stub.requests[0].reason == "changed my mind"
    assert (stub.requests[1].output.json["text"], stub.requests[1].version) == ("better", 3)


async def test_an_unknown_decision_is_refused_before_the_call(client, stub):
    with pytest.raises(errors.InvalidTask, match="approved, edited, rejected"):
        await client.review("t1", "maybe", reviewer="ada")

    assert stub.requests == []


@pytest.mark.parametrize(
    "kind",
    [kind for kind in errors.ERRORS_BY_REASON.values() if not issubclass(kind, errors.Unavailable)],
)
async def test_each_error_arrives_as_its_class(address, stub, kind):
    stub.refusals.append(kind("what and why", field="input", retry_after_s=1.5))

    async with AsyncClient(address, retry_s=0) as client:
        with pytest.raises(errors.StepstreamError) as caught:
            await client.get("t1")

    assert type(caught.value) is kind
    assert str(caught.value) == "what and why"
    assert (caught.value.field, caught.value.retry_after_s) == ("input", 1.5)


@pytest.mark.parametrize("kind", [errors.Unavailable, errors.Draining, errors.StoreUnavailable])
async def test_unavailability_outlasts_neither_timeout_nor_its_reason(address, stub, kind):
    stub.refusals.extend([kind("away")] * 50)

    async with AsyncClient(address, timeout_s=0.5) as client:
        with pytest.raises(kind, match="away"):
            await client.get("t1")

    assert 2 <= len(stub.requests) <= 5


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        (grpc.StatusCode.DEADLINE_EXCEEDED, TimeoutError, "in time"),
        (grpc.StatusCode.NOT_FOUND, errors.TaskNotFound, "words"),
        (grpc.StatusCode.UNIMPLEMENTED, errors.NotServed, "words"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.PayloadTooLarge, "words"),
        (grpc.StatusCode.DATA_LOSS, errors.InternalError, "DATA_LOSS: words"),
        (grpc.StatusCode.UNAVAILABLE, errors.Unavailable, "broke: words"),
        (grpc.StatusCode.CANCELLED, errors.Unavailable, "words"),
    ],
)
async def test_a_bare_status_becomes_an_error_by_its_code(address, stub, code, kind, message):
    stub.refusals.append(BareStatus(code=code, details="words"))

    async with AsyncClient(address, retry_s=0.0) as client:
        with pytest.raises(kind, match=message):
            await client.get("t1")


async def test_nobody_listening_is_said_plainly(unused_tcp_port):
    async with AsyncClient(f"127.0.0.1:{unused_tcp_port}", retry_s=0.0) as client:
        with pytest.raises(errors.Unavailable) as caught:
            await client.stats()

    assert str(caught.value) == f"nobody listens at 127.0.0.1:{unused_tcp_port}"


async def test_another_address_is_tried(address, stub, unused_tcp_port):
    stub.tasks["t1"] = make_task()

    async with AsyncClient([f"127.0.0.1:{unused_tcp_port}", address]) as client:
        task = await client.get("t1")

    assert task.task_id == "t1"


async def test_a_text_may_hold_several_addresses(address, stub, unused_tcp_port):
    stub.tasks["t1"] = make_task()

    async with AsyncClient(f"127.0.0.1:{unused_tcp_port}, {address}") as client:
        assert (await client.get("t1")).task_id == "t1"


@pytest.mark.parametrize("kind", [errors.QueueFull, errors.RateLimited, errors.TaskContended])
async def test_overload_is_waited_for(client, stub, kind):
    stub.refusals.append(kind("later", retry_after_s=0.05))

    submitted = await client.submit("p", None)

    assert submitted.task_id == "t1"
    assert len({request.request_id for request in stub.requests}) == 1


async def test_overload_beyond_the_timeout_is_told(client, stub):
    stub.refusals.append(errors.QueueFull("full", retry_after_s=20))

    with pytest.raises(errors.QueueFull) as caught:
        await client.submit("p", None)

    assert caught.value.retry_after_s == 20


@pytest.fixture
def black_hole() -> Iterator[str]:
    """An address where connections are made by the kernel, and nobody ever speaks."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


async def test_a_black_hole_is_passed_over(address, stub, black_hole):
    stub.tasks["t1"] = make_task()
    began_mono = time.monotonic()

    async with AsyncClient([black_hole, address]) as client:
        await client.get("t1")
        passed_mono = time.monotonic()
        await client.get("t1")

    assert passed_mono - began_mono < 2.0
    assert time.monotonic() - passed_mono < 0.5


async def test_a_black_hole_holds_no_call_beyond_its_timeout(black_hole):
    began_mono = time.monotonic()

    async with AsyncClient(black_hole) as client:
        with pytest.raises((errors.Unavailable, TimeoutError)):
            await client.get("t1", call_timeout_s=0.3)

    assert time.monotonic() - began_mono < 1.0


async def test_a_submit_that_is_not_answered_says_how_to_join_it(client, stub):
    stub.speaks.clear()

    with pytest.raises(errors.OutcomeUnknown, match="may have been accepted") as caught:
        await client.submit("p", "text", call_timeout_s=0.2)

    stub.speaks.set()
    joined = await client.submit("p", "text", request_id=caught.value.request_id)
    assert len({request.request_id for request in stub.requests}) == 1
    assert repr(caught.value.request_id) in str(caught.value)
    assert joined.task_id == "t1"


async def test_a_submit_that_broke_says_how_to_join_it(address, stub):
    stub.refusals.append(_BROKEN)

    async with AsyncClient(address, retry_s=0) as client:
        with pytest.raises(errors.Unavailable) as caught:
            await client.submit("p", "text", request_id="r1")

    assert "request_id='r1'" in caught.value.__notes__[0]


async def test_an_ipv6_address_is_called(stub):
    threads = ThreadPoolExecutor(1)
    server = grpc.aio.server(migration_thread_pool=threads, options=SERVER_OPTIONS)
    add_DispatcherServiceServicer_to_server(stub, server)
    try:
        port = server.add_insecure_port("[::1]:0")
    except RuntimeError:
        pytest.skip("no IPv6 here")
    await server.start()

    async with AsyncClient(f"[::1]:{port}") as client:
        assert (await client.stats()).is_running

    await server.stop(None)
    await asyncio.to_thread(threads.shutdown)


async def _held(client: AsyncClient, kind: str) -> None:
    if kind == "watch":
        await _collect(client)
    else:
        await client.get("t1")


@pytest.mark.parametrize("kind", ["watch", "call", "pause"])
async def test_closing_ends_what_is_under_way(stub, kind):
    stub.streams.append([HOLD])
    if kind == "pause":
        stub.refusals.append(errors.Draining("leaving", retry_after_s=30))
    elif kind == "call":
        stub.speaks.clear()

    with serving(stub) as address:
        client = AsyncClient(address, timeout_s=60)
        async with asyncio.timeout(4.0), asyncio.TaskGroup() as group:
            held = group.create_task(_refused(client, kind))
            await asyncio.to_thread(stub.called.wait, 4.0)
            await client.close()
        stub.speaks.set()

    assert held.result() in {"this client is closed", "leaving"}


async def _refused(client: AsyncClient, kind: str) -> str:
    with pytest.raises(errors.Unavailable) as caught:
        await _held(client, kind)
    return str(caught.value)


async def test_a_closed_client_says_so(address):
    client = AsyncClient(address)
    await client.close()

    with pytest.raises(errors.Unavailable, match="this client is closed"):
        await client.stats()


async def test_cancelling_a_call_is_still_a_cancellation(address, stub):
    stub.speaks.clear()
    async with AsyncClient(address) as client, asyncio.TaskGroup() as group:
        held = group.create_task(client.get("t1"))
        await asyncio.to_thread(stub.called.wait, 4.0)
        held.cancel()
    stub.speaks.set()

    assert held.cancelled()


async def _collect(client: AsyncClient, **options: object) -> list[object]:
    return [item async for item in client.watch("t1", **options)]


async def test_watch_goes_on_after_a_break_without_loss_or_repetition(client, stub):
    first = make_task(version=1)
    stub.streams.append([snapshot(first), frame(make_event(2, "LEASED")), _BROKEN])
    stub.streams.append([_BROKEN])
    stub.streams.append(
        [snapshot(first), frame(make_event(3, "COMPLETED")), errors.Draining("leaving")]
    )
    stub.streams.append(
        [snapshot(first), frame(make_event(3, "COMPLETED")), frame(make_event(4, "DONE"))]
    )

    task, *events = await _collect(client)

    assert isinstance(task, Task)
    assert [event.sequence for event in events] == [2, 3, 4]
    assert [request.after_sequence for request in stub.requests] == [0, 2, 2, 3]
    assert not stub.requests[0].HasField("after_sequence")


async def test_watch_opens_again_after_an_early_orderly_end(client, stub):
    stub.streams.append([snapshot(make_task())])
    stub.streams.append([snapshot(make_task()), frame(make_event(2, "DONE"))])

    items = await _collect(client)

    assert len(items) == 2


async def test_watch_of_an_unknown_task_raises(client, stub):
    stub.streams.append([errors.TaskNotFound("no task t1")])

    with pytest.raises(errors.TaskNotFound, match="no task t1"):
        await _collect(client)


async def test_watch_gives_up_when_nobody_answers(address, stub):
    stub.streams.extend([[_BROKEN]] * 50)

    async with AsyncClient(address, timeout_s=0.5) as client:
        with pytest.raises(errors.Unavailable):
            await _collect(client)


async def test_a_watch_that_is_left_closes_its_stream(stub):
    stub.streams.append([snapshot(make_task()), frame(make_event(2, "LEASED")), HOLD])

    with serving(stub) as address:
        async with AsyncClient(address) as client:
            watch = client.watch("t1", progress=True)
            items = [await anext(watch), await anext(watch)]
            await watch.aclose()
            left = await asyncio.to_thread(stub.left.wait, 4.0)

    assert left
    assert isinstance(items[1], TaskEvent)
    assert stub.requests[0].include_progress


@pytest.fixture
def unused_tcp_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
