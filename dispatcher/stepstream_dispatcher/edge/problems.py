"""Answers of the HTTP edge: JSON, and errors as application/problem+json (RFC 9457)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import msgspec
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from stepstream.errors import InternalError, StepstreamError

__all__ = [
    "EXCEPTION_HANDLERS",
    "HTTP_STATUS",
    "json_response",
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

_HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}

log = structlog.get_logger()


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


def _problem(
    status: int, detail: str, *, headers: Mapping[str, str] | None = None, **members: object
) -> Response:
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        **members,
    }
    return json_response(
        body, status=status, media_type="application/problem+json", headers=headers
    )


async def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _problem(error.status_code, error.detail, headers=error.headers)


async def _refusal(_request: Request, error: Exception) -> Response:
    assert isinstance(error, StepstreamError)
    members: dict[str, object] = {"code": error.status, "reason": error.reason}
    if error.field:
        members["field"] = error.field
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    return _problem(HTTP_STATUS[error.status], error.message, headers=headers, **members)


async def _internal(request: Request, error: Exception) -> Response:
    incident = uuid.uuid4().hex[:12]
    log.error("http.failed", path=request.url.path, incident=incident, exc_info=error)
    return _problem(
        HTTP_STATUS[InternalError.status],
        f"internal error, incident {incident}",
        code=InternalError.status,
        reason=InternalError.reason,
        incident=incident,
    )


EXCEPTION_HANDLERS: Final = {
    HTTPException: _http_error,
    StepstreamError: _refusal,
    Exception: _internal,
}
