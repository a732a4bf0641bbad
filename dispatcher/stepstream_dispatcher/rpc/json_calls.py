"""The calls in proto3 JSON: what the HTTP edge serves.

Each is the method that gRPC serves, handed a message that was read from JSON instead of from the
wire, so that both give the same answer. Errors leave as they were raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from google.protobuf.message import Message

from stepstream.errors import ERRORS_BY_REASON, InternalError, InvalidTask
from stepstream.v1 import dispatcher_service_pb2 as dispatcher_api
from stepstream.v1 import operator_service_pb2 as operator_api
from stepstream.v1 import task_pb2 as pb
from stepstream_dispatcher.engine.desk import Desk
from stepstream_dispatcher.engine.watch import GapFrame
from stepstream_dispatcher.rpc import _convert as convert
from stepstream_dispatcher.rpc.dispatcher_service import DispatcherService
from stepstream_dispatcher.rpc.operator_service import OperatorService
from stepstream_dispatcher.rpc.transcoding.reader import fill
from stepstream_dispatcher.rpc.transcoding.schema import schemas_of
from stepstream_dispatcher.rpc.transcoding.writer import written

__all__ = ["CALLS", "JsonCall", "json_calls", "json_schemas"]

Metadata = Sequence[tuple[str, str]]
JsonCall = Callable[[Mapping[str, Any], int, Metadata], Awaitable[dict[str, Any]]]

# Above this, JSON is converted in a thread: 1 MiB of small numbers takes a third of a second.
_INLINE_BYTES_MAX: Final = 65_536

_ID_SHOWN: Final = 64  # characters of an id that a message repeats

# By name of the method: the module of its messages.
CALLS: Final[Mapping[str, Any]] = {
    "Submit": dispatcher_api,
    "SubmitBatch": dispatcher_api,
    "GetTask": dispatcher_api,
    "ListTasks": dispatcher_api,
    "CancelTask": dispatcher_api,
    "DecideReview": dispatcher_api,
    "ExplainTask": dispatcher_api,
    "ListDeadLetters": operator_api,
    "UpdateInput": operator_api,
}


class _HttpContext:
    """What a method may ask of its call, when it came by HTTP."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = tuple(metadata)

    def time_remaining(self) -> float | None:
        """HTTP has no deadline."""
        return None

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """The headers that mean the same as metadata of gRPC."""
        return self._metadata


def json_calls(
    dispatcher: DispatcherService, operator: OperatorService, desk: Desk
) -> dict[str, JsonCall]:
    """The calls by name.

    Each takes the request, the bytes that it was read from, and what gRPC would have as metadata.
    """
    servicers = {dispatcher_api: dispatcher, operator_api: operator}
    calls: dict[str, JsonCall] = {
        name: partial(_call, getattr(servicers[module], name), getattr(module, f"{name}Request"))
        for name, module in CALLS.items()
    }
    calls["GetHistory"] = partial(_history, desk)
    redrive = partial(_redrive, dispatcher, operator)
    calls["Redrive"] = partial(_call, redrive, dispatcher_api.GetTaskRequest)
    return calls


def json_schemas() -> dict[str, dict[str, Any]]:
    """JSON Schemas of all requests and answers, by the name of the message."""
    messages = [
        getattr(module, name + end).DESCRIPTOR
        for name, module in CALLS.items()
        for end in ("Request", "Response")
    ]
    own = (pb.TaskEvent, dispatcher_api.Gap)
    return schemas_of(*messages, *(message.DESCRIPTOR for message in own))


async def _call(
    method: Callable[[Any, Any], Awaitable[Message]],
    kind: type[Message],
    body: Mapping[str, Any],
    size: int,
    metadata: Metadata,
) -> dict[str, Any]:
    request = kind()
    if size > _INLINE_BYTES_MAX:
        await asyncio.to_thread(fill, request, body)
    else:
        fill(request, body)
    answer = await method(request, _HttpContext(metadata))
    if answer.ByteSize() > _INLINE_BYTES_MAX:
        return await asyncio.to_thread(written, answer)
    return written(answer)


async def _redrive(
    dispatcher: DispatcherService,
    operator: OperatorService,
    request: dispatcher_api.GetTaskRequest,
    context: Any,
) -> dispatcher_api.GetTaskResponse:
    """Redrive one task; its own refusal is the call's, and the answer is the task.

    Raises:
        StepstreamError: What the result of the task says.
    """
    task_id = request.task_id
    answer = await operator.Redrive(operator_api.RedriveRequest(task_ids=[task_id]), context)
    (result,) = answer.results
    if not result.redriven:
        refusal = ERRORS_BY_REASON.get(result.reason, InternalError)
        field = "task_id" if refusal is InvalidTask else ""
        raise refusal(f"task {task_id[:_ID_SHOWN]!r} was not started anew", field=field)
    return await dispatcher.GetTask(request, context)


async def _history(
    desk: Desk, request: Mapping[str, Any], _size: int, _metadata: Metadata
) -> dict[str, Any]:
    """The kept events of a task, as WatchTask sends them; without waiting for more."""
    task_id = request["task_id"]
    answer: dict[str, Any] = {"taskId": task_id, "events": []}
    for frame in await desk.history(task_id, after=request.get("after", 0)):
        if isinstance(frame, GapFrame):
            answer["gap"] = written(convert.watch_response(task_id, frame).gap)
        else:
            answer["events"].append(written(convert.event_of(task_id, frame)))
    return answer
