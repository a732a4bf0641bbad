"""Which spans a transition ends, decided from the record before it."""

import msgspec
import pytest

from stepstream.trace_context import TraceContext, span_id_of
from stepstream_dispatcher.core import facts as f
from stepstream_dispatcher.core.record import Stage
from stepstream_dispatcher.core.spans import TaskTrace, carrier_of, spans_of, stored_trace, trace_of
from tests.support.records import (
    APPROVAL,
    ENTRY,
    NOW_MS,
    TASK_ID,
    TOKEN,
    decided,
    delayed,
    ended,
    facts_of_every_kind,
    leased,
    queued,
    waiting,
)

OWN = TraceContext(trace_id="0af7651916cd43dd8448eb211c80319c", span_id="b7ad6b7169203331", flags=1)
TRACE = TaskTrace(context=OWN, parent_id="1111111111111111")
LOST = f.Lost(token=TOKEN, reason="gone", owner="dispatcher-1", waited_ms=0)
TOO_LONG = f.Failed(
    token=TOKEN, code="DEADLINE_EXCEEDED", message="too long", retryable=True, reported=False
)
RECORDS = {
    Stage.QUEUED: queued(),
    Stage.LEASED: leased(),
    Stage.DELAYED: delayed(),
    Stage.WAITING: waiting(),
    Stage.ENDED: ended(),
}


def spans(record, fact, trace=TRACE, **options):
    return spans_of(TASK_ID, record, decided(record, fact, **options), trace)


def shown(record, fact, **options):
    return [(one.name, one.error) for one in spans(record, fact, **options)]


@pytest.mark.parametrize(
    ("stage", "fact", "expected"),
    [
        (Stage.QUEUED, f.Leased, ["queue default"]),
        (Stage.QUEUED, f.Requeued, ["queue default"]),
        (Stage.QUEUED, f.CancelAsked, ["queue default", "task translation"]),
        (Stage.LEASED, f.Adopted, []),
        (Stage.LEASED, f.CancelAsked, []),
        (Stage.LEASED, f.Progressed, []),
        (Stage.LEASED, f.Completed, []),
        (Stage.LEASED, f.Failed, []),
        (Stage.LEASED, f.Released, ["process translate"]),
        (Stage.LEASED, f.Lost, ["process translate"]),
        (Stage.DELAYED, f.Due, ["delay translate"]),
        (Stage.DELAYED, f.CancelAsked, ["delay translate", "task translation"]),
        (Stage.WAITING, f.Reviewed, ["review review", "task translation"]),
        (Stage.WAITING, f.CancelAsked, ["review review", "task translation"]),
        (Stage.ENDED, f.Redriven, []),
        (Stage.ENDED, f.InputUpdated, []),
    ],
)
def test_every_transition_ends_its_spans(stage, fact, expected):
    made = spans(RECORDS[stage], facts_of_every_kind()[fact])

    assert [one.name for one in made] == expected
    assert all(one.context.trace_id == OWN.trace_id for one in made)


def test_a_wait_begins_with_the_transition_before_and_ends_with_this_one():
    record = queued(step="verify", queue="checks", version=8)

    (span,) = spans(record, facts_of_every_kind()[f.Leased])

    assert (span.start_ms, span.end_ms) == (record.updated_ms, NOW_MS)
    assert span.context.span_id == span_id_of(f"{TASK_ID}/8")
    assert span.parent_id == OWN.span_id
    assert span.attributes == {
        "stepstream.task.id": TASK_ID,
        "stepstream.pipeline": "translation",
        "stepstream.step": "verify",
        "stepstream.queue": "checks",
        "stepstream.outcome": "leased",
        "stepstream.wait_ms": 2000,
    }


@pytest.mark.parametrize(
    ("fact", "outcome"),
    [
        (f.Requeued(entry=ENTRY, reason="no room"), "requeued"),
        (f.CancelAsked(reason=""), "cancelled"),
    ],
)
def test_a_wait_that_led_to_no_lease_says_so(fact, outcome):
    assert spans(queued(), fact)[0].attributes["stepstream.outcome"] == outcome


@pytest.mark.parametrize(
    ("fact", "decision", "reviewer"),
    [
        (f.Reviewed(decision="approved", reviewer="ada"), "approved", "ada"),
        (f.Reviewed(decision="edited", reviewer="ada", output=b"x"), "edited", "ada"),
        (f.Reviewed(decision="rejected", reviewer="bo", feedback="no"), "rejected", "bo"),
        (f.CancelAsked(reason="too late"), "cancelled", None),
    ],
)
def test_a_review_says_who_decided_what(fact, decision, reviewer):
    review = spans(waiting(), fact)[0]

    assert review.attributes["stepstream.decision"] == decision
    assert review.attributes.get("stepstream.reviewer") == reviewer
    assert "no" not in review.attributes.values()


@pytest.mark.parametrize(
    ("fact", "outcome", "error"),
    [
        (LOST, "lost", "WORKER_LOST"),
        (TOO_LONG, "failed", "DEADLINE_EXCEEDED"),
        (f.Released(token=TOKEN, reason="never received"), "released", ""),
    ],
)
@pytest.mark.parametrize("cancel", [0, 1])
def test_an_attempt_that_its_worker_did_not_settle_is_shown_here(fact, outcome, error, cancel):
    span = spans(leased(attempt=3, revisions=1, cancel=cancel), fact)[0]

    assert (span.name, span.kind, span.error) == ("process translate", "consumer", error)
    assert (span.start_ms, span.end_ms) == (NOW_MS - 1000, NOW_MS)
    assert span.context.span_id == span_id_of(f"{TASK_ID}/translate/1.3")
    assert [link.span_id for link in span.links] == [span_id_of(f"{TASK_ID}/translate/1.2")]
    assert span.attributes == {
        "stepstream.task.id": TASK_ID,
        "stepstream.pipeline": "translation",
        "stepstream.step": "translate",
        "stepstream.attempt": 3,
        "stepstream.worker": "worker-1",
        "stepstream.lease": TOKEN,
        "stepstream.outcome": outcome,
        "messaging.system": "stepstream",
        "messaging.operation.type": "process",
    }


def test_the_first_attempt_has_no_link():
    assert spans(leased(), LOST)[0].links == ()


def test_a_release_by_the_worker_is_its_own_to_show():
    assert spans(leased(), f.Released(token=TOKEN, reason="it drains", reported=True)) == []


def test_a_task_is_shown_from_its_acceptance_to_its_end():
    record = leased(step="verify", revisions=2)

    (task,) = spans(record, f.Completed(token=TOKEN, outcome="passed", output=b""))

    assert (task.name, task.context, task.parent_id) == ("task translation", OWN, TRACE.parent_id)
    assert (task.start_ms, task.end_ms, task.error) == (record.created_ms, NOW_MS, "")
    assert task.attributes == {
        "stepstream.task.id": TASK_ID,
        "stepstream.pipeline": "translation",
        "stepstream.state": "done",
        "stepstream.revisions": 2,
    }


def test_a_dead_letter_says_its_code():
    never = f.Failed(token=TOKEN, code="NEVER", message="the secret", retryable=False)

    assert shown(leased(), never) == [("task translation", "NEVER")]
    assert "secret" not in str(spans(leased(), never))


def test_a_dead_letter_by_decision_says_it_too():
    record = waiting(pipeline=APPROVAL.key, step="allow", state="asking")
    fact = f.Reviewed(decision="rejected", reviewer="ada")

    assert shown(record, fact, pipeline=APPROVAL)[-1] == ("task approval", "rejected")


@pytest.mark.parametrize(
    "trace",
    [
        TaskTrace(context=msgspec.structs.replace(OWN, flags=0), parent_id=""),
        TaskTrace(context=msgspec.structs.replace(OWN, flags=2), parent_id=""),
    ],
)
def test_what_is_not_sampled_has_no_spans(trace):
    assert spans(waiting(), f.CancelAsked(reason=""), trace) == []


def test_a_task_under_its_callers_span_has_none_of_its_own():
    trace = TaskTrace(context=OWN)

    made = spans(waiting(), f.CancelAsked(reason=""), trace)

    assert [(one.name, one.parent_id) for one in made] == [("review review", OWN.span_id)]


def test_a_trace_is_stored_with_its_parent_and_workers_get_the_rest():
    carrier = {"traceparent": f"00-{OWN.trace_id}-{TRACE.parent_id}-01", "baggage": "a=1"}

    stored = msgspec.json.encode(stored_trace(carrier, TRACE))

    assert trace_of(stored) == TRACE
    assert carrier_of(stored) == {"traceparent": OWN.traceparent, "baggage": "a=1"}


def test_what_a_caller_sent_is_a_trace_whose_task_has_no_span():
    stored = msgspec.json.encode({"traceparent": OWN.traceparent, "tracestate": "a=1"})

    trace = trace_of(stored)

    assert trace == TaskTrace(context=msgspec.structs.replace(OWN, state="a=1"), parent_id=None)


@pytest.mark.parametrize("stored", [b"", b"{", b"[]", b'{"baggage":"a=1"}', b'{"traceparent":"x"}'])
def test_what_is_no_trace_is_none(stored):
    assert trace_of(stored) is None
