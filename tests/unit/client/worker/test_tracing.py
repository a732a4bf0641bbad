"""An attempt has one span: its worker's if its result counts, else none from here."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from opentelemetry import baggage, trace
from structlog.contextvars import get_contextvars

from stepstream.otlp import Otlp
from stepstream.trace_context import span_id_of
from stepstream.v1 import worker_service_pb2 as pb
from stepstream.worker import StepContext
from stepstream.worker.attempt import Attempt
from stepstream.worker.tracing import AttemptSpans
from tests.support.otlp_receiver import OtlpReceiver, Received, running_receiver

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
CARRIER = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "shop=1", "baggage": "a=1"}
NAME = "t1/work/1.2"


def attempt_at(name: str = NAME, **carrier: str) -> Attempt:
    task_id, step, number = name.split("/")
    assignment = pb.Assignment(
        assignment_id=name,
        lease_token="token",
        task_id=task_id,
        pipeline="single",
        step=step,
        attempt=int(number.rpartition(".")[2]),
        trace_context=carrier or CARRIER,
    )
    return Attempt(assignment, lambda _: None)


def settlement(**result: object) -> pb.Settlement:
    return pb.Settlement(assignment_id=NAME, lease_token="token", **result)


COMPLETED = settlement(completed=pb.Completed())
FAILED = settlement(failed=pb.Failed(code="BUSY", message="the secret"))
RELEASED = settlement(released=pb.Released(reason="leaving"))


def receipt(status: str) -> pb.Receipt:
    return pb.Receipt(assignment_id=NAME, lease_token="token", status=f"RECEIPT_STATUS_{status}")


class Traced:
    """A worker's spans and the collector that they go to."""

    def __init__(self, receiver: OtlpReceiver) -> None:
        self._receiver = receiver
        self.spans = AttemptSpans(Otlp(service="stepstream-worker", instance="w-1"), "w-1")

    async def sent(self) -> list[Received]:
        await asyncio.to_thread(self.spans.close)
        return self._receiver.spans


@pytest.fixture
async def traced(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Traced]:
    async with running_receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        made = Traced(receiver)
        yield made
        await made.sent()


@pytest.mark.parametrize(
    ("result", "outcome", "error"),
    [
        (COMPLETED, "completed", ""),
        (settlement(completed=pb.Completed(outcome="passed")), "passed", ""),
        (FAILED, "failed", "BUSY"),
        (RELEASED, "released", ""),
    ],
)
async def test_a_result_that_counts_is_shown(traced: Traced, result, outcome: str, error: str):
    attempt = attempt_at()
    traced.spans.begin(attempt)
    traced.spans.settled(attempt, result)
    traced.spans.receipted(receipt("ACCEPTED"))

    (span,) = await traced.sent()
    assert (span.name, span.kind, span.error) == ("process work", "CONSUMER", error)
    assert (span.trace_id, span.parent_id) == (TRACE, PARENT)
    assert span.span_id == span_id_of(NAME)
    assert span.links == (span_id_of("t1/work/1.1"),)
    assert span.attributes["stepstream.outcome"] == outcome
    assert "secret" not in str(span)


@pytest.mark.parametrize(
    ("status", "amount"),
    [("ACCEPTED", 1), ("DUPLICATE", 1), ("INVALID", 1), ("STALE_LEASE", 0), ("UNKNOWN", 0)],
)
async def test_the_receipt_decides_whether_it_is_shown(traced: Traced, status: str, amount: int):
    attempt = attempt_at()
    traced.spans.begin(attempt)
    traced.spans.settled(attempt, COMPLETED)
    traced.spans.receipted(receipt(status))
    traced.spans.receipted(receipt(status))

    sent = await traced.sent()
    assert len(sent) == amount
    assert [one.error for one in sent] == (["RESULT_REFUSED"] if status == "INVALID" else [""])[
        :amount
    ]


async def test_an_attempt_that_somebody_else_owns_is_not_shown(traced: Traced):
    attempt = attempt_at()
    traced.spans.begin(attempt)
    traced.spans.settled(attempt, COMPLETED)
    traced.spans.dropped(attempt.token)
    traced.spans.receipted(receipt("ACCEPTED"))

    assert await traced.sent() == []


async def test_an_attempt_given_back_before_it_started_is_shown_too(traced: Traced):
    traced.spans.settled(attempt_at("t1/work/1"), RELEASED)
    traced.spans.receipted(receipt("ACCEPTED"))

    (span,) = await traced.sent()
    assert (span.span_id, span.links) == (span_id_of("t1/work/1"), ())


@pytest.mark.parametrize("carrier", [{"baggage": "a=1"}, {"traceparent": "garbage"}, None])
async def test_what_has_no_trace_or_is_not_sampled_has_no_span(traced: Traced, carrier):
    unsampled = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
    attempt = attempt_at(**(carrier or unsampled))
    traced.spans.begin(attempt)
    traced.spans.settled(attempt, COMPLETED)
    traced.spans.receipted(receipt("ACCEPTED"))

    assert await traced.sent() == []
    assert attempt.trace_context == (carrier or unsampled)


async def test_a_handler_runs_in_the_context_of_its_attempt(traced: Traced):
    attempt = attempt_at()

    context = traced.spans.begin(attempt)

    own = f"00-{TRACE}-{span_id_of(NAME)}-01"
    assert StepContext(attempt).trace_context == {**CARRIER, "traceparent": own}
    said = {"trace_id": TRACE, "span_id": span_id_of(NAME)}
    assert context.run(get_contextvars) == said
    assert context.run(trace.get_current_span) is attempt.span
    assert context.run(baggage.get_baggage, "a") == "1"
    assert not trace.get_current_span().get_span_context().is_valid


async def test_without_an_endpoint_a_handler_runs_in_its_callers_context():
    attempt = attempt_at()
    spans = AttemptSpans()

    context = spans.begin(attempt)
    spans.settled(attempt, COMPLETED)
    spans.receipted(receipt("ACCEPTED"))

    assert StepContext(attempt).trace_context == CARRIER
    assert context.run(get_contextvars) == {"trace_id": TRACE, "span_id": PARENT}
    current = context.run(trace.get_current_span).get_span_context()
    assert f"{current.span_id:016x}" == PARENT


def test_lines_of_an_attempt_carry_its_trace():
    logger = StepContext(attempt_at()).logger

    assert logger.bind()._context["trace_id"] == TRACE
    assert "trace_id" not in StepContext(attempt_at(baggage="a=1")).logger.bind()._context
