"""The worker's part in a trace: a span for each attempt, and a context for its handler.

The span of an attempt begins with its handler and is sent once the dispatcher has said that the
result counts: an attempt that was given up meanwhile has its span from the dispatcher. Its id
follows from the attempt's name, so the next attempt can link to it, wherever either of them ran.

Where no spans are sent, handlers still get what their callers sent: in `StepContext.trace_context`,
in every line of log, and as the current context of OpenTelemetry if they use it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextvars import Context, copy_context
from time import time_ns
from typing import TYPE_CHECKING

import msgspec
from structlog.contextvars import bind_contextvars

from stepstream import _telemetry as names
from stepstream.spans import AttributeValue
from stepstream.trace_context import (
    TRACEPARENT,
    TRACESTATE,
    TraceContext,
    parse_traceparent,
    span_id_of,
)
from stepstream.v1 import worker_service_pb2 as pb
from stepstream.worker.attempt import Attempt

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from stepstream.otlp import Otlp

__all__ = ["AttemptSpans"]

_COUNTED = frozenset({pb.RECEIPT_STATUS_ACCEPTED, pb.RECEIPT_STATUS_DUPLICATE})
_REFUSED = "RESULT_REFUSED"


class _Settled(msgspec.Struct, frozen=True):
    """A span whose attempt has a result, and the result no receipt."""

    span: Span
    end_ns: int


class AttemptSpans:
    """Makes the spans of a worker's attempts.

    Args:
        otlp: Where they go; None: nobody wants them.
        worker: Name of the worker.
    """

    def __init__(self, otlp: Otlp | None = None, worker: str = "") -> None:
        self._otlp = otlp
        self._worker = worker
        self._settled: dict[str, _Settled] = {}  # by token, as long as the inventory has them

    def begin(self, attempt: Attempt) -> Context:
        """Begin an attempt's span; returns the context that its handler is to run in."""
        context = copy_context()
        parent = _parent_of(attempt)
        if parent is not None:
            attempt.span = self._start(attempt, parent)
            own = parent
            if attempt.span is not None and attempt.span.is_recording():
                own = msgspec.structs.replace(parent, span_id=_span_id(attempt))
                attempt.trace_context[TRACEPARENT] = own.traceparent
            context.run(bind_contextvars, trace_id=own.trace_id, span_id=own.span_id)
        if attempt.trace_context and "opentelemetry.trace" in sys.modules:
            context.run(_make_current, attempt)
        return context

    def settled(self, attempt: Attempt, settlement: pb.Settlement) -> None:
        """An attempt has its result, which is on its way; call it on the gRPC loop."""
        if self._otlp is None or not attempt.trace_context:
            return
        if attempt.span is None:  # it was given back before it started
            parent = _parent_of(attempt)
            attempt.span = self._start(attempt, parent) if parent else None
        if attempt.span is not None and attempt.span.is_recording():
            _describe(attempt.span, settlement)
            self._settled[attempt.token] = _Settled(attempt.span, time_ns())

    def receipted(self, receipt: pb.Receipt) -> None:
        """The result of an attempt has its receipt: the span is sent if the result counts."""
        settled = self._settled.pop(receipt.lease_token, None)
        if settled is None:
            return
        if receipt.status == pb.RECEIPT_STATUS_INVALID:
            _mark_error(settled.span, _REFUSED)
        elif receipt.status not in _COUNTED:
            return
        settled.span.end(settled.end_ns)

    def dropped(self, token: str) -> None:
        """An attempt is somebody else's now, and so is its span."""
        self._settled.pop(token, None)

    def close(self) -> None:
        """Send what waits, for a bounded time. Blocks."""
        if self._otlp is not None:
            self._otlp.close()

    def _start(self, attempt: Attempt, parent: TraceContext) -> Span | None:
        if self._otlp is None or not parent.sampled:
            return None
        assignment = attempt.assignment
        return self._otlp.start(
            f"{names.PROCESS} {assignment.step}",
            context=msgspec.structs.replace(parent, span_id=_span_id(attempt)),
            parent_id=parent.span_id,
            kind="consumer",
            attributes=_attributes(assignment, self._worker),
            links=_links(assignment, parent),
        )


def _attributes(assignment: pb.Assignment, worker: str) -> Mapping[str, AttributeValue]:
    return {
        names.TASK_ID: assignment.task_id,
        names.PIPELINE: assignment.pipeline,
        names.STEP: assignment.step,
        names.ATTEMPT: assignment.attempt,
        names.WORKER: worker,
        names.LEASE: assignment.lease_token,
        names.SYSTEM: names.SCOPE,
        names.OPERATION: names.PROCESS,
    }


def _links(assignment: pb.Assignment, parent: TraceContext) -> tuple[TraceContext, ...]:
    """The attempt before this one, whose name differs in the number at its end."""
    if assignment.attempt <= 1:
        return ()
    name = assignment.assignment_id.removesuffix(str(assignment.attempt))
    before = span_id_of(f"{name}{assignment.attempt - 1}")
    return (msgspec.structs.replace(parent, span_id=before),)


def _describe(span: Span, settlement: pb.Settlement) -> None:
    match settlement.WhichOneof("result"):
        case "completed":
            outcome = settlement.completed.outcome or "completed"
        case "failed":
            outcome = "failed"
            _mark_error(span, settlement.failed.code)
        case _:
            outcome = "released"
    span.set_attribute(names.OUTCOME, outcome)


def _mark_error(span: Span, code: str) -> None:
    from stepstream.otlp import mark_error  # noqa: PLC0415 - only where spans are sent

    mark_error(span, code)


def _make_current(attempt: Attempt) -> None:
    """Make the attempt the current span of OpenTelemetry, for the handler's own spans."""
    from stepstream import _otel  # noqa: PLC0415 - only where somebody uses it anyway

    _otel.attach(_otel.context_of(attempt.trace_context, attempt.span))


def _parent_of(attempt: Attempt) -> TraceContext | None:
    carrier = attempt.assignment.trace_context
    if not carrier:
        return None
    return parse_traceparent(carrier.get(TRACEPARENT, ""), carrier.get(TRACESTATE, ""))


def _span_id(attempt: Attempt) -> str:
    return span_id_of(attempt.assignment.assignment_id)
