"""Every stage meets every fact, and every move does what its line of the table says."""

import itertools

import msgspec
import pytest

from stepstream_dispatcher.core import facts as f
from stepstream_dispatcher.core.lifecycle import (
    MOVES,
    Refusal,
    phase_of,
)
from stepstream_dispatcher.core.record import EventType, Stage, TaskRecord
from tests.support.records import (
    ENTRY,
    NOW_MS,
    TASK_ID,
    TOKEN,
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

RECORDS = {
    Stage.QUEUED: queued(),
    Stage.LEASED: leased(),
    Stage.DELAYED: delayed(),
    Stage.WAITING: waiting(),
    Stage.ENDED: ended(),
}
FACTS = facts_of_every_kind()

# (stage, fact) -> the stage and the state that follow, and the event that says so
LEGAL = {
    (Stage.QUEUED, f.Leased): (Stage.LEASED, "translating", EventType.LEASED),
    (Stage.QUEUED, f.Requeued): (Stage.QUEUED, "pending", EventType.QUEUED),
    (Stage.QUEUED, f.CancelAsked): (Stage.ENDED, "cancelled", EventType.CANCELLED),
    (Stage.LEASED, f.Adopted): (Stage.LEASED, "translating", EventType.ADOPTED),
    (Stage.LEASED, f.Completed): (Stage.QUEUED, "llm_verification", EventType.COMPLETED),
    (Stage.LEASED, f.Failed): (Stage.DELAYED, "translating", EventType.RETRYING),
    (Stage.LEASED, f.Lost): (Stage.DELAYED, "translating", EventType.LOST),
    (Stage.LEASED, f.Released): (Stage.QUEUED, "translating", EventType.RELEASED),
    (Stage.LEASED, f.CancelAsked): (Stage.LEASED, "translating", EventType.CANCEL_REQUESTED),
    (Stage.LEASED, f.Progressed): (Stage.LEASED, "translating", EventType.PROGRESS),
    (Stage.DELAYED, f.Due): (Stage.QUEUED, "translating", EventType.QUEUED),
    (Stage.DELAYED, f.CancelAsked): (Stage.ENDED, "cancelled", EventType.CANCELLED),
    (Stage.WAITING, f.Reviewed): (Stage.ENDED, "done", EventType.DONE),
    (Stage.WAITING, f.CancelAsked): (Stage.ENDED, "cancelled", EventType.CANCELLED),
    (Stage.ENDED, f.Redriven): (Stage.QUEUED, "translating", EventType.REDRIVEN),
    (Stage.ENDED, f.InputUpdated): (Stage.ENDED, "failed", EventType.INPUT_UPDATED),
}
# what every other pair is refused with, by fact
REFUSED = {
    f.Leased: Refusal.OBSOLETE,
    f.Adopted: Refusal.STALE_LEASE,
    f.Completed: Refusal.STALE_LEASE,
    f.Failed: Refusal.STALE_LEASE,
    f.Released: Refusal.STALE_LEASE,
    f.Lost: Refusal.OBSOLETE,
    f.Due: Refusal.OBSOLETE,
    f.DeadlinePassed: Refusal.OBSOLETE,
    f.Requeued: Refusal.OBSOLETE,
    f.CancelAsked: Refusal.FINISHED,
    f.Reviewed: Refusal.NOT_WAITING,
    f.Redriven: Refusal.NOT_FAILED,
    f.InputUpdated: Refusal.NOT_FAILED,
    f.Progressed: Refusal.STALE_LEASE,
}
PAIRS = list(itertools.product(Stage, FACTS))
ILLEGAL = [pair for pair in PAIRS if pair not in LEGAL]
HOLDERS_WORDS = [f.Adopted, f.Completed, f.Failed, f.Released, f.Progressed]
SETTLEMENTS = [f.Completed, f.Failed, f.Lost, f.Released]


def named(pair: tuple[Stage, type[f.Fact]]) -> str:
    return f"{pair[0].value}-{pair[1].__name__}"


def failed(**changes: object) -> f.Failed:
    fact = f.Failed(token=TOKEN, code="BUSY", message="try later", retryable=True)
    return msgspec.structs.replace(fact, **changes)


def lost(**changes: object) -> f.Lost:
    fact = f.Lost(token=TOKEN, reason="gone", owner="dispatcher-1", waited_ms=0)
    return msgspec.structs.replace(fact, **changes)


# --- the table -----------------------------------------------------------------------------------


def test_every_kind_of_fact_is_in_these_tests():
    assert set(FACTS) == set(f.Fact.__subclasses__()) == set(REFUSED)


def test_the_table_has_no_line_beyond_those_tested_here():
    only_refusing = {(Stage.ENDED, f.CancelAsked)}
    with_a_deadline = {(stage, f.DeadlinePassed) for stage in Stage if stage is not Stage.ENDED}

    assert set(MOVES) == set(LEGAL) | only_refusing | with_a_deadline


@pytest.mark.parametrize("pair", LEGAL, ids=named)
def test_legal_fact_moves_the_task(pair: tuple[Stage, type[f.Fact]]):
    record = RECORDS[pair[0]]

    transition = decided(record, FACTS[pair[1]])

    known = applied(record, transition, entry="2-0")
    assert (known.stage, known.state, transition.event.type) == LEGAL[pair]


@pytest.mark.parametrize("pair", ILLEGAL, ids=named)
def test_illegal_fact_is_refused(pair: tuple[Stage, type[f.Fact]]):
    assert refused(RECORDS[pair[0]], FACTS[pair[1]]) is REFUSED[pair[1]]


@pytest.mark.parametrize("pair", LEGAL, ids=named)
def test_transition_is_guarded_and_recorded_by_version(pair: tuple[Stage, type[f.Fact]]):
    record = RECORDS[pair[0]]

    transition = decided(record, FACTS[pair[1]])

    assert transition.task_id == TASK_ID
    assert transition.op_id == "op000001"
    assert transition.expected_version == record.version
    assert transition.event.at_ms == NOW_MS
    if transition.touch:
        assert "version" not in transition.fields
        assert transition.event.sequence == 0
    else:
        assert transition.fields["version"] == record.version + 1
        assert transition.fields["updated_ms"] == NOW_MS
        assert transition.event.sequence == record.version + 1


@pytest.mark.parametrize("pair", LEGAL, ids=named)
def test_state_moves_exactly_where_it_changes(pair: tuple[Stage, type[f.Fact]]):
    record = RECORDS[pair[0]]

    transition = decided(record, FACTS[pair[1]])

    state = transition.fields.get("state", record.state)
    assert transition.move == ((record.state, state) if state != record.state else None)
    assert transition.event.state == state


# --- leases --------------------------------------------------------------------------------------


def test_lease_names_its_holder_and_counts_the_attempt():
    transition = decided(queued(attempt=2, failures=2), FACTS[f.Leased])

    assert transition.fields["attempt"] == 3
    assert transition.fields["lease"] == "lease-of-another"
    assert transition.fields["owner"] == "dispatcher-1"
    assert transition.fields["worker"] == "worker-1"
    assert transition.fields["leased_ms"] == NOW_MS
    assert transition.event.attempt == 3
    assert transition.event.actor == "worker-1"
    assert transition.ack is None
    assert transition.lease == ""


def test_lease_forgets_the_progress_of_the_attempt_before():
    transition = decided(queued(progress=0.7, note="page 7"), FACTS[f.Leased])

    assert transition.fields["progress"] == 0.0
    assert transition.fields["note"] == ""


def test_lease_of_an_entry_that_was_replaced_is_obsolete():
    assert refused(queued(entry="9-9"), FACTS[f.Leased]) is Refusal.OBSOLETE


def test_requeue_of_an_entry_that_was_replaced_is_obsolete():
    assert refused(queued(entry="9-9"), FACTS[f.Requeued]) is Refusal.OBSOLETE


def test_requeue_replaces_the_entry_uncharged():
    transition = decided(queued(attempt=1, failures=1), FACTS[f.Requeued])

    assert transition.ack == ("default", ENTRY)
    assert transition.enqueue == "default"
    assert not {"attempt", "failures", "losses"} & transition.fields.keys()


@pytest.mark.parametrize("kind", HOLDERS_WORDS)
def test_word_of_another_lease_is_stale(kind: type[f.Fact]):
    assert refused(leased(lease="another"), FACTS[kind]) is Refusal.STALE_LEASE


@pytest.mark.parametrize("kind", [*HOLDERS_WORDS, f.Lost])
def test_word_of_a_lease_is_obsolete_or_stale_once_it_is_settled(kind: type[f.Fact]):
    settled = applied(leased(), decided(leased(), FACTS[f.Completed]), entry="2-0")

    assert refused(settled, FACTS[kind]) is REFUSED[kind]


def test_adoption_changes_the_owner_alone():
    transition = decided(leased(), FACTS[f.Adopted])

    assert transition.lease == TOKEN
    assert set(transition.fields) == {"owner", "version", "updated_ms"}
    assert transition.fields["owner"] == "dispatcher-2"
    assert transition.ack is None


def test_adoption_by_the_owner_is_obsolete():
    assert refused(leased(owner="dispatcher-2"), FACTS[f.Adopted]) is Refusal.OBSOLETE


def test_progress_touches_without_a_version():
    transition = decided(leased(), f.Progressed(token=TOKEN, progress=0.25, note="page 1"))

    assert transition.touch
    assert transition.lease == TOKEN
    assert transition.fields == {"progress": 0.25, "note": "page 1"}
    assert transition.event.progress == 0.25
    assert transition.event.message == "page 1"


def test_note_is_cut_between_characters():
    transition = decided(leased(), f.Progressed(token=TOKEN, progress=0.1, note="譯" * 30))

    assert transition.fields["note"] == "譯" * 21


# --- the end of an attempt -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", SETTLEMENTS)
@pytest.mark.parametrize("cancel", [0, 1])
def test_settlement_deletes_the_entry_and_frees_the_holder(kind: type[f.Fact], cancel: int):
    record = leased(cancel=cancel)

    transition = decided(record, FACTS[kind])

    known = applied(record, transition, entry="2-0")
    assert transition.lease == TOKEN
    assert transition.ack == ("default", ENTRY)
    assert (known.lease, known.owner, known.worker) == ("", "", "")
    assert known.entry == ("2-0" if transition.enqueue else "")


@pytest.mark.parametrize(
    ("fact", "settles"),
    [
        (FACTS[f.Completed], "translate"),
        (failed(reported=True), "translate"),
        (failed(reported=False), ""),
        (f.Released(token=TOKEN, reason="drain", reported=True), "translate"),
        (f.Released(token=TOKEN, reason="drain"), ""),
        (lost(), ""),
    ],
)
def test_only_a_workers_own_word_is_kept_as_the_settlement(fact: f.Fact, settles: str):
    assert decided(leased(), fact).settles == settles


@pytest.mark.parametrize(
    ("fact", "tally"),
    [
        (FACTS[f.Completed], ("worker-1", "processed")),
        (failed(), ("worker-1", "failed")),
        (lost(), ("worker-1", "failed")),
        (FACTS[f.Released], None),
    ],
)
def test_attempts_that_ended_are_counted_for_their_worker(fact: f.Fact, tally: tuple[str, str]):
    assert decided(leased(), fact).tally == tally


@pytest.mark.parametrize("kind", SETTLEMENTS)
def test_the_event_of_a_settlement_names_the_worker(kind: type[f.Fact]):
    assert decided(leased(), FACTS[kind]).event.actor == "worker-1"


def test_loss_that_is_queued_at_once_names_the_worker():
    assert decided(leased(), lost(waited_ms=2_000)).event.actor == "worker-1"


def test_completion_goes_on_to_the_next_step_afresh():
    record = leased(failures=2, losses=1, attempt=3, progress=0.9, note="almost")

    transition = decided(record, FACTS[f.Completed])

    known = applied(record, transition, entry="2-0")
    assert transition.data == {"output.translate": b"output"}
    assert transition.enqueue == "checks"
    assert (known.step, known.queue, known.state) == ("verify", "checks", "llm_verification")
    assert (known.attempt, known.failures, known.losses) == (0, 0, 0)
    assert (known.progress, known.note) == (0.0, "")
    assert transition.event.step == "translate"
    assert transition.event.detail == "completed"


def verifying() -> TaskRecord:
    return leased(step="verify", state="llm_verification", queue="checks")


@pytest.mark.parametrize(
    ("outcome", "stage", "state", "live"),
    [
        ("passed", Stage.ENDED, "done", -1),
        ("broken", Stage.ENDED, "failed", -1),
        ("rejected", Stage.WAITING, "human_review", 0),
    ],
)
def test_outcome_leads_where_the_pipeline_says(outcome: str, stage: Stage, state: str, live: int):
    fact = f.Completed(token=TOKEN, outcome=outcome, output=b"output")

    transition = decided(verifying(), fact)

    known = applied(verifying(), transition)
    assert (known.stage, known.state) == (stage, state)
    assert transition.ack == ("checks", ENTRY)
    assert transition.enqueue is None
    assert transition.live == live
    assert transition.retain_s == (60 if live else 0)


def test_step_of_a_person_has_no_lane_and_no_entry():
    fact = f.Completed(token=TOKEN, outcome="rejected", output=b"output")

    known = applied(verifying(), decided(verifying(), fact))

    assert (known.queue, known.entry) == ("", "")


def test_outcome_that_the_step_does_not_have_is_refused():
    fact = f.Completed(token=TOKEN, outcome="maybe", output=b"")

    assert refused(leased(), fact) is Refusal.UNKNOWN_OUTCOME


# --- phases --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "phase"),
    [
        (queued(), "QUEUED"),
        (leased(), "RUNNING"),
        (delayed(), "RETRYING"),
        (delayed(state="scheduled"), "SCHEDULED"),
        (waiting(), "WAITING_FOR_REVIEW"),
        (ended(state="done"), "SUCCEEDED"),
        (ended(state="failed"), "FAILED"),
        (ended(state="cancelled"), "CANCELLED"),
    ],
)
def test_phase_follows_from_stage_and_state(record: TaskRecord, phase: str):
    assert phase_of(record) == phase
