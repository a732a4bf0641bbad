"""Traces: begins that of a task, and makes the spans of what was applied to it here.

Theory of operation. The committer tells each transition that it applied, with the record that it
was decided from. Nothing is done on its way: they wait in a bounded queue for a loop of their own,
which reads the traces of tasks that it does not know, many in one round trip, and makes the spans.
Without a sink, transitions are looked at for the log alone, and tasks carry what came with them.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict, deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, Protocol

import msgspec
import structlog

from stepstream.errors import StoreUnavailable
from stepstream.spans import SpanRecord
from stepstream.trace_context import TRACEPARENT, TRACESTATE, TraceContext, parse_traceparent
from stepstream_dispatcher.core.admission import Submission
from stepstream_dispatcher.core.record import EventType, TaskRecord, Transition
from stepstream_dispatcher.core.spans import (
    CARRIER,
    TaskTrace,
    spans_of,
    stored_trace,
    task_span_name,
    trace_of,
)
from stepstream_dispatcher.store.port import Store

__all__ = ["SpanSink", "Traces"]

WAITING_MAX: Final = 10_000  # transitions not yet looked at; the oldest are forgotten beyond it
KNOWN_MAX: Final = 10_000  # tasks whose trace is remembered
ROUND_MAX: Final = 64  # transitions of one round; its spans hold the loop for 3 ms at most
_SAMPLED: Final = 1
_RANDOM: Final = 2  # the trace id is random, as level 2 of the standard calls it

_UNKNOWN: Final = object()

_log = structlog.get_logger(__name__)

# What people look for in a log, with the words for it.
_NOTEWORTHY: Final = {EventType.FAILED: "task failed", EventType.LOST: "attempt lost"}


class SpanSink(Protocol):
    """Where spans go."""

    def is_sampled(self, name: str, trace_id: str, parent: TraceContext | None) -> bool:
        """Whether a trace that begins here, or under a caller's span, is to be recorded."""

    def emit(self, record: SpanRecord) -> None:
        """Send a span; never waits."""


class Traces:
    """The traces of the tasks that this dispatcher has to do with.

    Args:
        store: Where a task's trace is kept.
        sink: Where spans go; None: nobody wants them.
    """

    def __init__(self, *, store: Store, sink: SpanSink | None) -> None:
        self._store = store
        self._sink = sink
        self._waiting: deque[tuple[TaskRecord, Transition]] = deque(maxlen=WAITING_MAX)
        self._filled = asyncio.Event()
        self._known: OrderedDict[str, TaskTrace | None] = OrderedDict()

    def begin(self, submission: Submission) -> Submission:
        """Begin the trace of a task, under its caller's span if it has one.

        An unsampled trace is carried as it came, and none is begun.
        """
        if self._sink is None:
            return submission
        carrier = submission.trace
        caller = parse_traceparent(carrier.get(TRACEPARENT, ""), carrier.get(TRACESTATE, ""))
        trace_id = caller.trace_id if caller else secrets.token_hex(16)
        if not self._sink.is_sampled(task_span_name(submission.pipeline), trace_id, caller):
            return submission
        flags = _SAMPLED | (caller.flags if caller else _RANDOM)
        trace = TaskTrace(
            context=TraceContext(trace_id=trace_id, span_id=secrets.token_hex(8), flags=flags),
            parent_id=caller.span_id if caller else "",
        )
        return msgspec.structs.replace(submission, trace=stored_trace(carrier, trace))

    def seen(self, task_id: str, data: Mapping[str, bytes]) -> None:
        """Learn the trace of a task from its data, which is at hand; this spares a read."""
        if self._sink is not None:
            self._remember(task_id, trace_of(data.get(CARRIER, b"")))

    def moved(self, record: TaskRecord, transition: Transition) -> None:
        """Hear of a transition that was applied, and of the record that it was decided from."""
        if transition.event.type not in _NOTEWORTHY:
            if self._sink is None or transition.touch:
                return
            if self._known.get(transition.task_id, _UNKNOWN) is None:
                return  # it has no trace
        self._waiting.append((record, transition))
        self._filled.set()

    async def run(self) -> None:
        """Make spans until cancelled."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            await self._flush()

    async def close(self, limit_s: float) -> None:
        """Make the spans of what still waits, for a bounded time."""
        with suppress(TimeoutError, StoreUnavailable):
            async with asyncio.timeout(limit_s):
                await self._flush()

    async def _flush(self) -> None:
        while self._waiting:
            taken = [self._waiting.popleft() for _ in range(min(ROUND_MAX, len(self._waiting)))]
            try:
                await self._learn(list(dict.fromkeys(one.task_id for _, one in taken)))
            except BaseException:  # whoever flushes next finds them
                self._waiting.extendleft(reversed(taken))
                self._filled.set()
                raise
            for record, transition in taken:
                self._show(record, transition)
            await asyncio.sleep(0)

    async def _learn(self, task_ids: list[str]) -> None:
        """Read the traces that are not known."""
        unknown = [task_id for task_id in task_ids if task_id not in self._known]
        for task_id in set(task_ids).difference(unknown):
            self._known.move_to_end(task_id)  # so that none of this round is forgotten in it
        if unknown:
            for task_id, stored in zip(unknown, await self._store.traces(unknown), strict=True):
                self._remember(task_id, trace_of(stored))

    def _remember(self, task_id: str, trace: TaskTrace | None) -> None:
        self._known[task_id] = trace
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)

    def _show(self, record: TaskRecord, transition: Transition) -> None:
        task_id, event = transition.task_id, transition.event
        trace = self._known.get(task_id)
        words = _NOTEWORTHY.get(event.type)
        if words:
            _log.warning(
                words,
                task_id=task_id,
                step=record.step,
                attempt=record.attempt,
                worker=record.worker,
                code=event.detail,
                **({"trace_id": trace.context.trace_id} if trace else {}),
            )
        if self._sink is not None and trace is not None:
            for span in spans_of(task_id, record, transition, trace):
                self._sink.emit(span)
