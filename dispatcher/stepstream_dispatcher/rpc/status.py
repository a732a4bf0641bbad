"""Errors become gRPC statuses: one interceptor around every method, of all four call shapes.

A servicer raises; it never aborts. StepstreamError goes out with its code and a google.rpc.Status
(ErrorInfo, BadRequest, RetryInfo) in `grpc-status-details-bin`. A real cancellation and gRPC's own
abort pass untouched. Everything else is our fault: INTERNAL with an incident id, the rest in the
log.

A peer that leaves cancels its handler. gRPC tells of it a moment later than a write may fail, with
an error of its own; that is a disconnect too, and nobody's fault.

A handler that raises CancelledError without having been cancelled would leave its caller without
an answer (grpc/grpc#29248); it is answered with UNAVAILABLE.
"""

from __future__ import annotations

import asyncio
import inspect
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from stepstream import errors
from stepstream.v1.dispatcher_service_pb2 import ItemError

__all__ = ["ERROR_DOMAIN", "StatusInterceptor", "item_error", "rich_status"]

ERROR_DOMAIN: Final = "stepstream"
_DETAILS_KEY: Final = "grpc-status-details-bin"
# Percent-encoded CJK text in grpc-message is nine bytes a character, and peers may refuse 8 KiB of
# trailers.
_MESSAGE_CHARACTERS_MAX: Final = 300

_Context = grpc.aio.ServicerContext[Any, Any]

log = structlog.get_logger()


def rich_status(error: errors.StepstreamError, *, incident: str = "") -> Status:
    """Return an error as google.rpc.Status.

    Args:
        error: What was raised.
        incident: Id under which the log has the cause; stands in the ErrorInfo's metadata.
    """
    info = ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN)
    if incident:
        info.metadata["incident"] = incident
    message = error.message[:_MESSAGE_CHARACTERS_MAX]
    details: list[Message] = [info]
    if error.field:
        violation = BadRequest.FieldViolation(field=error.field, description=message)
        details.append(BadRequest(field_violations=[violation]))
    if error.retry_after_s is not None:
        details.append(RetryInfo(retry_delay=_duration(error.retry_after_s)))
    code = grpc.StatusCode[error.status].value[0]
    return Status(code=code, message=message, details=[_packed(detail) for detail in details])


def item_error(error: errors.StepstreamError) -> ItemError:
    """Return why one item of a batch was refused: the same facts as an error status."""
    item = ItemError(
        code=error.status,
        reason=error.reason,
        message=error.message[:_MESSAGE_CHARACTERS_MAX],
        field=error.field,
    )
    if error.retry_after_s is not None:
        item.retry_after.CopyFrom(_duration(error.retry_after_s))
    return item


class StatusInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handler of every method, in the form that it was written in, at its first call."""

    def __init__(self) -> None:
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}  # by method

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the method's handler with its errors translated."""
        method = str(handler_call_details.method)
        if (known := self._wrapped.get(method)) is not None:
            return known
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return None  # gRPC answers UNIMPLEMENTED by itself
        shape = _shape(handler)
        translated = _wrapped(getattr(handler, shape), method)
        wrapped: grpc.RpcMethodHandler[Any, Any] = handler._replace(**{shape: translated})
        self._wrapped[method] = wrapped
        return wrapped


def _shape(handler: Any) -> str:
    request = "stream" if handler.request_streaming else "unary"
    response = "stream" if handler.response_streaming else "unary"
    return f"{request}_{response}"


def _wrapped(behavior: Callable[[Any, _Context], Any], method: str) -> Callable[..., Any]:
    """Wrap a coroutine function or an async generator function; gRPC tells them apart by kind."""
    if inspect.isasyncgenfunction(behavior):

        async def generate(request: Any, context: _Context) -> AsyncIterator[Any]:
            async with _translated(context, method):
                async for response in behavior(request, context):
                    yield response

        return generate

    async def call(request: Any, context: _Context) -> Any:
        async with _translated(context, method):
            return await behavior(request, context)

    return call


@asynccontextmanager
async def _translated(context: _Context, method: str) -> AsyncIterator[None]:
    try:
        yield
    except grpc.aio.AbortError:
        raise
    except asyncio.CancelledError:
        if _cancelled_from_outside():
            raise
        await _abort(context, rich_status(errors.Unavailable("the call was given up; try again")))
    except Exception as error:  # noqa: BLE001 - the last resort: no error leaves without a status
        await _abort(context, _status(error, method))


def _cancelled_from_outside() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _peer_is_gone(error: BaseException) -> bool:
    """Whether nothing has gone wrong but a read or write of a call that is over."""
    if isinstance(error, BaseExceptionGroup):
        return all(_peer_is_gone(inner) for inner in error.exceptions)
    return isinstance(error, grpc.aio.InternalError)


def _status(error: Exception, method: str) -> Status:
    refusal = _refusal(error)
    if refusal is not None and not isinstance(refusal, errors.InternalError):
        return rich_status(refusal)
    if _peer_is_gone(error):
        log.debug("rpc.disconnected", method=method)
        return rich_status(errors.Unavailable("the stream broke; try again"))
    incident = uuid.uuid4().hex[:12]
    log.error("rpc.failed", method=method, incident=incident, exc_info=error)
    return rich_status(
        errors.InternalError(f"internal error, incident {incident}"), incident=incident
    )


def _refusal(error: BaseException) -> errors.StepstreamError | None:
    """Return the domain error, looking through the group of a TaskGroup that holds nothing else."""
    if isinstance(error, errors.StepstreamError):
        return error
    if isinstance(error, BaseExceptionGroup):
        found = [_refusal(inner) for inner in error.exceptions]
        return None if None in found else found[0]
    return None


async def _abort(context: _Context, status: Status) -> None:
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    trailers = ((_DETAILS_KEY, status.SerializeToString()),)
    await context.abort(code, status.message, trailers)


def _packed(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
