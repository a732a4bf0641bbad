"""What the deadline of a task does in each stage, and to the attempt that runs meanwhile."""

import msgspec
import pytest

from stepstream_dispatcher.core import facts as f
from stepstream_dispatcher.core.decision import AttemptFailure, Refusal
from stepstream_dispatcher.core.record import EventType, Stage, TaskRecord
from tests.support.records import (
    ENTRY,
    NOW_MS,
    TOKEN,
    applied,
    decided,
    delayed,
    ended,
    leased,
    queued,
    refused,
    waiting,
)

MISSED = "the task had not ended 60 s after it was accepted"
LATE = {"deadline_ms": NOW_MS}
LATER = {"deadline_ms": NOW_MS + 500}
UNHELD = [queued(**LATE), delayed(**LATE), waiting(**LATE)]
SETTLEMENTS = [
    f.Completed(token=TOKEN, outcome="completed", output=b"output"),
    f.Failed(token=TOKEN, code="BUSY", message="try later", retryable=True),
    f.Lost(token=TOKEN, reason="gone", owner="dispatcher-1", waited_ms=0),
    f.Released(token=TOKEN, reason="it drains"),
]


def stage_of(record: TaskRecord) -> str:
    return record.stage.value


def kind_of(fact: f.Fact) -> str:
    return type(fact).__name__


def errors_of(data: dict[str, bytes]) -> dict[str, AttemptFailure]:
    return {
        name: msgspec.msgpack.decode(value, type=AttemptFailure)
        for name, value in data.items()
        if name.startswith("error.")
    }


@pytest.mark.parametrize("record", UNHELD, ids=stage_of)
def test_a_task_that_nobody_holds_fails(record: TaskRecord):
    transition = decided(record, f.DeadlinePassed())

    known = applied(record, transition)
    assert (known.stage, known.state) == (Stage.ENDED, "failed")
    assert (transition.live, transition.retain_s) == (-1, 60)
    assert transition.ack == (("default", ENTRY) if record.entry else None)
    assert transition.undelay
    assert transition.tally is None
    event = transition.event
    assert (event.type, event.detail, event.message) == (
        EventType.FAILED,
        "DEADLINE_EXCEEDED",
        MISSED,
    )


@pytest.mark.parametrize("record", UNHELD, ids=stage_of)
def test_its_error_history_says_so_once_and_charges_no_retry(record: TaskRecord):
    transition = decided(record, f.DeadlinePassed())

    (error,) = errors_of(transition.data).values()
    assert (error.code, error.message, error.worker) == ("DEADLINE_EXCEEDED", MISSED, "")
    assert (error.started_ms, error.ended_ms) == (record.created_ms, NOW_MS)
    assert not error.retryable
    assert transition.fields["errors"] == record.errors + 1
    assert "failures" not in transition.fields


@pytest.mark.parametrize("build", [queued, delayed, waiting])
@pytest.mark.parametrize("deadline_ms", [0, NOW_MS + 1])
def test_a_deadline_that_is_not_there_or_has_not_passed_is_obsolete(build, deadline_ms: int):
    record = build(deadline_ms=deadline_ms)

    assert refused(record, f.DeadlinePassed()) is Refusal.OBSOLETE


def test_an_ended_task_has_no_deadline_any_more():
    assert refused(ended(**LATE), f.DeadlinePassed()) is Refusal.OBSOLETE


def test_what_is_leased_is_left_to_the_dispatcher_that_answers_for_it():
    assert refused(leased(**LATE), f.DeadlinePassed()) is Refusal.OBSOLETE
    assert refused(leased(**LATE), f.DeadlinePassed(token="stale")) is Refusal.OBSOLETE


def test_an_attempt_that_ran_into_the_deadline_fails_its_task():
    record = leased(deadline_ms=NOW_MS + 3)  # its clock may be a little ahead of the store's

    transition = decided(record, f.DeadlinePassed(token=TOKEN))

    known = applied(record, transition)
    assert (known.stage, known.state, known.lease, known.entry) == (Stage.ENDED, "failed", "", "")
    assert transition.lease == TOKEN
    assert transition.ack == ("default", ENTRY)
    assert transition.tally == ("worker-1", "failed")
    (error,) = errors_of(transition.data).values()
    assert (error.code, error.worker, error.attempt) == ("DEADLINE_EXCEEDED", "worker-1", 1)
    assert error.started_ms == record.leased_ms


def test_an_attempt_that_was_to_be_cancelled_is_cancelled_at_the_deadline():
    transition = decided(leased(cancel=1, **LATE), f.DeadlinePassed(token=TOKEN))

    assert transition.event.type is EventType.CANCELLED


@pytest.mark.parametrize("fact", SETTLEMENTS, ids=kind_of)
def test_an_attempt_that_is_settled_after_the_deadline_fails_its_task(fact: f.Fact):
    transition = decided(leased(**LATE), fact)

    assert transition.event.type is EventType.FAILED
    assert transition.event.detail == "DEADLINE_EXCEEDED"
    assert transition.enqueue is None
    assert transition.due_ms is None
    assert transition.ack == ("default", ENTRY)


def test_the_output_of_a_late_attempt_is_kept():
    transition = decided(leased(**LATE), SETTLEMENTS[0])

    assert transition.data["output.translate"] == b"output"


@pytest.mark.parametrize(
    ("fact", "code"), [(SETTLEMENTS[1], "BUSY"), (SETTLEMENTS[2], "WORKER_LOST")]
)
def test_the_error_of_a_late_attempt_is_kept_beside_the_deadlines(fact: f.Fact, code: str):
    transition = decided(leased(errors=7, **LATE), fact)

    errors = errors_of(transition.data)
    assert {name: error.code for name, error in errors.items()} == {
        "error.7": code,
        "error.8": "DEADLINE_EXCEEDED",
    }
    assert transition.fields["errors"] == 9


@pytest.mark.parametrize("fact", SETTLEMENTS, ids=kind_of)
def test_before_the_deadline_an_attempt_is_settled_as_ever(fact: f.Fact):
    plain, with_deadline = decided(leased(), fact), decided(leased(**LATER), fact)

    assert with_deadline.event == plain.event
    assert with_deadline.enqueue == plain.enqueue


def test_nothing_is_handed_out_after_the_deadline():
    lease = f.Leased(entry=ENTRY, token="new", owner="dispatcher-1", worker="worker-1")

    assert refused(queued(**LATE), lease) is Refusal.OBSOLETE


# --- the timer -----------------------------------------------------------------------------------


def test_a_leased_task_has_no_timer_and_gets_it_back_when_it_is_released():
    lease = f.Leased(entry=ENTRY, token=TOKEN, owner="dispatcher-1", worker="worker-1")

    handed_out = decided(queued(**LATER), lease)
    released = decided(leased(**LATER), SETTLEMENTS[3])

    assert (handed_out.due_ms, handed_out.undelay) == (None, True)
    assert (released.due_ms, released.undelay) == (NOW_MS + 500, False)


@pytest.mark.parametrize(("deadline_ms", "timer_ms"), [(500, 500), (60_000, 1_000), (0, 1_000)])
def test_a_delayed_task_wakes_at_its_due_time_or_its_deadline(deadline_ms: int, timer_ms: int):
    record = leased(deadline_ms=deadline_ms and NOW_MS + deadline_ms)

    transition = decided(record, SETTLEMENTS[1])

    assert transition.due_ms == NOW_MS + timer_ms
    assert transition.fields["due_ms"] == NOW_MS + 1_000


def test_a_task_that_is_queued_when_it_is_due_has_its_deadline_left():
    transition = decided(delayed(**LATER), f.Due())

    assert (transition.due_ms, transition.undelay) == (NOW_MS + 500, False)


def test_a_task_that_begins_a_review_has_its_deadline_left():
    record = leased(step="verify", state="llm_verification", **LATER)

    transition = decided(record, f.Completed(token=TOKEN, outcome="rejected", output=b""))

    assert applied(record, transition).stage is Stage.WAITING
    assert transition.due_ms == NOW_MS + 500


@pytest.mark.parametrize(
    ("record", "fact"),
    [
        (queued(), f.Requeued(entry=ENTRY, reason="")),
        (queued(), f.CancelAsked(reason="")),
        (leased(), SETTLEMENTS[0]),
        (waiting(), f.Reviewed(decision="approved", reviewer="ada")),
        (queued(**LATER), f.Requeued(entry=ENTRY, reason="")),
    ],
)
def test_a_timer_that_stays_as_it_is_is_not_touched(record: TaskRecord, fact: f.Fact):
    transition = decided(record, fact)

    assert (transition.due_ms, transition.undelay) == (None, False)


def test_a_dead_letter_that_is_redriven_has_no_deadline_any_more():
    transition = decided(ended(**LATE), f.Redriven())

    assert transition.fields["deadline_ms"] == 0
    assert (transition.due_ms, transition.undelay) == (None, False)
