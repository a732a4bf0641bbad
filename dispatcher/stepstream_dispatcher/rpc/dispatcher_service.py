"""DispatcherService: convert, one call of the engine, convert."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, Final

from stepstream.errors import InvalidTask, PayloadTooLarge, StepstreamError
from stepstream.trace_context import read_carrier
from stepstream.v1 import dispatcher_service_pb2 as api
from stepstream.v1 import task_pb2 as pb
from stepstream.v1.dispatcher_service_pb2_grpc import DispatcherServiceServicer
from stepstream_dispatcher.core.admission import Submission, check_task_id
from stepstream_dispatcher.engine.desk import BATCH_MAX, WAITING_STATES, Selection, Sight
from stepstream_dispatcher.engine.engine import Engine
from stepstream_dispatcher.rpc import _convert as convert
from stepstream_dispatcher.rpc import _resources as resources

__all__ = ["DispatcherService"]

BATCH_BYTES_MAX: Final = 4 * 1024 * 1024
WAIT_MS_DEFAULT: Final = 60_000
WAIT_MS_MAX: Final = 600_000
# Turns of the loop before a submit is answered: what it has queued is then on its way to a worker,
# and does not wait for gRPC's part in answering, which takes longer.
TURNS_FIRST: Final = 4
DEADLINE_MARGIN_S: Final = 0.5  # so that the answer is on its way before the caller gives up


class DispatcherService(DispatcherServiceServicer):
    """What clients call."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._desk = engine.desk

    async def Submit(self, request: api.SubmitRequest, context: Any) -> api.SubmitResponse:
        """Accept one task."""
        accepted = await self._desk.submit(convert.submission_of(request, _trace(context)))
        await _let_others_first()
        return convert.submit_response(accepted)

    async def SubmitBatch(
        self, request: api.SubmitBatchRequest, context: Any
    ) -> api.SubmitBatchResponse:
        """Accept many tasks."""
        answers = await self._submit_each(request, _trace(context))
        await _let_others_first()
        return convert.submit_results(answers)

    async def GetTask(self, request: api.GetTaskRequest, context: Any) -> api.GetTaskResponse:
        """Read one task."""
        sight = await self._desk.get(request.task_id)
        return api.GetTaskResponse(task=self._task(sight, payloads=request.include_payloads))

    async def ListTasks(self, request: api.ListTasksRequest, context: Any) -> api.ListTasksResponse:
        """List tasks."""
        selection = Selection(
            page_size=request.page_size,
            page_token=request.page_token,
            state=request.state,
            pipeline=request.pipeline,
            labels=dict(request.labels),
        )
        listing = await self._desk.list(selection)
        tasks = [self._task(sight, payloads=request.include_payloads) for sight in listing.tasks]
        return api.ListTasksResponse(tasks=tasks, next_page_token=listing.next_page_token)

    async def WaitTask(self, request: api.WaitTaskRequest, context: Any) -> api.WaitTaskResponse:
        """Wait until a task is at rest."""
        sight = await self._desk.wait(
            request.task_id,
            timeout_s=_wait_s(request, context.time_remaining()),
            through_review=request.through_review,
        )
        timed_out = sight is None
        sight = sight or await self._desk.get(request.task_id)
        return api.WaitTaskResponse(task=self._task(sight, payloads=True), timed_out=timed_out)

    async def WatchTask(  # type: ignore[override]  # the read/write form
        self, request: api.WatchTaskRequest, context: Any
    ) -> None:
        """Follow one task to its end."""
        check_task_id(request.task_id)
        after = request.after_sequence if request.HasField("after_sequence") else None
        if after is not None and after < 0:
            raise InvalidTask("after_sequence must not be negative", field="after_sequence")
        frames = self._engine.watch.follow(
            request.task_id, after=after, progress=request.include_progress
        )
        async with contextlib.aclosing(frames):
            async for frame in frames:
                await context.write(convert.watch_response(request.task_id, frame))

    async def WatchTasks(  # type: ignore[override]  # the read/write form
        self, request: api.WatchTasksRequest, context: Any
    ) -> None:
        """Follow many tasks until the caller leaves."""
        looks = self._engine.overview.follow(resources.filter_of(request))
        async with contextlib.aclosing(looks):
            async for look in looks:
                await context.write(resources.watch_tasks_response(look))

    async def CancelTask(
        self, request: api.CancelTaskRequest, context: Any
    ) -> api.CancelTaskResponse:
        """Cancel a task."""
        reason = convert.short_text(request.reason, "reason")
        sight = await self._desk.cancel(request.task_id, reason=reason)
        return api.CancelTaskResponse(task=self._task(sight, payloads=False))

    async def DecideReview(
        self, request: api.DecideReviewRequest, context: Any
    ) -> api.DecideReviewResponse:
        """Decide a review."""
        limit = self._engine.options.payload_bytes_max
        sight = await self._desk.review(request.task_id, convert.reviewed_of(request, limit))
        return api.DecideReviewResponse(task=self._task(sight, payloads=False))

    async def GetStats(self, request: api.GetStatsRequest, context: Any) -> api.GetStatsResponse:
        """Read the counts."""
        stats = await self._engine.stats()
        now_ms = self._engine.store.now_ms()
        ages_ms: dict[str, int] = {}
        for state in sorted(WAITING_STATES & stats.states.keys()):
            since_ms = await self._engine.store.oldest_ms(state)
            if since_ms is not None:
                ages_ms[state] = max(0, now_ms - since_ms)
        return convert.stats_response(stats, ages_ms, now_ms)

    async def ExplainTask(
        self, request: api.ExplainTaskRequest, context: Any
    ) -> api.ExplainTaskResponse:
        """Say why a task is not running."""
        explanation = await self._engine.operations.explain(request.task_id)
        return resources.explain_response(explanation)

    async def _submit_each(
        self, request: api.SubmitBatchRequest, trace: Mapping[str, str]
    ) -> list[Any]:
        """Submit what can be read; what can't is answered by its own error, in its place."""
        _check_batch(request)
        read = [self._read(one, trace) for one in request.requests]
        good = [one for one in read if not isinstance(one, StepstreamError)]
        if not good:
            return list(read)
        answers = iter(await self._desk.submit_batch(good))
        return [one if isinstance(one, StepstreamError) else next(answers) for one in read]

    def _read(
        self, request: api.SubmitRequest, trace: Mapping[str, str]
    ) -> Submission | StepstreamError:
        try:
            return convert.submission_of(request, trace)
        except StepstreamError as error:
            return error

    def _task(self, sight: Sight, *, payloads: bool) -> pb.Task:
        pipeline = self._engine.catalog.by_key(sight.record.pipeline)
        return convert.task_of(sight.task_id, sight.record, sight.data, pipeline, payloads=payloads)


async def _let_others_first() -> None:
    for _ in range(TURNS_FIRST):
        await asyncio.sleep(0)


def _trace(context: Any) -> dict[str, str]:
    """The trace context that came with a call."""
    return read_carrier(context.invocation_metadata() or ())


def _check_batch(request: api.SubmitBatchRequest) -> None:
    count, size = len(request.requests), request.ByteSize()
    if not 1 <= count <= BATCH_MAX:
        words = f"requests must have 1 to {BATCH_MAX} entries, got {count}"
        raise InvalidTask(words, field="requests")
    if size > BATCH_BYTES_MAX:
        words = f"requests are {size} bytes in all, limit {BATCH_BYTES_MAX}"
        raise PayloadTooLarge(words, field="requests")


def _wait_s(request: api.WaitTaskRequest, remaining_s: float | None) -> float:
    timeout_ms = WAIT_MS_DEFAULT
    if request.HasField("timeout"):
        timeout_ms = convert.ms_of(request.timeout, "timeout")
    if not 0 <= timeout_ms <= WAIT_MS_MAX:
        raise InvalidTask("timeout must be 0 to 10 minutes", field="timeout")
    if remaining_s is None:
        return timeout_ms / 1000
    return max(0.0, min(timeout_ms / 1000, remaining_s - DEADLINE_MARGIN_S))
