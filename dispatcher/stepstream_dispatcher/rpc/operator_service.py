"""OperatorService: convert, one call of the engine, convert."""

from __future__ import annotations

from typing import Any

from stepstream.v1 import operator_service_pb2 as api
from stepstream.v1 import task_pb2 as pb
from stepstream.v1.operator_service_pb2_grpc import OperatorServiceServicer
from stepstream_dispatcher.engine.desk import Sight
from stepstream_dispatcher.engine.engine import Engine
from stepstream_dispatcher.rpc import _convert as convert
from stepstream_dispatcher.rpc import _resources as resources

__all__ = ["OperatorService"]


class OperatorService(OperatorServiceServicer):
    """What operators call."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._operations = engine.operations

    async def ListWorkers(
        self, request: api.ListWorkersRequest, context: Any
    ) -> api.ListWorkersResponse:
        """List workers."""
        workers = await self._operations.workers()
        return api.ListWorkersResponse(workers=[resources.worker_of(one) for one in workers])

    async def DrainWorker(
        self, request: api.DrainWorkerRequest, context: Any
    ) -> api.DrainWorkerResponse:
        """Send a worker away."""
        await self._operations.drain(request.name)
        return api.DrainWorkerResponse()

    async def PauseQueue(
        self, request: api.PauseQueueRequest, context: Any
    ) -> api.PauseQueueResponse:
        """Hand out nothing from a queue."""
        await self._operations.pause(request.queue)
        return api.PauseQueueResponse()

    async def ResumeQueue(
        self, request: api.ResumeQueueRequest, context: Any
    ) -> api.ResumeQueueResponse:
        """Hand out from a queue again."""
        await self._operations.resume(request.queue)
        return api.ResumeQueueResponse()

    async def ListDeadLetters(
        self, request: api.ListDeadLettersRequest, context: Any
    ) -> api.ListDeadLettersResponse:
        """List failed tasks."""
        listing = await self._operations.dead_letters(
            page_size=request.page_size, page_token=request.page_token
        )
        tasks = [self._task(sight) for sight in listing.tasks]
        return api.ListDeadLettersResponse(tasks=tasks, next_page_token=listing.next_page_token)

    async def Redrive(self, request: api.RedriveRequest, context: Any) -> api.RedriveResponse:
        """Start failed tasks anew."""
        task_ids = list(request.task_ids)
        answers = await self._operations.redrive(task_ids)
        return api.RedriveResponse(results=resources.redrive_results(task_ids, answers))

    async def UpdateInput(
        self, request: api.UpdateInputRequest, context: Any
    ) -> api.UpdateInputResponse:
        """Replace the input of a failed task."""
        payload = request.input.SerializeToString(deterministic=True)
        sight = await self._operations.update_input(
            request.task_id, payload, version=request.version
        )
        return api.UpdateInputResponse(task=self._task(sight))

    async def ListPipelines(
        self, request: api.ListPipelinesRequest, context: Any
    ) -> api.ListPipelinesResponse:
        """List the pipelines that new tasks begin with."""
        paused = await self._operations.paused()
        pipelines = [resources.pipeline_of(one, paused) for one in self._operations.pipelines()]
        return api.ListPipelinesResponse(pipelines=pipelines)

    async def Repair(self, request: api.RepairRequest, context: Any) -> api.RepairResponse:
        """Mend what differs from the records."""
        return resources.repair_response(await self._engine.repair())

    def _task(self, sight: Sight) -> pb.Task:
        pipeline = self._engine.catalog.by_key(sight.record.pipeline)
        return convert.task_of(sight.task_id, sight.record, sight.data, pipeline, payloads=True)
