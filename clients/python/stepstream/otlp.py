"""Spans to an OTLP collector; imported only where an endpoint is set and the packages are there.

The provider is our own, never the program's global one: span ids of tasks and attempts are given,
not drawn (see `trace_context.span_id_of`). Spans wait in a bounded queue for a thread of their
own; what does not fit is dropped, so a collector that is away costs memory for 2,048 spans and
one line of log a minute.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from time import monotonic
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.exporter import InvalidCompressionValueException
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)

from stepstream import _telemetry as names
from stepstream.spans import AttributeValue, Kind, SpanRecord
from stepstream.trace_context import TraceContext

__all__ = ["CLOSE_LIMIT_S", "Otlp", "mark_error"]

CLOSE_LIMIT_S: Final = 1.5
"""How long the end of a process waits for the collector: within the 2 s beyond its grace."""

_COMPLAINT_EVERY_S: Final = 60.0
_ABORT_LIMIT_S: Final = 0.2  # an export that was told to stop is over in milliseconds
_NS_IN_MS: Final = 1_000_000
# Which of them says that a collector is away depends on the version.
_COMPLAINERS: Final = (
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.sdk._shared_internal",
    "opentelemetry.sdk.trace.export",
)
_KINDS: Final[Mapping[Kind, SpanKind]] = {
    "internal": SpanKind.INTERNAL,
    "consumer": SpanKind.CONSUMER,
}


class _GivenIds(RandomIdGenerator):
    """Gives the next span the ids that it is to have."""

    def __init__(self) -> None:
        self._given: ContextVar[TraceContext | None] = ContextVar("given", default=None)

    def give(self, context: TraceContext | None) -> None:
        """Ids of the next span of this thread or task; None: random ones again."""
        self._given.set(context)

    def generate_trace_id(self) -> int:
        given = self._given.get()
        return int(given.trace_id, 16) if given else super().generate_trace_id()

    def generate_span_id(self) -> int:
        given = self._given.get()
        return int(given.span_id, 16) if given else super().generate_span_id()


class _OnceAMinute(logging.Filter):
    """Lets one record through a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._next_mono = 0.0

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002 - logging's signature
        now_mono = monotonic()
        if now_mono < self._next_mono:
            return False
        self._next_mono = now_mono + _COMPLAINT_EVERY_S
        return True


class Otlp:
    """Sends the spans of one process. What OTEL_* variables say, the SDK reads itself.

    Args:
        service: `service.name`, unless the environment sets another.
        instance: `service.instance.id`, likewise.

    Raises:
        ValueError: The environment has a value that the exporter cannot use.
    """

    def __init__(self, *, service: str, instance: str) -> None:
        _complain_rarely()
        try:
            self._exporter = OTLPSpanExporter()
        except InvalidCompressionValueException as error:
            raise ValueError(str(error)) from error
        self._ids = _GivenIds()
        self._processor = BatchSpanProcessor(self._exporter)
        self._provider = TracerProvider(
            resource=_resource(service, instance),
            id_generator=self._ids,
            shutdown_on_exit=False,  # `close` does it, and knows when
        )
        self._provider.add_span_processor(self._processor)
        self._tracer = self._provider.get_tracer(names.SCOPE)

    def is_sampled(self, name: str, trace_id: str, parent: TraceContext | None) -> bool:
        """Whether a trace that begins here, or under a caller's span, is to be recorded."""
        result = self._provider.sampler.should_sample(_parent(parent), int(trace_id, 16), name)
        return result.decision is Decision.RECORD_AND_SAMPLE

    def start(
        self,
        name: str,
        *,
        context: TraceContext,
        parent_id: str,
        kind: Kind,
        attributes: Mapping[str, AttributeValue],
        links: Iterable[TraceContext] = (),
        start_ns: int | None = None,
    ) -> Span:
        """Begin a span with the ids of `context`; it is sent when it is ended.

        Args:
            name: Its name.
            context: Its own ids.
            parent_id: Span id of its parent in the same trace; empty: it has none.
            kind: Its kind.
            attributes: Its attributes.
            links: Spans that it has to do with.
            start_ns: Unix ns; None: now.
        """
        parent = TraceContext(
            trace_id=context.trace_id,
            span_id=parent_id,
            flags=context.flags,
            state=context.state,
        )
        self._ids.give(context)
        try:
            return self._tracer.start_span(
                name,
                context=_parent(parent if parent_id else None),
                kind=_KINDS[kind],
                attributes=attributes,
                links=[Link(_span_context(link)) for link in links],
                start_time=start_ns,
            )
        finally:
            self._ids.give(None)

    def emit(self, record: SpanRecord) -> None:
        """Send a span that has ended."""
        span = self.start(
            record.name,
            context=record.context,
            parent_id=record.parent_id,
            kind=record.kind,
            attributes=record.attributes,
            links=record.links,
            start_ns=record.start_ms * _NS_IN_MS,
        )
        if record.error:
            mark_error(span, record.error)
        span.end(max(record.start_ms, record.end_ms) * _NS_IN_MS)

    def close(self, limit_s: float = CLOSE_LIMIT_S) -> None:
        """Send what waits, for a bounded time; then let go of the collector. Blocks."""
        closing = threading.Thread(target=self._processor.shutdown, daemon=True)
        closing.start()
        closing.join(limit_s)
        if closing.is_alive():
            self._exporter.shutdown()
            closing.join(_ABORT_LIMIT_S)


def mark_error(span: Span, code: str) -> None:
    """Mark a span as failed. The code alone: messages may hold what a task is about."""
    span.set_attribute(names.ERROR, code)
    span.set_status(Status(StatusCode.ERROR, code))


def _complain_rarely() -> None:
    for name in _COMPLAINERS:
        logger = logging.getLogger(name)
        if not any(isinstance(one, _OnceAMinute) for one in logger.filters):
            logger.addFilter(_OnceAMinute())


def _resource(service: str, instance: str) -> Resource:
    """What the environment says of this process, and our names where it says nothing."""
    found = Resource.create()
    missing = {SERVICE_NAME: service, SERVICE_INSTANCE_ID: instance}
    if not str(found.attributes[SERVICE_NAME]).startswith("unknown_service"):
        del missing[SERVICE_NAME]
    if SERVICE_INSTANCE_ID in found.attributes:
        del missing[SERVICE_INSTANCE_ID]
    return found.merge(Resource(missing))


def _parent(parent: TraceContext | None) -> Context:
    """A context with a remote parent, or with none; never the current one."""
    if parent is None:
        return Context()
    return trace.set_span_in_context(NonRecordingSpan(_span_context(parent)), Context())


def _span_context(context: TraceContext) -> SpanContext:
    return SpanContext(
        trace_id=int(context.trace_id, 16),
        span_id=int(context.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(context.flags),
        trace_state=TraceState.from_header([context.state]) if context.state else None,
    )
