"""A dispatcher that answers operators from a script, too."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

from stepstream import errors
from stepstream.v1 import dispatcher_service_pb2, task_pb2
from stepstream.v1 import operator_service_pb2 as pb2
from stepstream.v1.dispatcher_service_pb2_grpc import add_DispatcherServiceServicer_to_server
from stepstream.v1.operator_service_pb2_grpc import (
    OperatorServiceServicer,
    add_OperatorServiceServicer_to_server,
)
from tests.unit.client.dispatcher_stub import HOLD, SERVER_OPTIONS, StubDispatcher, _refuse

__all__ = ["StubOperator", "make_worker", "serving_both"]


def make_worker(name: str = "worker-0", **fields: Any) -> pb2.Worker:
    """A connected worker."""
    given = {
        "instance_id": f"{name}-1",
        "dispatcher_id": "d-0",
        "queues": ["default"],
        "step_types": ["translate", "verify"],
        "max_in_flight": 3,
        "sdk": "stepstream-python/0.1.0",
    }
    return pb2.Worker(name=name, **{**given, **fields})


class StubOperator(StubDispatcher, OperatorServiceServicer):
    """Adds workers, queues and dead letters: the tasks that have failed."""

    def __init__(self) -> None:
        super().__init__()
        self.workers: deque[list[pb2.Worker]] = deque([[]])  # one for each call; the last stays
        self.pipelines: list[pb2.Pipeline] = []
        self.repairs = pb2.RepairResponse(counted=True)
        self.queues = {"default"}
        self.changes: deque[list[Any]] = deque()  # a stream of WatchTasks each
        self.explanation = dispatcher_service_pb2.ExplainTaskResponse()

    def ExplainTask(self, request, context):  # noqa: N802
        self._task(request, context)
        return self.explanation

    def WatchTasks(self, request, context):  # noqa: N802
        context.add_callback(self.left.set)
        self._begin(request, context)
        for item in self.changes.popleft() if self.changes else [HOLD]:
            if isinstance(item, task_pb2.Task):
                yield dispatcher_service_pb2.WatchTasksResponse(task=item)
            elif item is HOLD:
                self.left.wait(5.0)
            else:
                _refuse(context, item)

    def ListWorkers(self, request, context):  # noqa: N802
        self._begin(request, context)
        workers = self.workers.popleft() if len(self.workers) > 1 else self.workers[0]
        return pb2.ListWorkersResponse(workers=workers)

    def DrainWorker(self, request, context):  # noqa: N802
        self._begin(request, context)
        if request.name not in {worker.name for worker in self.workers[0]}:
            _refuse(context, errors.WorkerNotFound(f"no worker {request.name}"))
        return pb2.DrainWorkerResponse()

    def PauseQueue(self, request, context):  # noqa: N802
        self._queue(request, context)
        return pb2.PauseQueueResponse()

    def ResumeQueue(self, request, context):  # noqa: N802
        self._queue(request, context)
        return pb2.ResumeQueueResponse()

    def _queue(self, request: Any, context: grpc.ServicerContext) -> None:
        self._begin(request, context)
        if request.queue not in self.queues:
            _refuse(context, errors.QueueNotFound(f"no queue {request.queue}"))

    def ListDeadLetters(self, request, context):  # noqa: N802
        """A page of its size; the token is the number of tasks before it."""
        self._begin(request, context)
        failed = [task for task in self.tasks.values() if task.state == "failed"]
        at = int(request.page_token or 0)
        end = at + request.page_size
        token = str(end) if end < len(failed) else ""
        return pb2.ListDeadLettersResponse(tasks=failed[at:end], next_page_token=token)

    def Redrive(self, request, context):  # noqa: N802
        self._begin(request, context)
        return pb2.RedriveResponse(results=[self._redriven(each) for each in request.task_ids])

    def _redriven(self, task_id: str) -> pb2.RedriveResult:
        task = self.tasks.get(task_id)
        if task is None:
            return pb2.RedriveResult(task_id=task_id, reason="TASK_NOT_FOUND")
        if task.state != "failed":
            return pb2.RedriveResult(task_id=task_id, reason="TASK_NOT_FAILED")
        task.state = "done"
        return pb2.RedriveResult(task_id=task_id, redriven=True)

    def UpdateInput(self, request, context):  # noqa: N802
        task = self._task(request, context)
        task.input.CopyFrom(request.input)
        return pb2.UpdateInputResponse(task=task)

    def ListPipelines(self, request, context):  # noqa: N802
        self._begin(request, context)
        return pb2.ListPipelinesResponse(pipelines=self.pipelines)

    def Repair(self, request, context):  # noqa: N802
        self._begin(request, context)
        return self.repairs


@contextmanager
def serving_both(stub: StubOperator) -> Iterator[str]:
    """Serves both services from threads; yields the address."""
    server = grpc.server(ThreadPoolExecutor(4), options=SERVER_OPTIONS)
    add_DispatcherServiceServicer_to_server(stub, server)
    add_OperatorServiceServicer_to_server(stub, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
