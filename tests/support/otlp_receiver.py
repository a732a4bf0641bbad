"""An OTLP collector for a test: it keeps the spans that it is sent, and tells of each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from grpc import aio
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.support.child import News

__all__ = ["OtlpReceiver", "Received", "running_receiver"]


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """One span as it arrived."""

    service: str  # service.name of who sent it
    name: str
    kind: str  # INTERNAL, SERVER, CLIENT, PRODUCER, CONSUMER
    trace_id: str
    span_id: str
    parent_id: str  # empty: none
    start_ns: int
    end_ns: int
    attributes: Mapping[str, str | int | float | bool]
    error: str  # description of an error status; empty: none
    links: tuple[str, ...]  # span ids


class OtlpReceiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what comes in."""

    def __init__(self) -> None:
        self.spans: list[Received] = []
        self.endpoint = ""  # what OTEL_EXPORTER_OTLP_ENDPOINT is to say
        self._news = News()

    async def Export(  # noqa: N802 - gRPC's name
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: Any
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        """Take in a batch."""
        for resource in request.resource_spans:
            service = str(_attributes(resource.resource.attributes)["service.name"])
            for scope in resource.scope_spans:
                self.spans.extend(_received(service, span) for span in scope.spans)
        self._news.tell()
        return trace_service_pb2.ExportTraceServiceResponse()

    async def until(
        self, condition: Callable[[list[Received]], bool], *, timeout_s: float = 15.0
    ) -> list[Received]:
        """Wait until the spans that have come are as the condition wants; returns them.

        Raises:
            AssertionError: They are not in time.
        """
        try:
            await self._news.until(lambda: condition(self.spans) or None, timeout_s=timeout_s)
        except TimeoutError:
            names = sorted(f"{one.service}: {one.name}" for one in self.spans)
            raise AssertionError("only these came:\n" + "\n".join(names)) from None
        return self.spans


@asynccontextmanager
async def running_receiver() -> AsyncIterator[OtlpReceiver]:
    """A collector at a free port."""
    receiver = OtlpReceiver()
    server = aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)  # type: ignore[no-untyped-call]
    receiver.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield receiver
    finally:
        await server.stop(0)


def _received(service: str, span: trace_pb2.Span) -> Received:
    failed = span.status.code == trace_pb2.Status.STATUS_CODE_ERROR
    return Received(
        service=service,
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes=_attributes(span.attributes),
        error=span.status.message if failed else "",
        links=tuple(link.span_id.hex() for link in span.links),
    )


def _attributes(pairs: Any) -> dict[str, str | int | float | bool]:
    return {pair.key: _value(pair) for pair in pairs}


def _value(pair: KeyValue) -> str | int | float | bool:
    kind = pair.value.WhichOneof("value")
    assert kind is not None
    value: str | int | float | bool = getattr(pair.value, kind)
    return value
