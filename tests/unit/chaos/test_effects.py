"""A fault without effect is named, whatever else went well."""

from __future__ import annotations

import pytest

from stepstream_dispatcher.core.record import Event, EventType
from tests.chaos.checker import Verdict
from tests.chaos.effects import idle, judge
from tests.chaos.history import Fault, History, Session, Truth
from tests.chaos.takeovers import Takeover

SEEN = Verdict(late=1)
SEEN.submitted["info"] = 1
LOST = Event(sequence=1, at_ms=11_000, type=EventType.LOST, state="first", step="first")
TRUTH = {"a": Truth(state="done", version=1, events=[LOST])}


def fault(kind: str, target: str, effect: str = "") -> Fault:
    return Fault(kind=kind, target=target, began=10.0, ended=12.0, paths=[], effect=effect)


def at(when: float, dispatcher: str, worker: str = "w-0") -> Session:
    return Session(at=when, dispatcher=dispatcher, worker=worker)


def judged(one: Fault, *sessions: Session, taken: list[Takeover] | None = None) -> list[str]:
    history = History(faults=[one], sessions=list(sessions), truth=TRUTH)
    judge(history, taken or [])
    return idle(history, SEEN)


def takeover(fault_at: float) -> Takeover:
    return Takeover(
        task="a",
        step="first",
        of="stream",
        fault_at=fault_at,
        from_at=fault_at,
        queued_at=fault_at + 1,
        again=False,
    )


def test_what_was_seen_at_once_had_an_effect():
    assert judged(fault("cut-worker", "w-0", "1 connections reset")) == []


@pytest.mark.parametrize("kind", ["cut-worker", "script-flush", "maxmemory", "stop-redis"])
def test_what_has_to_be_seen_at_once_and_was_not_had_none(kind: str):
    assert judged(fault(kind, "w-0"), at(11.0, "d-1")) == [f"{kind} w-0 at 10.0"]


def test_a_kill_took_attempts_over():
    assert judged(fault("kill-worker", "w-0"), taken=[takeover(10.0)]) == []


def test_a_kill_made_its_worker_register_again():
    assert judged(fault("kill-worker", "w-0"), at(1.0, "d-0"), at(13.0, "d-0")) == []


def test_a_kill_after_which_nothing_happened_is_named():
    none = judged(fault("kill-worker", "w-0"), at(1.0, "d-0"), taken=[takeover(5.0)])

    assert none == ["kill-worker w-0 at 10.0"]


def test_a_dead_dispatcher_sent_its_workers_elsewhere():
    assert judged(fault("kill-dispatcher", "d-0"), at(1.0, "d-0"), at(11.0, "d-1")) == []


def test_a_dead_dispatcher_without_workers_is_named():
    sessions = [at(1.0, "d-1"), at(11.0, "d-2")]

    assert judged(fault("kill-dispatcher", "d-0"), *sessions) == ["kill-dispatcher d-0 at 10.0"]


def test_a_run_without_losses_late_results_and_unknown_outcomes_is_idle():
    history = History(faults=[fault("freeze-worker", "w-0", "seen")])

    assert len(idle(history, Verdict())) == 3
