"""A dispatcher that answers from a script, for the tests of the clients and the command line."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from stepstream import errors
from stepstream.v1 import dispatcher_service_pb2 as pb2
from stepstream.v1 import task_pb2
from stepstream.v1.dispatcher_service_pb2_grpc import (
    DispatcherServiceServicer,
    add_DispatcherServiceServicer_to_server,
)

# As of a real dispatcher: a client that pings is not sent away, however slow the machine.
SERVER_OPTIONS = (("grpc.http2.min_ping_interval_without_data_ms", 5_000),)


@dataclass(frozen=True, kw_only=True)
class BareStatus:
    """A status without details, as gRPC itself makes them."""

    code: grpc.StatusCode
    details: str = "socket closed"


HOLD = object()  # in a stream: nothing more until the watcher leaves
Refusal = errors.StepstreamError | BareStatus


def rich_status(error: errors.StepstreamError) -> Status:
    """The google.rpc.Status that the dispatcher sends for an error."""
    status = Status(code=Code.Value(error.status), message=error.message)
    _pack(status, ErrorInfo(reason=error.reason, domain="stepstream"))
    if error.field:
        violation = BadRequest.FieldViolation(field=error.field, description=error.message)
        _pack(status, BadRequest(field_violations=[violation]))
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromNanoseconds(round(error.retry_after_s * 1e9))
        _pack(status, RetryInfo(retry_delay=delay))
    return status


def _pack(status: Status, detail: Any) -> None:
    packed = AnyMessage()
    packed.Pack(detail)
    status.details.append(packed)


def make_task(task_id: str = "t1", state: str = "pending", **fields: Any) -> task_pb2.Task:
    """A task message; payloads may be given as messages."""
    given = {"pipeline": "translation", "phase": "PHASE_QUEUED", "version": 1, **fields}
    return task_pb2.Task(task_id=task_id, state=state, **given)


def make_event(sequence: int, kind: str, state: str = "", **fields: Any) -> task_pb2.TaskEvent:
    """An event message of task t1."""
    given = {"task_id": "t1", **fields}
    return task_pb2.TaskEvent(sequence=sequence, type=f"EVENT_TYPE_{kind}", state=state, **given)


def snapshot(task: task_pb2.Task) -> pb2.WatchTaskResponse:
    return pb2.WatchTaskResponse(snapshot=task)


def frame(event: task_pb2.TaskEvent) -> pb2.WatchTaskResponse:
    return pb2.WatchTaskResponse(event=event)


class StubDispatcher(DispatcherServiceServicer):
    """Answers with `tasks`, `stats` and the scripted `streams`, after the scripted `refusals`."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.tasks: dict[str, task_pb2.Task] = {}
        self.refusals: deque[Refusal] = deque()  # one for each call to come, before its answer
        self.streams: deque[list[Any]] = deque()
        self.stats = pb2.GetStatsResponse(is_running=True)
        self.left = Event()  # a watcher has left
        self.called = Event()
        self.speaks = Event()  # while it is not set, calls are not answered
        self.speaks.set()
        self.wait_timeouts = 0  # so many WaitTask calls answer that their time ran out

    def _begin(self, request: Any, context: grpc.ServicerContext) -> None:
        self.requests.append(request)
        self.called.set()
        self.speaks.wait(5.0)
        if self.refusals:
            _refuse(context, self.refusals.popleft())

    def _task(self, request: Any, context: grpc.ServicerContext) -> task_pb2.Task:
        self._begin(request, context)
        if request.task_id not in self.tasks:
            _refuse(context, errors.TaskNotFound(f"no task {request.task_id}"))
        return self.tasks[request.task_id]

    def Submit(self, request, context):  # noqa: N802
        self._begin(request, context)
        known = "t1" in self.tasks
        self.tasks.setdefault("t1", make_task(pipeline=request.pipeline, input=request.input))
        return pb2.SubmitResponse(
            task_id="t1",
            execution_mode="EXECUTION_MODE_PARALLEL",
            durability="DURABILITY_AOF_1S",
            duplicate=known,
            state=self.tasks["t1"].state,
        )

    def SubmitBatch(self, request, context):  # noqa: N802
        self._begin(request, context)
        refused = pb2.ItemError(
            code="RESOURCE_EXHAUSTED",
            reason="QUEUE_FULL",
            message="queue full",
            retry_after=Duration(seconds=2),
        )
        return pb2.SubmitBatchResponse(
            results=[
                pb2.SubmitResult(accepted=pb2.SubmitResponse(task_id=item.request_id))
                if item.pipeline
                else pb2.SubmitResult(error=refused)
                for item in request.requests
            ]
        )

    def GetTask(self, request, context):  # noqa: N802
        return pb2.GetTaskResponse(task=self._task(request, context))

    def ListTasks(self, request, context):  # noqa: N802
        self._begin(request, context)
        matching = [task for task in self.tasks.values() if request.state in {"", task.state}]
        return pb2.ListTasksResponse(tasks=matching, next_page_token="")

    def WaitTask(self, request, context):  # noqa: N802
        task = self._task(request, context)
        self.wait_timeouts -= 1
        return pb2.WaitTaskResponse(task=task, timed_out=self.wait_timeouts >= 0)

    def WatchTask(self, request, context):  # noqa: N802
        context.add_callback(self.left.set)
        self._begin(request, context)
        for item in self.streams.popleft():
            if isinstance(item, pb2.WatchTaskResponse):
                yield item
            elif item is HOLD:
                self.left.wait(5.0)
            else:
                _refuse(context, item)

    def CancelTask(self, request, context):  # noqa: N802
        task = self._task(request, context)
        task.state, task.phase = "cancelled", task_pb2.PHASE_CANCELLED
        return pb2.CancelTaskResponse(task=task)

    def DecideReview(self, request, context):  # noqa: N802
        task = self._task(request, context)
        task.reviewer, task.state = request.reviewer, "done"
        return pb2.DecideReviewResponse(task=task)

    def GetStats(self, request, context):  # noqa: N802
        self._begin(request, context)
        return self.stats


def _refuse(context: grpc.ServicerContext, refusal: Refusal) -> None:
    if isinstance(refusal, BareStatus):
        context.abort(refusal.code, refusal.details)
    else:
        details = rich_status(refusal).SerializeToString()
        context.set_trailing_metadata((("grpc-status-details-bin", details),))
        context.abort(grpc.StatusCode[refusal.status], str(refusal))


@contextmanager
def serving(stub: StubDispatcher) -> Iterator[str]:
    """Serves the stub from threads; yields its address."""
    server = grpc.server(ThreadPoolExecutor(4), options=SERVER_OPTIONS)
    add_DispatcherServiceServicer_to_server(stub, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
