"""The calls of DispatcherService as data: which method, which request, how the answer is read.

Both clients build their calls here and only do the input and output themselves.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar

from stepstream import _convert, types
from stepstream._status import error_from_item
from stepstream.errors import (
    InternalError,
    InvalidTask,
    OutcomeUnknown,
    StepstreamError,
    Unavailable,
)
from stepstream.v1 import dispatcher_service_pb2 as pb2

__all__ = [
    "SUBMIT_CALL_S",
    "WAIT_CALL_S",
    "Call",
    "cancel",
    "explain",
    "get",
    "list_",
    "new_request_id",
    "read_task",
    "review",
    "stats",
    "submit",
    "submit_batch",
    "together",
    "wait",
    "watch_tasks",
]

T = TypeVar("T")

SUBMIT_CALL_S = 600.0
"""Limit of a Submit: without Redis, or by configuration, it answers when the task has ended or
waits for a person."""

WAIT_CALL_S = 50.0  # longest single WaitTask call: shorter than what proxies let idle
_WAIT_MARGIN_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """One unary call."""

    method: str  # of the stub
    request: Any
    read: Callable[[Any], T]  # the answer's message into what the caller gets
    timeout_s: float | None = None  # None: the client's
    metadata: tuple[tuple[str, str], ...] = ()  # trace context and baggage
    is_submit: bool = False
    request_id: str = ""  # what a caller needs to join a task that may have been accepted

    def give_up(self, error: Exception) -> NoReturn:
        """Raises the error of the last attempt; one that leaves a Submit open says how to join it.

        Raises:
            OutcomeUnknown: A Submit was not answered in time.
            Exception: The given one.
        """
        if self.request_id and isinstance(error, TimeoutError | Unavailable):
            words = (
                "the task may have been accepted: the same submit "
                f"with request_id={self.request_id!r} joins it"
            )
            if isinstance(error, TimeoutError):
                raise OutcomeUnknown(f"{error}; {words}", request_id=self.request_id) from error
            error.add_note(words)
        raise error


def new_request_id() -> str:
    """A random id, so that a repeated Submit is the same task."""
    return secrets.token_hex(16)


def submit(
    item: types.SubmitItem, metadata: tuple[tuple[str, str], ...] = ()
) -> Call[types.Submitted]:
    """Submit one task.

    Raises:
        InvalidTask: a value cannot travel.
    """
    request = pb2.SubmitRequest()
    _fill_request(request, item)
    return Call(
        method="Submit",
        request=request,
        read=_convert.submitted_from_message,
        metadata=metadata,
        is_submit=True,
        request_id=request.request_id,
    )


def submit_batch(
    items: Sequence[types.SubmitItem], metadata: tuple[tuple[str, str], ...] = ()
) -> Call[list[types.Submitted | StepstreamError]]:
    """Submit up to 1,000 tasks, each accepted or refused by itself.

    Raises:
        InvalidTask: a value cannot travel; `field` starts with the item's index.
    """
    request = pb2.SubmitBatchRequest()
    for index, item in enumerate(items):
        _fill_indexed(request.requests.add(), index, item)
    return Call(
        method="SubmitBatch",
        request=request,
        read=_read_batch,
        metadata=metadata,
        is_submit=True,
    )


def together(
    submits: Sequence[Call[types.Submitted]],
) -> Call[list[types.Submitted | StepstreamError]]:
    """Make several submits with one call; the answers are as many, in order."""

    def read(answer: pb2.SubmitBatchResponse) -> list[types.Submitted | StepstreamError]:
        if len(answer.results) != len(submits):
            raise InternalError(f"{len(answer.results)} results for {len(submits)} requests")
        return _read_batch(answer)

    request = pb2.SubmitBatchRequest(requests=[one.request for one in submits])
    return Call(method="SubmitBatch", request=request, read=read, is_submit=True)


def get(task_id: str, *, payloads: bool) -> Call[types.Task]:
    """Read one task."""
    request = pb2.GetTaskRequest(task_id=task_id, include_payloads=payloads)
    return Call(method="GetTask", request=request, read=read_task)


def list_(
    *,
    state: str,
    pipeline: str,
    labels: Mapping[str, str] | None,
    page_size: int,
    page_token: str,
    payloads: bool,
) -> Call[types.TaskPage]:
    """List tasks, newest first."""
    request = pb2.ListTasksRequest(
        page_size=page_size,
        page_token=page_token,
        state=state,
        pipeline=pipeline,
        labels=labels or {},
        include_payloads=payloads,
    )
    return Call(method="ListTasks", request=request, read=_read_page)


def wait(
    task_id: str, *, remaining_s: float, through_review: bool
) -> Call[tuple[types.Task, bool]]:
    """One WaitTask call of at most WAIT_CALL_S; answers (task, whether its time ran out)."""
    wait_s = max(min(remaining_s, WAIT_CALL_S), 0.0)
    request = pb2.WaitTaskRequest(
        task_id=task_id,
        timeout=_convert.seconds_to_duration(wait_s, "timeout"),
        through_review=through_review,
    )
    return Call(
        method="WaitTask", request=request, read=_read_wait, timeout_s=wait_s + _WAIT_MARGIN_S
    )


def cancel(task_id: str, *, reason: str) -> Call[types.Task]:
    """Cancel a task."""
    request = pb2.CancelTaskRequest(task_id=task_id, reason=reason)
    return Call(method="CancelTask", request=request, read=read_task)


def review(
    task_id: str,
    decision: str,
    *,
    reviewer: str,
    output: types.Value,
    feedback: str,
    version: int,
) -> Call[types.Task]:
    """Decide a task in review.

    Raises:
        InvalidTask: the decision is not a word of ReviewDecision, or the output cannot travel.
    """
    request = pb2.DecideReviewRequest(
        task_id=task_id,
        decision=_decision(decision),
        feedback=feedback,
        reviewer=reviewer,
        version=version,
    )
    if output is not None:
        _convert.fill_payload(request.output, output, "output")
    return Call(method="DecideReview", request=request, read=read_task)


def stats() -> Call[types.Stats]:
    """Read the counts."""
    read = _convert.stats_from_message
    return Call(method="GetStats", request=pb2.GetStatsRequest(), read=read)


def explain(task_id: str) -> Call[types.Explanation]:
    """Say why a task is not running."""
    request = pb2.ExplainTaskRequest(task_id=task_id)
    return Call(method="ExplainTask", request=request, read=_convert.explanation_from_message)


def watch_tasks(
    *, pipeline: str, states: Sequence[str], labels: Mapping[str, str] | None
) -> pb2.WatchTasksRequest:
    """What to open a stream of tasks with."""
    return pb2.WatchTasksRequest(pipeline=pipeline, states=states, labels=labels or {})


def _fill_request(request: pb2.SubmitRequest, item: types.SubmitItem) -> None:
    request.pipeline = item.pipeline
    _convert.fill_payload(request.input, item.input)
    request.request_id = item.request_id or new_request_id()
    if item.labels:
        request.labels.update(item.labels)
    request.require_durable = item.require_durable
    if item.delay_s is not None:
        request.delay.CopyFrom(_convert.seconds_to_duration(item.delay_s, "delay"))
    if item.deadline_s is not None:
        request.deadline.CopyFrom(_convert.seconds_to_duration(item.deadline_s, "deadline"))
    if item.max_retries is not None:
        request.retry.max_retries = item.max_retries
    for name, seconds in (("initial_delay", item.initial_delay_s), ("timeout", item.timeout_s)):
        if seconds is not None:
            duration = _convert.seconds_to_duration(seconds, f"retry.{name}")
            getattr(request.retry, name).CopyFrom(duration)


def _fill_indexed(request: pb2.SubmitRequest, index: int, item: types.SubmitItem) -> None:
    try:
        _fill_request(request, item)
    except InvalidTask as error:
        place = f"requests[{index}]"
        raise type(error)(f"{place}.{error}", field=f"{place}.{error.field}") from error


def _decision(word: str) -> pb2.ReviewDecision.ValueType:
    if word not in list(types.ReviewDecision):
        known = ", ".join(types.ReviewDecision)
        raise InvalidTask(f"decision: {word!r} is none of {known}", field="decision")
    return pb2.ReviewDecision.Value(f"REVIEW_DECISION_{word.upper()}")


def read_task(answer: Any) -> types.Task:
    """Reads an answer that has one task."""
    return _convert.task_from_message(answer.task)


def _read_wait(answer: pb2.WaitTaskResponse) -> tuple[types.Task, bool]:
    return _convert.task_from_message(answer.task), answer.timed_out


def _read_page(answer: pb2.ListTasksResponse) -> types.TaskPage:
    tasks = [_convert.task_from_message(task) for task in answer.tasks]
    return types.TaskPage(tasks=tasks, next_page_token=answer.next_page_token)


def _read_batch(answer: pb2.SubmitBatchResponse) -> list[types.Submitted | StepstreamError]:
    return [_read_result(result) for result in answer.results]


def _read_result(result: pb2.SubmitResult) -> types.Submitted | StepstreamError:
    if result.WhichOneof("result") == "accepted":
        return _convert.submitted_from_message(result.accepted)
    return error_from_item(result.error)
