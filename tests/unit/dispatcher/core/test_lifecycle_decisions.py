"""What people decide: cancels, reviews, dead letters put back or edited."""

import msgspec
import pytest

from stepstream_dispatcher.core import facts as f
from stepstream_dispatcher.core.lifecycle import (
    Refusal,
)
from stepstream_dispatcher.core.record import EventType, Stage, TaskRecord
from tests.support.records import (
    APPROVAL,
    ENTRY,
    applied,
    decided,
    delayed,
    ended,
    facts_of_every_kind,
    leased,
    queued,
    refused,
    waiting,
)

FACTS = facts_of_every_kind()
SETTLEMENTS = [f.Completed, f.Failed, f.Lost, f.Released]


# --- cancel --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "ack", "undelay"),
    [(queued(), ("default", ENTRY), False), (delayed(), None, True), (waiting(), None, False)],
    ids=["queued", "delayed", "waiting"],
)
def test_cancel_ends_what_nobody_holds(record: TaskRecord, ack: object, *, undelay: bool):
    transition = decided(record, f.CancelAsked(reason="no longer needed"))

    assert applied(record, transition).state == "cancelled"
    assert transition.ack == ack
    assert transition.undelay is undelay
    assert (transition.live, transition.retain_s) == (-1, 60)
    assert transition.event.message == "no longer needed"


def test_cancel_of_a_held_step_is_an_intent():
    transition = decided(leased(), f.CancelAsked(reason="x" * 1000))

    assert transition.fields["cancel"] == 1
    assert transition.live == 0
    assert len(transition.event.message) == 256


def test_cancel_asked_again_is_obsolete():
    assert refused(leased(cancel=1), FACTS[f.CancelAsked]) is Refusal.OBSOLETE
    assert refused(ended(state="cancelled"), FACTS[f.CancelAsked]) is Refusal.OBSOLETE


@pytest.mark.parametrize("state", ["done", "failed"])
def test_cancel_after_the_end_is_refused(state: str):
    assert refused(ended(state=state), FACTS[f.CancelAsked]) is Refusal.FINISHED


@pytest.mark.parametrize("kind", SETTLEMENTS)
def test_every_settlement_after_a_cancel_ends_as_cancelled(kind: type[f.Fact]):
    transition = decided(leased(cancel=1), FACTS[kind])

    assert transition.fields["state"] == "cancelled"
    assert transition.event.type is EventType.CANCELLED
    assert (transition.live, transition.retain_s) == (-1, 60)
    assert transition.enqueue is transition.due_ms is None


# --- reviews -------------------------------------------------------------------------------------


def test_approval_ends_with_what_is_there():
    transition = decided(waiting(), f.Reviewed(decision="approved", reviewer="ada"))

    assert transition.fields["state"] == "done"
    assert transition.fields["reviewer"] == "ada"
    assert transition.data == {}
    assert (transition.event.actor, transition.event.detail) == ("ada", "approved")


def test_edit_ends_with_the_persons_text():
    fact = f.Reviewed(decision="edited", reviewer="ada", output=b"better")

    transition = decided(waiting(), fact)

    assert transition.fields["state"] == "done"
    assert transition.data == {"output.review": b"better"}


def test_rejection_goes_back_with_its_feedback():
    fact = f.Reviewed(decision="rejected", reviewer="ada", feedback="too literal")

    transition = decided(waiting(revisions=1), fact)

    assert transition.event.type is EventType.REVIEWED
    assert transition.enqueue == "default"
    assert transition.fields["step"] == "translate"
    assert transition.fields["state"] == "translating"
    assert transition.fields["revisions"] == 2
    assert transition.data == {"feedback": b"too literal"}


def test_rejection_beyond_the_revisions_is_refused_and_stays_in_review():
    fact = f.Reviewed(decision="rejected", reviewer="ada", feedback="again")

    assert decided(waiting(revisions=2), fact).fields["revisions"] == 3
    assert refused(waiting(revisions=3), fact) is Refusal.NO_REVISION_LEFT


def test_decision_is_fenced_by_the_version_that_was_seen():
    fact = f.Reviewed(decision="approved", reviewer="ada", seen_version=4)

    assert refused(waiting(version=5), fact) is Refusal.NOT_WAITING
    assert decided(waiting(version=4), fact).fields["state"] == "done"


# --- dead letters --------------------------------------------------------------------------------


def test_redrive_starts_the_step_afresh_and_keeps_its_errors():
    record = ended(cancel=1)

    transition = decided(record, f.Redriven())

    known = applied(record, transition, entry="2-0")
    assert (known.failures, known.losses, known.cancel) == (0, 0, 0)
    assert (known.attempt, known.errors) == (4, 4)
    assert transition.enqueue == "default"
    assert (transition.live, transition.retain_s) == (1, -1)


@pytest.mark.parametrize("state", ["done", "cancelled"])
@pytest.mark.parametrize("kind", [f.Redriven, f.InputUpdated])
def test_only_a_dead_letter_is_redriven_or_edited(kind: type[f.Fact], state: str):
    assert refused(ended(state=state), FACTS[kind]) is Refusal.NOT_FAILED


def test_input_of_a_dead_letter_is_replaced():
    transition = decided(ended(), FACTS[f.InputUpdated])

    assert transition.data == {"input": b"input"}
    assert transition.fields["input_hash"] == "fedcba9876543210"
    assert (transition.live, transition.retain_s) == (0, 0)


def test_input_is_fenced_by_the_version_that_was_seen():
    fact = msgspec.structs.replace(FACTS[f.InputUpdated], seen_version=4)

    assert refused(ended(version=5), fact) is Refusal.NOT_FAILED
    assert decided(ended(version=4), fact).data == {"input": b"input"}


# --- a person before everything ------------------------------------------------------------------


def asking(**changes: object) -> TaskRecord:
    return waiting(state="asking", step="allow", pipeline=APPROVAL.key, **changes)


def test_rejection_may_end_the_task():
    fact = f.Reviewed(decision="rejected", reviewer="ada", feedback="no")

    transition = decided(asking(), fact, APPROVAL)

    assert transition.fields["state"] == "failed"
    assert transition.live == -1


def test_redrive_of_a_rejected_task_asks_the_person_again():
    fact = f.Reviewed(decision="rejected", reviewer="ada", feedback="no")
    record = applied(asking(), decided(asking(), fact, APPROVAL))

    transition = decided(record, f.Redriven(), APPROVAL)

    assert transition.event.type is EventType.REDRIVEN
    assert transition.fields["stage"] == Stage.WAITING
    assert transition.fields["state"] == "asking"
    assert transition.enqueue is None
    assert (transition.live, transition.retain_s) == (1, -1)


def test_scheduled_task_that_begins_with_a_person_waits_for_one():
    record = delayed(
        state="scheduled", step="allow", queue="", pipeline=APPROVAL.key, attempt=0, failures=0
    )

    transition = decided(record, f.Due(), APPROVAL)

    assert transition.event.type is EventType.WAITING
    assert transition.move == ("scheduled", "asking")
    assert transition.fields["stage"] == Stage.WAITING
    assert transition.fields["due_ms"] == 0
    assert transition.undelay
    assert transition.enqueue is None
