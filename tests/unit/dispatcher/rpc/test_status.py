"""Errors of handlers as a caller sees them, in every call shape, over a real server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from grpc_status import rpc_status
from structlog.testing import capture_logs

from stepstream import errors
from stepstream_dispatcher.rpc.status import StatusInterceptor, item_error, rich_status

SHAPES = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
FORMS = [*((shape, "coroutine") for shape in SHAPES), *((s, "generator") for s in SHAPES[1::2])]
Failure = Callable[[grpc.aio.ServicerContext], Awaitable[None]]


def handler_for(shape: str, form: str, fail: Failure) -> grpc.RpcMethodHandler:
    async def call(request: Any, context: grpc.aio.ServicerContext) -> bytes:
        await fail(context)
        return b"unused"

    async def generate(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        yield b"first"
        await fail(context)

    behavior = generate if form == "generator" else call
    return getattr(grpc, f"{shape}_rpc_method_handler")(behavior)


@asynccontextmanager
async def serving(handler: grpc.RpcMethodHandler) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server(interceptors=[StatusInterceptor()])
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test.Service", {"Method": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None)


async def outcome(channel: grpc.aio.Channel, shape: str) -> grpc.aio.AioRpcError:
    """Call the method to its end, which has to be an error."""
    method = getattr(channel, shape)("/test.Service/Method")
    call = method(iter([b""]) if shape.startswith("stream") else b"", timeout=10)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await (drained(call) if shape.endswith("stream") else call)
    return failed.value


async def drained(call: AsyncIterator[bytes]) -> list[bytes]:
    return [response async for response in call]


async def failing(fail: Failure, shape: str, form: str = "coroutine") -> grpc.aio.AioRpcError:
    async with serving(handler_for(shape, form, fail)) as channel:
        return await outcome(channel, shape)


def details(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    status = rpc_status.from_call(error)
    assert status is not None
    found = {}
    for packed in status.details:
        for kind in (ErrorInfo, BadRequest, RetryInfo):
            if packed.Is(kind.DESCRIPTOR):
                message = kind()
                packed.Unpack(message)
                found[kind.__name__] = message
    return found


@pytest.mark.parametrize(("shape", "form"), FORMS)
async def test_domain_error_keeps_its_code_and_facts(shape: str, form: str):
    async def fail(context: grpc.aio.ServicerContext) -> None:
        raise errors.QueueFull("queue default is full", field="pipeline", retry_after_s=1.5)

    error = await failing(fail, shape, form)

    found = details(error)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.details() == "queue default is full"
    assert (found["ErrorInfo"].domain, found["ErrorInfo"].reason) == ("stepstream", "QUEUE_FULL")
    assert found["BadRequest"].field_violations[0].field == "pipeline"
    assert found["RetryInfo"].retry_delay.ToMilliseconds() == 1500


@pytest.mark.parametrize(("shape", "form"), FORMS)
async def test_any_other_error_is_internal_and_tells_an_incident_only(shape: str, form: str):
    async def fail(context: grpc.aio.ServicerContext) -> None:
        raise ValueError("secret words")

    with capture_logs() as logs:
        error = await failing(fail, shape, form)

    info = details(error)["ErrorInfo"]
    assert error.code() is grpc.StatusCode.INTERNAL
    assert info.reason == "INTERNAL"
    assert error.details() == f"internal error, incident {info.metadata['incident']}"
    assert "secret" not in repr(error.trailing_metadata())
    (line,) = logs
    assert line["incident"] == info.metadata["incident"]
    assert line["method"] == "/test.Service/Method"
    assert isinstance(line["exc_info"], ValueError)


@pytest.mark.parametrize(("shape", "form"), FORMS)
async def test_cancellation_that_leaks_is_answered(shape: str, form: str):
    async def fail(context: grpc.aio.ServicerContext) -> None:
        raise asyncio.CancelledError

    error = await failing(fail, shape, form)

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert details(error)["ErrorInfo"].reason == "UNAVAILABLE"


@pytest.mark.parametrize(("shape", "form"), FORMS)
async def test_cancellation_by_the_caller_reaches_the_handler(shape: str, form: str):
    began, ended = asyncio.Event(), asyncio.Event()

    async def wait(context: grpc.aio.ServicerContext) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with serving(handler_for(shape, form, wait)) as channel, asyncio.timeout(10):
        method = getattr(channel, shape)("/test.Service/Method")
        call = method(iter([b""]) if shape.startswith("stream") else b"")
        with capture_logs() as logs:
            await began.wait()
            call.cancel()
            await ended.wait()

    assert logs == []


@pytest.mark.parametrize(("shape", "form"), FORMS)
async def test_abort_of_a_library_passes(shape: str, form: str):
    async def fail(context: grpc.aio.ServicerContext) -> None:
        await context.abort(grpc.StatusCode.NOT_FOUND, "theirs")

    with capture_logs() as logs:
        error = await failing(fail, shape, form)

    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "theirs")
    assert logs == []


async def test_domain_error_in_a_task_group_is_found():
    async def fail(context: grpc.aio.ServicerContext) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(refuse())

    async def refuse() -> None:
        raise errors.RemoteProtocolError("second register")

    error = await failing(fail, "stream_stream")

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(error)["ErrorInfo"].reason == "PROTOCOL_ERROR"


async def test_group_with_another_error_is_internal():
    async def fail(context: grpc.aio.ServicerContext) -> None:
        raise ExceptionGroup("", [errors.TaskNotFound("a"), ValueError("b")])

    error = await failing(fail, "unary_unary")

    assert error.code() is grpc.StatusCode.INTERNAL


async def test_writes_before_the_error_arrive():
    async def call(request: Any, context: grpc.aio.ServicerContext) -> None:
        await context.write(b"one")
        raise errors.Draining("leaving")

    handler = grpc.unary_stream_rpc_method_handler(call)
    async with serving(handler) as channel:
        stream = channel.unary_stream("/test.Service/Method")(b"")
        received = await stream.read()
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stream.read()

    assert received == b"one"
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_success_passes():
    async def call(request: Any, context: grpc.aio.ServicerContext) -> bytes:
        return request + b"!"

    async with serving(grpc.unary_unary_rpc_method_handler(call)) as channel:
        assert await channel.unary_unary("/test.Service/Method")(b"hi") == b"hi!"


async def test_unknown_method_is_unimplemented():
    async def call(request: Any, context: grpc.aio.ServicerContext) -> bytes:
        return b""

    async with serving(grpc.unary_unary_rpc_method_handler(call)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await channel.unary_unary("/test.Service/Other")(b"")

    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_long_message_of_wide_characters_arrives():
    async def fail(context: grpc.aio.ServicerContext) -> None:
        raise errors.InvalidTask("訳" * 100_000, field="input.json")

    error = await failing(fail, "unary_unary")

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "訳" * 300


def test_error_without_field_or_delay_has_neither():
    assert len(rich_status(errors.TaskNotFound("t1")).details) == 1


def test_item_error_has_the_same_facts():
    item = item_error(errors.PayloadTooLarge("too large", field="input.text", retry_after_s=2))

    assert (item.code, item.reason) == ("INVALID_ARGUMENT", "PAYLOAD_TOO_LARGE")
    assert (item.message, item.field) == ("too large", "input.text")
    assert item.retry_after.ToSeconds() == 2
    assert not item_error(errors.TaskNotFound("t1")).HasField("retry_after")


async def test_a_peer_that_left_before_a_write_is_no_fault():
    """gRPC cancels the handler; one that is about to write may see the write fail instead."""
    began, ended = asyncio.Event(), asyncio.Event()

    async def answer_too_late(_: Any, context: grpc.aio.ServicerContext) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            asyncio.current_task().uncancel()  # type: ignore[union-attr]
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(context.write(b"too late"))
        finally:
            ended.set()

    with capture_logs() as logs:
        async with serving(grpc.stream_stream_rpc_method_handler(answer_too_late)) as channel:
            call = channel.stream_stream("/test.Service/Method")()
            await call.write(b"")
            await began.wait()
            call.cancel()
            await asyncio.wait_for(ended.wait(), timeout=10)

    assert [line["event"] for line in logs] == ["rpc.disconnected"]
