"""Whether each fault did something: a fault without effect tests nothing, and fails the run."""

from __future__ import annotations

from collections.abc import Callable

from stepstream_dispatcher.core.record import EventType
from tests.chaos.checker import Verdict
from tests.chaos.history import Fault, History, Session
from tests.chaos.takeovers import Takeover

__all__ = ["idle", "judge"]

SOON_S = 40.0  # in which what follows from a fault has to be seen


def judge(history: History, taken: list[Takeover]) -> None:
    """Writes into each fault what the histories show of it, where it was not seen at once."""
    for fault in history.faults:
        if not fault.effect and fault.kind in _SHOWN:
            fault.effect = _SHOWN[fault.kind](fault, history, taken)


def idle(history: History, verdict: Verdict) -> list[str]:
    """What had no effect, by name; also what a run has to have shown as a whole."""
    found = [
        f"{fault.kind} {fault.target} at {fault.began:.1f}"
        for fault in history.faults
        if not fault.effect
    ]
    kinds = {fault.kind for fault in history.faults}
    if "freeze-worker" in kinds and not verdict.late:
        found.append("no thawed worker ended an attempt that it had lost")
    if not any(
        event.type is EventType.LOST for truth in history.truth.values() for event in truth.events
    ):
        found.append("nothing was handed out again")
    if not verdict.submitted["info"]:
        found.append("the outcome of every Submit was known")
    return found


def _taken_over(fault: Fault, history: History, taken: list[Takeover]) -> str:
    count = sum(abs(one.fault_at - fault.began) < 1e-3 for one in taken)
    return f"{count} attempts taken over" if count else _moved(fault, history, taken)


def _moved(fault: Fault, history: History, _taken: list[Takeover]) -> str:
    """Workers that registered after it: the victim's own, or those of a dispatcher."""
    until = fault.ended + SOON_S
    after = [one for one in history.sessions if fault.began < one.at < until]
    name = fault.target
    if name.startswith("w-"):
        count = sum(one.worker == name for one in after)
        return f"registered {count} times" if count else ""
    at_it = {
        one.worker
        for one in _standing(history, fault.began)
        if name in {one.dispatcher, "dispatchers"}
    }
    moved = {one.worker for one in after} & at_it
    return f"{len(moved)} workers moved" if moved else ""


def _standing(history: History, at: float) -> list[Session]:
    latest = {one.worker: one for one in history.sessions if one.at <= at}
    return list(latest.values())


_SHOWN: dict[str, Callable[[Fault, History, list[Takeover]], str]] = {
    "kill-worker": _taken_over,
    "freeze-worker": _taken_over,
    "kill-dispatcher": _moved,
    "freeze-dispatcher": _moved,
    "kill-all-dispatchers": _moved,
}
