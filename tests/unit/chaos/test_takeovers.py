"""Takeover times are counted from the later of the fault and what else stood in the way."""

from __future__ import annotations

import pytest

from stepstream_dispatcher.core.record import Event, EventType
from tests.chaos.history import Fault, History, Session, Truth
from tests.chaos.takeovers import Takeover, figures, takeovers

TASK = "a" * 32
AT_WORK = [Session(at=0.0, dispatcher="d-0", worker="w-0")]


def event(at: float, kind: EventType, **changes: object) -> Event:
    fields = {"step": "first", "attempt": 1, "actor": "w-0", **changes}
    return Event(sequence=1, at_ms=int(at * 1000), type=kind, state="first", **fields)  # type: ignore[arg-type]


def fault(kind: str, began: float, ended: float, path: str, of: str = "") -> Fault:
    return Fault(kind=kind, target="x", began=began, ended=ended, paths=[path], of=of)


def killed(at: float = 10.0) -> Fault:
    return fault("kill-worker", at, at + 3, "worker:w-0", "stream")


def found(*faults: Fault, events: list[Event], sessions: list[Session] = AT_WORK) -> list[Takeover]:
    truth = Truth(state="done", version=len(events), events=events)
    return takeovers(History(truth={TASK: truth}, faults=list(faults), sessions=sessions))


LEASED = event(9.0, EventType.LEASED)
LOST = event(11.5, EventType.LOST)


def test_from_the_kill_to_the_queue():
    (one,) = found(killed(), events=[LEASED, LOST])

    assert (one.of, one.took_s, one.again) == ("stream", pytest.approx(1.5), False)


def test_a_hand_out_that_never_arrived_counts_too():
    (one,) = found(killed(), events=[LEASED, event(11.0, EventType.RELEASED)])

    assert one.took_s == pytest.approx(1.0)


def test_a_loss_that_waits_ends_with_the_queue_and_not_with_the_loss():
    late = [event(11.5, EventType.LOST, delay_ms=500), event(12.1, EventType.QUEUED)]

    (one,) = found(killed(), events=[LEASED, *late])

    assert (one.took_s, one.again) == (pytest.approx(2.1), False)


def test_a_second_loss_of_a_step_is_told_apart():
    before = [event(1.0, EventType.LEASED), event(5.0, EventType.LOST)]

    (one,) = found(killed(), events=[*before, LEASED, LOST])

    assert one.again


def test_a_loss_of_another_step_is_none_of_this_one():
    before = [event(1.0, EventType.LEASED, step="zero"), event(5.0, EventType.LOST, step="zero")]

    (one,) = found(killed(), events=[*before, LEASED, LOST])

    assert not one.again


def test_what_the_next_process_of_the_worker_loses_is_not_of_the_kill():
    assert (
        found(killed(), events=[event(12.5, EventType.LEASED), event(19.0, EventType.LOST)]) == []
    )


def test_what_another_worker_held_is_not_taken_over():
    assert found(killed(), events=[event(9.0, EventType.LEASED, actor="w-1"), LOST]) == []


def test_what_was_reported_before_the_kill_is_not_taken_over():
    assert found(killed(), events=[LEASED, event(9.5, EventType.COMPLETED)]) == []


def test_the_end_of_a_fault_on_the_path_starts_the_clock():
    frozen = fault("stop-redis", 9.5, 14.0, "redis")

    (one,) = found(killed(), frozen, events=[LEASED, event(15.0, EventType.LOST)])

    assert one.took_s == pytest.approx(1.0)


def test_the_path_of_a_dead_worker_is_the_one_that_it_had():
    """Its next process is at another dispatcher; the first one has to tell Redis of the loss."""
    moved = [*AT_WORK, Session(at=10.5, dispatcher="d-1", worker="w-0")]
    slow = fault("slow-redis", 11.0, 17.0, "link:d-0:redis")
    beside = fault("slow-redis", 11.0, 19.0, "link:d-1:redis")

    (one,) = found(
        killed(), slow, beside, events=[LEASED, event(17.5, EventType.LOST)], sessions=moved
    )

    assert one.from_at == pytest.approx(17.0)


def test_what_is_queued_before_the_end_of_that_fault_is_early():
    slow = fault("slow-redis", 9.5, 14.0, "link:d-0:redis")

    (one,) = found(killed(), slow, events=[LEASED, LOST])

    assert one.early


@pytest.mark.parametrize("path", ["worker:w-1", "dispatcher:d-1", "link:w-0:d-1", "link:d-1:redis"])
def test_a_fault_beside_the_path_does_not(path: str):
    other = fault("slow", 9.5, 14.0, path)

    (one,) = found(killed(), other, events=[LEASED, event(15.0, EventType.LOST)])

    assert one.took_s == pytest.approx(5.0)


def test_a_fault_that_begins_when_the_time_is_up_excuses_nothing():
    late = fault("stop-redis", 12.5, 15.0, "redis")

    (one,) = found(killed(), late, events=[LEASED, event(15.5, EventType.LOST)])

    assert one.took_s == pytest.approx(5.5)


def test_a_worker_whose_dispatcher_dies_with_it_is_taken_over_by_the_others():
    dead = fault("kill-dispatcher", 10.5, 40.0, "dispatcher:d-0", "dispatcher")

    (one,) = found(killed(), dead, events=[LEASED, event(26.0, EventType.RELEASED)])

    assert (one.of, one.took_s) == ("dispatcher", pytest.approx(15.5))


def test_after_the_death_of_all_dispatchers_the_clock_starts_with_the_next_one():
    dead = Fault(
        kind="kill-all-dispatchers",
        target="dispatchers",
        began=10.0,
        ended=30.0,
        paths=["dispatcher:d-0", "dispatcher:d-1"],
        of="dispatcher",
    )

    (one,) = found(dead, events=[LEASED, event(32.0, EventType.RELEASED)])

    assert (one.of, one.took_s) == ("dispatcher", pytest.approx(2.0))


def test_what_was_adopted_elsewhere_is_lost_there():
    dead = fault("kill-dispatcher", 9.5, 40.0, "dispatcher:d-0", "dispatcher")
    moved = [*AT_WORK, Session(at=9.8, dispatcher="d-1", worker="w-0")]
    adopted = event(9.8, EventType.ADOPTED)

    (one,) = found(dead, killed(), events=[LEASED, adopted, LOST], sessions=moved)

    assert (one.of, one.took_s) == ("stream", pytest.approx(1.5))


def test_the_99th_percentile_is_by_nearest_rank():
    told = figures([float(number) for number in range(1, 201)])

    assert told is not None
    assert (told.count, told.p50, told.p99, told.max) == (200, 100.0, 198.0, 200.0)


def test_there_are_no_figures_of_nothing():
    assert figures([]) is None
