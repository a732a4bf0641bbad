"""Spans reach a collector with the ids that they were given, and never hold anybody up."""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stepstream.otlp import Otlp
from stepstream.spans import SpanRecord
from stepstream.trace_context import TraceContext
from tests.support.otlp_receiver import running_receiver

TRACE = "0af7651916cd43dd8448eb211c80319c"
OWN = TraceContext(trace_id=TRACE, span_id="b7ad6b7169203331", flags=1, state="shop=1")
BEFORE = TraceContext(trace_id=TRACE, span_id="1111111111111111", flags=1)
RECORD = SpanRecord(
    name="process work",
    context=OWN,
    parent_id="2222222222222222",
    start_ms=1_700_000_000_000,
    end_ms=1_700_000_000_250,
    kind="consumer",
    attributes={"stepstream.attempt": 2},
    error="BUSY",
    links=(BEFORE,),
)


@contextmanager
def sending(monkeypatch, endpoint: str, **environment: str) -> Iterator[Otlp]:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    otlp = Otlp(service="stepstream-test", instance="i-1")
    try:
        yield otlp
    finally:
        otlp.close(0.0)


async def test_a_record_arrives_as_it_is(monkeypatch):
    async with running_receiver() as receiver:
        with sending(monkeypatch, receiver.endpoint) as otlp:
            otlp.emit(RECORD)
            await asyncio.to_thread(otlp.close)

        (span,) = receiver.spans
        assert (span.service, span.name, span.kind) == ("stepstream-test", RECORD.name, "CONSUMER")
        assert (span.trace_id, span.span_id) == (TRACE, OWN.span_id)
        assert (span.parent_id, span.links) == (RECORD.parent_id, (BEFORE.span_id,))
        assert (span.end_ns - span.start_ns) / 1e6 == 250
        assert span.attributes == {"stepstream.attempt": 2, "error.type": "BUSY"}
        assert span.error == "BUSY"


async def test_a_span_without_a_parent_begins_the_trace_that_it_names(monkeypatch):
    root = SpanRecord(name="task p", context=OWN, parent_id="", start_ms=2, end_ms=1)
    async with running_receiver() as receiver:
        with sending(monkeypatch, receiver.endpoint, OTEL_SERVICE_NAME="mine") as otlp:
            otlp.emit(root)
            await asyncio.to_thread(otlp.close)

        (span,) = receiver.spans
        assert (span.trace_id, span.span_id, span.parent_id) == (TRACE, OWN.span_id, "")
        assert span.service == "mine"
        assert span.end_ns == span.start_ns


@pytest.mark.parametrize(
    ("sampler", "argument", "flags", "sampled"),
    [
        ("", "", None, True),
        ("", "", 1, True),
        ("", "", 0, False),
        ("always_off", "", 1, False),
        ("always_on", "", 0, True),
        ("parentbased_always_off", "", None, False),
        ("parentbased_always_off", "", 1, True),
        ("traceidratio", "0", 1, False),
        ("parentbased_traceidratio", "0", None, False),
        ("parentbased_traceidratio", "1", None, True),
        ("parentbased_traceidratio", "0", 1, True),
    ],
)
def test_the_sampler_of_the_environment_decides(monkeypatch, sampler, argument, flags, sampled):
    if sampler:
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
        monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    parent = None
    if flags is not None:
        parent = TraceContext(trace_id=TRACE, span_id=OWN.span_id, flags=flags)

    with sending(monkeypatch, "http://127.0.0.1:9") as otlp:
        assert otlp.is_sampled("task p", TRACE, parent) is sampled


def test_a_collector_that_is_away_costs_a_bounded_time_and_one_line(monkeypatch, caplog):
    with sending(monkeypatch, "http://127.0.0.1:9", OTEL_BSP_SCHEDULE_DELAY="10") as otlp:
        began_mono = time.monotonic()
        for _ in range(5000):
            otlp.emit(RECORD)
        emitted_mono = time.monotonic()
        with caplog.at_level(logging.WARNING):
            otlp.close(0.3)
        closed_mono = time.monotonic()

    assert emitted_mono - began_mono < 5
    assert closed_mono - emitted_mono < 1.5
    by_logger = [record.name for record in caplog.records]
    assert len(by_logger) == len(set(by_logger))


def test_complaints_about_a_collector_are_rare_whatever_they_say(monkeypatch, caplog):
    with sending(monkeypatch, "http://127.0.0.1:9"), caplog.at_level(logging.WARNING):
        for number in range(10):
            logging.getLogger("opentelemetry.exporter.otlp.proto.grpc.exporter").error(
                "attempt %d failed", number
            )

    assert len(caplog.records) <= 1
