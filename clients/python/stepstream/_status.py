"""From the status of a gRPC call to the error that a caller catches.

The dispatcher sends a google.rpc.Status beside the code: an ErrorInfo whose reason names the class,
a BadRequest that names the field, and a RetryInfo.
A status without them comes from gRPC itself, and only its code counts.
"""

from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from stepstream import errors
from stepstream._convert import duration_to_seconds
from stepstream.v1.dispatcher_service_pb2 import ItemError

__all__ = ["DOMAIN", "error_from_item", "error_from_rpc"]

DOMAIN = "stepstream"
_DETAILS_KEY = "grpc-status-details-bin"

_ERRORS_BY_CODE: dict[grpc.StatusCode, type[errors.StepstreamError]] = {
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    # A server that is overrun resets calls before it has looked at them.
    grpc.StatusCode.CANCELLED: errors.Unavailable,
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidTask,
    grpc.StatusCode.NOT_FOUND: errors.TaskNotFound,
    grpc.StatusCode.UNIMPLEMENTED: errors.NotServed,
    # Without details this is gRPC refusing the size of a message.
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.PayloadTooLarge,
}


def error_from_rpc(error: grpc.RpcError, address: str) -> errors.StepstreamError | TimeoutError:
    """Makes the error to raise for a call that ended badly.

    Args:
        error: What grpc or grpc.aio raised; it has a code, details and trailing metadata.
        address: Where the call went, for the message when nobody listens there.
    """
    call: Any = error
    code: grpc.StatusCode = call.code()
    words: str = call.details() or code.name
    for key, value in call.trailing_metadata() or ():
        if key == _DETAILS_KEY and (found := _from_details(value)):
            return found
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TimeoutError(f"no answer from {address} in time")
    if code is grpc.StatusCode.UNAVAILABLE:
        words = _unavailable_words(words, address)
    kind = _ERRORS_BY_CODE.get(code, errors.InternalError)
    return kind(words if kind is not errors.InternalError else f"{code.name}: {words}")


def error_from_item(item: ItemError) -> errors.StepstreamError:
    """Makes the error of one refused item of a batch."""
    kind = errors.ERRORS_BY_REASON.get(item.reason)
    if kind is None:
        code = getattr(grpc.StatusCode, item.code, grpc.StatusCode.INTERNAL)
        kind = _ERRORS_BY_CODE.get(code, errors.InternalError)
    delay_s = duration_to_seconds(item.retry_after) if item.HasField("retry_after") else None
    return kind(item.message, field=item.field, retry_after_s=delay_s)


def _from_details(value: str | bytes) -> errors.StepstreamError | None:
    """Reads the rich status; None when it is not one of ours."""
    try:
        status = Status.FromString(value.encode() if isinstance(value, str) else value)
    except DecodeError:
        return None
    info, field, delay_s = ErrorInfo(), "", None
    for detail in status.details:
        bad_request, retry = BadRequest(), RetryInfo()
        detail.Unpack(info)
        if detail.Unpack(bad_request) and bad_request.field_violations:
            field = bad_request.field_violations[0].field
        if detail.Unpack(retry):
            delay_s = duration_to_seconds(retry.retry_delay)
    if info.domain != DOMAIN or info.reason not in errors.ERRORS_BY_REASON:
        return None
    kind = errors.ERRORS_BY_REASON[info.reason]
    return kind(status.message, field=field, retry_after_s=delay_s)


def _unavailable_words(words: str, address: str) -> str:
    """What a person reads; gRPC's own words for a refused connection are three lines long."""
    if "failed to connect" in words.lower() or "resolution failed" in words.lower():
        return f"nobody listens at {address}"
    return f"the connection to {address} broke: {words.splitlines()[0]}"
