"""What is asked of the OpenTelemetry API; imported only where somebody uses it already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from stepstream import _telemetry as names

__all__ = ["attach", "context_of", "current_carrier", "is_used", "producer_span"]

_PROPAGATORS = (TraceContextTextMapPropagator(), W3CBaggagePropagator())


def is_used() -> bool:
    """Whether the program has set a tracer provider, or is within a trace that came to it."""
    provider = trace.get_tracer_provider()
    return not isinstance(provider, trace.ProxyTracerProvider) or bool(otel_context.get_current())


def current_carrier() -> dict[str, str]:
    """The current context as headers; empty outside of any trace."""
    carrier: dict[str, str] = {}
    for propagator in _PROPAGATORS:
        propagator.inject(carrier)
    return carrier


def context_of(carrier: Mapping[str, str], span: trace.Span | None = None) -> Context:
    """The context that headers name, and nothing of the current one.

    Args:
        carrier: The headers.
        span: The span that they name, where it is at hand; then it can be written to.
    """
    context = Context()
    for propagator in _PROPAGATORS:
        context = propagator.extract(carrier, context)
    return context if span is None else trace.set_span_in_context(span, context)


def attach(context: Context) -> None:
    """Make a context the current one for good; call it in a contextvars.Context of its own."""
    otel_context.attach(context)


@contextmanager
def producer_span(name: str) -> Iterator[trace.Span]:
    """A span of the program's own tracer provider around a Submit; current within the block."""
    tracer = trace.get_tracer(names.SCOPE)
    attributes = {names.SYSTEM: names.SCOPE, names.OPERATION: "send"}
    with tracer.start_as_current_span(
        name, kind=trace.SpanKind.PRODUCER, attributes=attributes
    ) as span:
        yield span
