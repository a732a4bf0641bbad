"""A dispatcher that accepts every task, and keeps which of them came together in one call."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from stepstream import errors
from stepstream.v1 import dispatcher_service_pb2 as pb2
from stepstream.v1.dispatcher_service_pb2_grpc import DispatcherServiceServicer
from tests.unit.client.dispatcher_stub import rich_status

__all__ = ["LIMIT_S", "Desk"]

LIMIT_S = 5.0


class Desk(DispatcherServiceServicer):
    """Accepts tasks, under their request ids; keeps which came together in one call."""

    def __init__(self) -> None:
        self.calls: list[list[pb2.SubmitRequest]] = []
        self.methods: list[str] = []
        self.left = 0  # calls that were given up
        self.mode = "PARALLEL"
        self.speaks = asyncio.Event()  # while it is not set, no call is answered
        self.speaks.set()
        self.refusals: deque[errors.StepstreamError] = deque()  # of calls, before their answers
        self.refused: dict[str, pb2.ItemError] = {}  # items of batches, by request id
        self.answers_max = 1_000  # of one batch
        self._news = asyncio.Condition()

    def together(self) -> list[list[str]]:
        """The request ids of each call."""
        return [[one.request_id for one in requests] for requests in self.calls]

    async def until(self, happened: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S), self._news:
            await self._news.wait_for(happened)

    async def Submit(self, request: pb2.SubmitRequest, context: Any) -> pb2.SubmitResponse:  # noqa: N802
        await self._begin("Submit", [request], context)
        return self._accepted(request)

    async def SubmitBatch(  # noqa: N802
        self, request: pb2.SubmitBatchRequest, context: Any
    ) -> pb2.SubmitBatchResponse:
        await self._begin("SubmitBatch", list(request.requests), context)
        results = [self._result(one) for one in request.requests]
        return pb2.SubmitBatchResponse(results=results[: self.answers_max])

    async def _begin(self, method: str, requests: list[pb2.SubmitRequest], context: Any) -> None:
        self.calls.append(requests)
        self.methods.append(method)
        await self._tell()
        try:
            await self.speaks.wait()
        except asyncio.CancelledError:
            self.left += 1
            await self._tell()
            raise
        if self.refusals:
            error = self.refusals.popleft()
            details = rich_status(error).SerializeToString()
            context.set_trailing_metadata((("grpc-status-details-bin", details),))
            await context.abort(grpc.StatusCode[error.status], str(error))

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    def _result(self, request: pb2.SubmitRequest) -> pb2.SubmitResult:
        if request.request_id in self.refused:
            return pb2.SubmitResult(error=self.refused[request.request_id])
        return pb2.SubmitResult(accepted=self._accepted(request))

    def _accepted(self, request: pb2.SubmitRequest) -> pb2.SubmitResponse:
        return pb2.SubmitResponse(
            task_id=request.request_id, execution_mode=f"EXECUTION_MODE_{self.mode}"
        )
