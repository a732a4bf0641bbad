"""Answers of the HTTP edge: JSON, and errors as application/problem+json (RFC 9457)."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from stepstream.errors import InternalError, StepstreamError

__all__ = [
    "EXCEPTION_HANDLERS",
    "HTTP_STATUS",
    "REASONS",
    "http_status",
    "json_response",
    "problem",
]

# By the name of the gRPC status code.
HTTP_STATUS: Final[Mapping[str, int]] = {
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "ALREADY_EXISTS": 409,
    "FAILED_PRECONDITION": 409,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
# Where HTTP has a code that says more than the one of gRPC.
_STATUS_BY_REASON: Final[Mapping[str, int]] = {"INVALID_TASK": 422, "PAYLOAD_TOO_LARGE": 413}
# Of refusals that only HTTP knows.
REASONS: Final[Mapping[int, str]] = {
    400: "MALFORMED_REQUEST",
    404: "NO_SUCH_ROUTE",
    405: "METHOD_NOT_ALLOWED",
    408: "REQUEST_TOO_SLOW",
    413: "BODY_TOO_LARGE",
    414: "QUERY_TOO_LONG",
    415: "UNSUPPORTED_MEDIA_TYPE",
    431: "HEADERS_TOO_LARGE",
    503: "TOO_MANY_CONNECTIONS",
}
_BUSY: Final = frozenset({429, 503})  # answers that always say when to come again
_RETRY_AFTER_S: Final = 1.0  # where nobody knows better

_HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}

log = structlog.get_logger()


def http_status(error: type[StepstreamError]) -> int:
    """Return the status of an error; a path or query that can't be read is 400 nevertheless."""
    return _STATUS_BY_REASON.get(error.reason) or HTTP_STATUS[error.status]


def json_response(
    body: object,
    *,
    status: int = 200,
    media_type: str = "application/json",
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return `body` as JSON with the headers that every answer has."""
    return Response(
        msgspec.json.encode(body),
        status_code=status,
        media_type=media_type,
        headers={**(headers or {}), **_HEADERS},
    )


def problem(
    status: int,
    reason: str,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    retry_after_s: float | None = None,
    **members: object,
) -> Response:
    """Return a problem; further members stand behind those that every one has.

    Args:
        retry_after_s: Stands in the header in whole seconds, and as it is in the body.
    """
    body: dict[str, Any] = {
        "type": f"urn:stepstream:problem:{reason}",
        "title": reason.replace("_", " ").capitalize(),
        "status": status,
        "detail": detail,
        "reason": reason,
        **members,
    }
    sent = dict(headers or {})
    if status in _BUSY and retry_after_s is None:
        retry_after_s = _RETRY_AFTER_S
    if retry_after_s is not None:
        body["retryAfter"] = retry_after_s
        sent["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
    return json_response(body, status=status, media_type="application/problem+json", headers=sent)


async def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = error.status_code
    reason = REASONS.get(status) or HTTPStatus(status).name
    return problem(status, reason, error.detail, headers=error.headers)


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, StepstreamError)
    parameters: Mapping[str, str] = getattr(request.state, "parameters", {})
    members: dict[str, Any] = {"code": error.status}
    status = http_status(type(error))
    if error.field:
        members["field"] = parameters.get(error.field) or _member_path(error.field)
    if error.reason == "INVALID_TASK" and (not error.field or error.field in parameters):
        status = HTTP_STATUS[error.status]
    return problem(
        status, error.reason, error.message, retry_after_s=error.retry_after_s, **members
    )


def _member_path(field: str) -> str:
    """The path of a field as JSON spells it; what a payload has inside is the caller's own."""
    ours, dot, theirs = field.partition(".json.")
    first, *others = ours.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in others) + dot + theirs


async def _gone(_request: Request, _error: Exception) -> Response:
    """The caller left while its body was read: nobody hears the answer."""
    return Response(status_code=400)


async def _internal(request: Request, error: Exception) -> Response:
    incident = uuid.uuid4().hex[:12]
    log.error("http.failed", path=request.url.path, incident=incident, exc_info=error)
    return problem(
        HTTP_STATUS[InternalError.status],
        InternalError.reason,
        f"internal error, incident {incident}",
        code=InternalError.status,
        incident=incident,
    )


EXCEPTION_HANDLERS: Final = {
    ClientDisconnect: _gone,
    HTTPException: _http_error,
    StepstreamError: _refusal,
    Exception: _internal,
}
