"""The task API: from a request to one call, and from its answer to a response."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stepstream.errors import InvalidTask
from stepstream_dispatcher.core.admission import REQUEST_ID
from stepstream_dispatcher.edge.bodies import Intake, IntakeLimits, announced_bytes, parsed
from stepstream_dispatcher.edge.openapi import openapi_document
from stepstream_dispatcher.edge.problems import json_response
from stepstream_dispatcher.edge.queries import read_query
from stepstream_dispatcher.edge.routes import OPERATIONS, Operation

__all__ = ["Calls", "Schemas", "api_routes"]

# By name: takes the request as JSON, the bytes that it came in and the trace context, gives the
# answer as JSON.
Calls = Mapping[
    str,
    Callable[[Mapping[str, Any], int, Sequence[tuple[str, str]]], Awaitable[dict[str, Any]]],
]
Schemas = Mapping[str, Mapping[str, Any]]

_KEY: Final = "Idempotency-Key"
_TRACE: Final = ("traceparent", "tracestate")


def api_routes(calls: Calls, schemas: Schemas, limits: IntakeLimits) -> list[Route]:
    """The routes of the task API and of its OpenAPI document."""
    intake = Intake(limits)
    by_path: dict[str, dict[str, Operation]] = defaultdict(dict)
    for operation in OPERATIONS:
        by_path[operation.path][operation.method] = operation
    document = openapi_document(schemas)

    async def get_document(_request: Request) -> Response:
        return json_response(document)

    routes = [
        Route(path, partial(_serve, operations, calls, intake), methods=list(operations))
        for path, operations in by_path.items()
    ]
    return [*routes, Route("/api/openapi.json", get_document)]


async def _serve(
    operations: Mapping[str, Operation], calls: Calls, intake: Intake, request: Request
) -> Response:
    operation = operations["GET" if request.method == "HEAD" else request.method]
    limit = _body_limit(operation, intake.limits)
    announced = announced_bytes(request)
    with intake.admitted(limit if announced is None else min(announced, limit)):
        fields = _parameters(operation, request)
        body = await intake.read(request, limit) if limit else b""
        joined = await _joined(operation, fields, body)
        answer = await calls[operation.call](joined, len(body), _trace(request))
    return _response(operation, answer)


def _body_limit(operation: Operation, limits: IntakeLimits) -> int:
    if operation.body == "none":
        return 0
    return limits.batch_bytes if operation.body == "batch" else limits.body_bytes


def _parameters(operation: Operation, request: Request) -> dict[str, Any]:
    """Read path, query and key; errors about them name them as the caller wrote them."""
    names = {parameter.field: parameter.name for parameter in operation.query}
    request.state.parameters = names
    fields: dict[str, Any] = dict(request.path_params)
    names |= {name: name for name in fields}
    try:
        fields |= read_query(request.scope["query_string"], operation.query)
    except InvalidTask as error:
        names[error.field] = error.field
        raise
    if operation.keyed and _KEY in request.headers:
        names["request_id"] = _KEY
        fields["request_id"] = _key(request.headers.getlist(_KEY))
    return fields


def _trace(request: Request) -> list[tuple[str, str]]:
    """The trace context, by the headers that gRPC has as metadata too."""
    return [(name, request.headers[name]) for name in _TRACE if name in request.headers]


def _key(values: list[str]) -> str:
    if len(values) != 1 or not REQUEST_ID.match(values[0]):
        words = f"{_KEY} must be 1 to 128 printable ASCII characters without spaces, once"
        raise InvalidTask(words, field="request_id")
    return values[0]


async def _joined(operation: Operation, fields: dict[str, Any], body: bytes) -> dict[str, Any]:
    """Put body and parameters together; what the path or a header says has no second place."""
    if operation.body == "none" or (operation.body == "optional" and not body):
        return fields
    members = await parsed(body)
    if not isinstance(members, dict):
        raise InvalidTask("the body must be an object")
    for field in fields:
        first, *others = field.split("_")
        spellings = {field, first + "".join(word.capitalize() for word in others)}
        if spellings & members.keys():
            raise InvalidTask(f"{field} stands beside the body and in it", field=field)
    return members | fields


def _response(operation: Operation, answer: dict[str, Any]) -> Response:
    if operation.keyed and not answer["duplicate"]:
        place = f"{operation.path}/{answer['taskId']}"
        return json_response(answer, status=201, headers={"Location": place})
    return json_response(answer[operation.unwrap] if operation.unwrap else answer)
