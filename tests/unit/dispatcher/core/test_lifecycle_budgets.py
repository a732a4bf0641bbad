"""Failures, losses, releases and delays: what each charges, and when the step runs again."""

import msgspec
import pytest

from stepstream_dispatcher.core import facts as f
from stepstream_dispatcher.core.lifecycle import (
    ERRORS_MAX,
    LOSSES_MAX,
    AttemptFailure,
    Refusal,
    runs_alone,
)
from stepstream_dispatcher.core.record import EventType, Stage
from tests.support.records import (
    NOW_MS,
    TOKEN,
    applied,
    decided,
    delayed,
    facts_of_every_kind,
    leased,
    queued,
    refused,
)

FACTS = facts_of_every_kind()
SETTLEMENTS = [f.Completed, f.Failed, f.Lost, f.Released]


def failed(**changes: object) -> f.Failed:
    fact = f.Failed(token=TOKEN, code="BUSY", message="try later", retryable=True)
    return msgspec.structs.replace(fact, **changes)


def lost(**changes: object) -> f.Lost:
    fact = f.Lost(token=TOKEN, reason="gone", owner="dispatcher-1", waited_ms=0)
    return msgspec.structs.replace(fact, **changes)


# --- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("failures", "whole_ms"), [(0, 1_000), (1, 2_000), (2, 4_000)])
@pytest.mark.parametrize("rand", [0.0, 0.25, 0.5, 0.999_999])
def test_retry_waits_within_a_fifth_of_its_delay(failures: int, whole_ms: int, rand: float):
    record = leased(failures=failures, errors=failures)

    transition = decided(record, failed(), rand=rand)

    assert transition.event.type is EventType.RETRYING
    assert abs(transition.event.delay_ms - whole_ms) <= whole_ms // 5
    assert transition.due_ms == NOW_MS + transition.event.delay_ms
    assert transition.fields["due_ms"] == transition.due_ms
    assert transition.fields["failures"] == failures + 1


def test_delay_that_the_worker_asks_for_replaces_the_policys():
    assert decided(leased(), failed(retry_after_ms=30_000)).event.delay_ms == 30_000
    assert decided(leased(), failed(retry_after_ms=0)).due_ms == NOW_MS


def test_failure_beyond_the_retries_is_a_dead_letter():
    transition = decided(leased(failures=3, errors=3), failed())

    assert transition.fields["state"] == "failed"
    assert transition.fields["failures"] == 4
    assert (transition.live, transition.retain_s) == (-1, 60)
    assert transition.event.detail == "BUSY"
    assert transition.event.message == "try later"


def test_failure_that_cannot_be_retried_ends_at_once():
    assert decided(leased(), failed(retryable=False)).fields["state"] == "failed"


@pytest.mark.parametrize(("retries", "state"), [(0, "failed"), (1, "translating")])
def test_task_may_bring_its_own_retry_limit(retries: int, state: str):
    record = leased(max_retries=retries)

    assert applied(record, decided(record, failed())).state == state


@pytest.mark.parametrize("initial_ms", [1, 10_000, 600_000])
def test_task_may_bring_its_own_first_delay(initial_ms: int):
    record = leased(initial_delay_ms=initial_ms)

    assert decided(record, failed()).event.delay_ms == initial_ms


def test_failure_is_kept_whole_in_the_error_history():
    record = leased(attempt=2, failures=1, errors=7)

    transition = decided(record, failed(message="x" * 1000))

    (packed,) = transition.data.values()
    assert set(transition.data) == {"error.7"}
    assert transition.fields["errors"] == 8
    assert msgspec.msgpack.decode(packed, type=AttemptFailure) == AttemptFailure(
        attempt=2,
        worker="worker-1",
        step="translate",
        code="BUSY",
        message="x" * 1000,
        started_ms=NOW_MS - 1_000,
        ended_ms=NOW_MS,
        retryable=True,
    )
    assert len(transition.event.message) == 256


def test_error_history_overwrites_its_oldest_entry():
    record = leased(errors=ERRORS_MAX + 3)

    assert set(decided(record, failed()).data) == {"error.3"}


def test_every_failure_of_a_dead_letter_is_kept():
    record, kept = leased(), {}
    for _ in range(4):
        transition = decided(record, failed())
        kept.update(transition.data)
        record = leased(failures=transition.fields["failures"], errors=transition.fields["errors"])

    assert transition.fields["state"] == "failed"
    assert set(kept) == {"error.0", "error.1", "error.2", "error.3"}


# --- losses and releases -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "waited_ms", "delay_ms"),
    [(0, 0, 1_000), (1, 0, 2_000), (2, 0, 4_000), (3, 0, 4_000), (0, 400, 600)],
)
def test_lost_step_waits_from_the_loss_itself(losses: int, waited_ms: int, delay_ms: int):
    transition = decided(leased(losses=losses), lost(waited_ms=waited_ms))

    assert transition.fields["losses"] == losses + 1
    assert transition.event.delay_ms == delay_ms
    assert "failures" not in transition.fields
    assert set(transition.data) == {"error.0"}


def test_loss_is_kept_with_where_the_attempt_was():
    transition = decided(leased(), lost(progress=0.4, note="page 2"))

    (packed,) = transition.data.values()
    kept = msgspec.msgpack.decode(packed, type=AttemptFailure)
    assert (kept.code, kept.worker, kept.progress, kept.note) == (
        "WORKER_LOST",
        "worker-1",
        0.4,
        "page 2",
    )


def test_workers_that_vanish_with_what_they_had_not_named_are_counted_and_not_charged():
    gone = f.Released(token=TOKEN, reason="gone", unseen=True)

    transition = decided(leased(unseen=1), gone)

    assert transition.fields["unseen"] == 2
    assert transition.fields["stage"] == Stage.QUEUED
    assert transition.data == {}


@pytest.mark.parametrize(
    ("counts", "alone"),
    [({"unseen": 1}, False), ({"unseen": 2}, True), ({"unseen": 1, "losses": 1}, True)],
)
def test_step_that_two_workers_vanished_with_runs_alone(counts: dict[str, int], *, alone: bool):
    assert runs_alone(leased(**counts)) is alone


def test_only_a_loss_leaves_the_count_of_vanished_workers():
    assert "unseen" not in decided(leased(unseen=2), lost()).fields
    assert decided(leased(unseen=2), failed()).fields["unseen"] == 0


def test_loss_that_was_waited_out_is_queued_at_once():
    transition = decided(leased(), lost(waited_ms=1_500))

    assert transition.fields["stage"] == Stage.QUEUED
    assert transition.enqueue == "default"
    assert transition.due_ms is None


def test_the_fifth_loss_is_a_dead_letter():
    assert LOSSES_MAX == 5
    assert decided(leased(losses=3), lost()).fields["stage"] == Stage.DELAYED

    transition = decided(leased(losses=4), lost())

    assert transition.fields["state"] == "failed"
    assert transition.event.detail == "WORKER_LOST"


def test_loss_is_obsolete_once_another_dispatcher_answers():
    assert refused(leased(), lost(owner="dispatcher-9")) is Refusal.OBSOLETE
    assert refused(leased(), lost(token="another")) is Refusal.OBSOLETE


@pytest.mark.parametrize(("losses", "alone"), [(0, False), (1, False), (2, True), (4, True)])
def test_step_runs_alone_after_two_losses(losses: int, *, alone: bool):
    assert runs_alone(queued(losses=losses)) is alone


def test_release_charges_nothing():
    record = leased(attempt=2, failures=1, losses=1, errors=2)

    transition = decided(record, FACTS[f.Released])

    known = applied(record, transition, entry="2-0")
    assert (known.attempt, known.failures, known.losses, known.errors) == (2, 1, 1, 2)
    assert transition.data == {}
    assert transition.enqueue == "default"
    assert transition.event.message == "it drains"


def test_release_is_obsolete_once_another_dispatcher_answers():
    fact = f.Released(token=TOKEN, reason="gone", owner="dispatcher-9")

    assert refused(leased(), fact) is Refusal.OBSOLETE
    assert decided(leased(owner="dispatcher-9"), fact).enqueue == "default"


# --- delays --------------------------------------------------------------------------------------


def test_due_retry_goes_back_to_its_lane():
    transition = decided(delayed(), f.Due())

    assert transition.undelay
    assert transition.enqueue == "default"
    assert transition.fields["due_ms"] == 0


def test_due_start_becomes_pending():
    transition = decided(delayed(state="scheduled", attempt=0, failures=0), f.Due())

    assert transition.move == ("scheduled", "pending")
    assert transition.enqueue == "default"


def test_task_that_is_not_due_yet_stays():
    assert refused(delayed(due_ms=NOW_MS + 1), f.Due()) is Refusal.OBSOLETE


# --- releases ------------------------------------------------------------------------------------

NEEDLESS = f.Released(token=TOKEN, reason="no", reported=True, needless=True)


def test_needless_release_is_queued_at_once_the_first_time():
    transition = decided(leased(), NEEDLESS)

    assert (transition.enqueue, transition.due_ms) == ("default", None)
    assert transition.fields["releases"] == 1


def test_needless_releases_in_a_row_wait_longer_each_and_charge_nothing():
    transition = decided(leased(releases=3), NEEDLESS)

    assert (transition.event.type, transition.event.delay_ms) == (EventType.RELEASED, 4_000)
    assert (transition.enqueue, transition.due_ms) == (None, NOW_MS + 4_000)
    assert transition.fields["releases"] == 4
    assert not {"failures", "losses", "errors"} & transition.fields.keys()
    assert transition.tally is None


def test_release_of_one_that_leaves_neither_counts_nor_waits():
    transition = decided(leased(releases=3), f.Released(token=TOKEN, reason="drain"))

    assert (transition.enqueue, transition.due_ms) == ("default", None)
    assert "releases" not in transition.fields


@pytest.mark.parametrize("fact", [failed(), lost(), FACTS[f.Completed]])
def test_whatever_else_becomes_of_an_attempt_ends_the_row(fact: f.Fact):
    assert decided(leased(releases=3), fact).fields["releases"] == 0
    assert "releases" not in decided(leased(), fact).fields


def test_entry_that_was_taken_in_vain_again_and_again_waits_longer_each_time():
    fact = f.Requeued(entry=queued().entry, reason="its turn did not come", needless=True)

    first, later = decided(queued(), fact), decided(queued(releases=3), fact)

    assert (first.enqueue, first.due_ms, first.fields["releases"]) == ("default", None, 1)
    assert (later.enqueue, later.due_ms) == (None, NOW_MS + 4_000)
    assert (later.event.type, later.event.delay_ms) == (EventType.QUEUED, 4_000)
    assert (later.fields["releases"], later.fields["entry"]) == (4, "")
    assert later.ack == ("default", queued().entry)
