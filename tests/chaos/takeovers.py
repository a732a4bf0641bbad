"""How long work of the dead waits: from the fault to the task's next place in a queue.

The clock starts at the fault, or at the end of another fault on the same path when that is later:
while Redis is frozen nobody can take over anything. Only the first loss of a step counts, since
a step that has taken down a worker before waits longer by design.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Sequence

import msgspec

from stepstream_dispatcher.core.record import Event, EventType
from tests.chaos.history import Fault, History, Session

__all__ = ["LIMITS_S", "Figures", "Takeover", "figures", "rank", "takeovers"]

LIMITS_S = {"stream": 2.0, "frozen": 17.0, "dispatcher": 17.0}  # docs/guarantees.md, 4

ALL_DISPATCHERS = "dispatchers"  # target of a fault that leaves none
LEASED_TO_THE_DEAD_S = 1.0  # a lease under way at a kill; later ones are of the next process
LOGGED_S = 0.5  # after an adoption, by when the session that brought it is in the log
GIVEN_BACK = {EventType.LOST, EventType.RELEASED}


class Takeover(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt that its holder lost by a fault."""

    task: str
    step: str
    of: str  # class: "stream", "frozen" or "dispatcher"
    fault_at: float
    from_at: float  # the later of the fault and the end of what else stood in the way
    queued_at: float
    again: bool  # it was not the first loss of the step

    @property
    def took_s(self) -> float:
        """Seconds from there to the queue."""
        return self.queued_at - self.from_at

    @property
    def early(self) -> bool:
        """Whether it was in the queue before the last obstacle was gone: that says nothing."""
        return self.queued_at < self.from_at


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Takeover times of one class, in seconds."""

    count: int
    p50: float
    p99: float
    max: float


def figures(times_s: Sequence[float]) -> Figures | None:
    """Median, 99th percentile (nearest rank) and maximum; None of nothing."""
    if not times_s:
        return None
    p50, p99 = rank(times_s, 0.5), rank(times_s, 0.99)
    return Figures(count=len(times_s), p50=p50, p99=p99, max=max(times_s))


def rank(times_s: Sequence[float], share: float) -> float:
    """The time that a share of the times is within (nearest rank)."""
    return sorted(times_s)[math.ceil(share * len(times_s)) - 1]


class _Attempt(msgspec.Struct, kw_only=True):
    """An attempt as the history tells it."""

    task: str
    step: str
    worker: str
    since: float  # leased, or adopted
    queued_at: float
    again: bool


def takeovers(history: History) -> list[Takeover]:
    """Every attempt that went back to its queue because of a fault, in order of the faults."""
    placed = _Places(history.sessions)
    found = []
    for task, truth in history.truth.items():
        for attempt in _given_back(task, truth.events):
            takeover = _explained(attempt, history.faults, placed)
            if takeover is not None:
                found.append(takeover)
    return sorted(found, key=lambda one: one.fault_at)


def _given_back(task: str, events: Sequence[Event]) -> Iterator[_Attempt]:
    losses: dict[str, int] = {}
    held: Event | None = None
    lost: Event | None = None
    for event in events:
        at = event.at_ms / 1000
        if event.type in {EventType.REVIEWED, EventType.REDRIVEN}:
            losses.clear()
        if held is not None and event.type in GIVEN_BACK and not event.delay_ms:
            yield _attempt(task, held, at, again=losses.get(held.step, 0) > 0)
        elif lost is not None and event.type is EventType.QUEUED:
            yield _attempt(task, lost, at, again=losses.get(lost.step, 0) > 1)
        lost = held if event.type is EventType.LOST and event.delay_ms else None
        losses[event.step] = losses.get(event.step, 0) + (event.type is EventType.LOST)
        if event.type in {EventType.LEASED, EventType.ADOPTED}:  # adopted: out at another place
            held = event
        elif event.type is not EventType.CANCEL_REQUESTED:
            held = None


def _attempt(task: str, held: Event, queued_at: float, *, again: bool) -> _Attempt:
    return _Attempt(
        task=task,
        step=held.step,
        worker=held.actor,
        since=held.at_ms / 1000,
        queued_at=queued_at,
        again=again,
    )


class _Places:
    """At which dispatcher a worker was at a time."""

    def __init__(self, sessions: Sequence[Session]) -> None:
        self._of: dict[str, list[tuple[float, str]]] = {}
        for session in sorted(sessions, key=lambda one: one.at):
            self._of.setdefault(session.worker, []).append((session.at, session.dispatcher))

    def of(self, worker: str, at: float) -> str:
        """The dispatcher, or an empty word."""
        places = self._of.get(worker, [])
        index = bisect.bisect_right(places, at, key=lambda one: one[0])
        return places[index - 1][1] if index else ""

    def path(self, worker: str, at: float) -> set[str]:
        """All that stands between a worker and the record of its task."""
        dispatcher = self.of(worker, at)
        links = {f"link:{worker}:{dispatcher}", f"link:{dispatcher}:redis"}
        return {f"worker:{worker}", f"dispatcher:{dispatcher}", "redis", *links}


def _explained(attempt: _Attempt, faults: Sequence[Fault], places: _Places) -> Takeover | None:
    """The fault that took the attempt, with what else was in its way; None: no such fault."""
    before = [f for f in sorted(faults, key=lambda one: one.began) if f.began <= attempt.queued_at]
    causes = [
        fault
        for fault in before
        if fault.of and _could_take(fault, attempt) and _meets(fault, attempt, fault, places)
    ]
    if not causes:
        return None
    cause = causes[0]
    on_path = [fault for fault in before if _meets(fault, attempt, cause, places)]
    of = max((one.of for one in causes), key=lambda of: (LIMITS_S[of], of == "dispatcher"))
    from_at = _counts_from(cause, causes)
    for fault in on_path:
        in_time = fault.began <= from_at + LIMITS_S[of] and fault.ended > from_at
        if fault is not cause and in_time:
            from_at = max(from_at, _counts_from(fault, causes))
    return Takeover(
        task=attempt.task,
        step=attempt.step,
        of=of,
        fault_at=cause.began,
        from_at=from_at,
        queued_at=attempt.queued_at,
        again=attempt.again,
    )


def _meets(fault: Fault, attempt: _Attempt, cause: Fault, places: _Places) -> bool:
    """Whether a fault was on the path of an attempt: of a dead worker, where it was when it died.

    What its next process does says nothing about who has to take the attempt over.
    """
    at = cause.began if cause.kind == "kill-worker" else fault.began
    path = places.path(attempt.worker, max(at, attempt.since + LOGGED_S))
    return bool(path & set(fault.paths))


def _counts_from(fault: Fault, causes: Sequence[Fault]) -> float:
    """When others could act: at once after what took the attempt, unless there was nobody left."""
    is_for_good = fault in causes and fault.target != ALL_DISPATCHERS
    return fault.began if is_for_good else fault.ended


def _could_take(fault: Fault, attempt: _Attempt) -> bool:
    """Whether the attempt was out when the fault came, or came out into it.

    A hand-out to a frozen worker is lost as well; one to the dead, before that is known, too.
    """
    until = fault.began + LEASED_TO_THE_DEAD_S if fault.of == "stream" else fault.ended
    return fault.began <= attempt.queued_at and attempt.since <= until
