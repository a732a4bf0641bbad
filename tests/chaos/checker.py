"""The judge of a run of chaos: arithmetic over its history, without any part of the system.

What is promised is in docs/guarantees.md; each list here is one way to break it, and has to be
empty. `recovered`, `excused` and `dropped` are no breaches: they are told, so that nobody wonders.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import msgspec

from stepstream_dispatcher.core.record import TERMINAL_STATES, Event, EventType
from tests.chaos.history import History, Outcome, Truth

__all__ = ["Verdict", "check", "repeats"]

STEP_ENDED = {EventType.COMPLETED, EventType.WAITING, EventType.DONE}
NEW_LIFE = {EventType.REVIEWED, EventType.REDRIVEN}  # steps may be recorded again after it
HANDED_OUT = {EventType.LEASED, EventType.ADOPTED}
TERMINAL_EVENTS = {EventType.DONE, EventType.FAILED, EventType.CANCELLED}
DECISIONS = {"approved", "edited"}  # details of an event that a person caused
KILLS_REDIS = "kill-redis"
FALLBACK = "SYNCHRONOUS_FALLBACK"  # mode of what is kept in a journal, not in Redis


class Verdict(msgspec.Struct, kw_only=True):
    """What was found. Each entry begins with the id of its task."""

    lost: list[str] = []  # accepted, and not at its end
    unexpected: list[str] = []  # there, although nobody submitted it, or its Submit was refused
    doubled: list[str] = []  # a step recorded twice in one life, or two ends
    holes: list[str] = []  # versions without an event, or events without a version
    stale: list[str] = []  # recorded from another attempt than the one that was handed out last
    unstarted: list[str] = []  # recorded, and no handler ever began it
    changed: list[str] = []  # finished, and different later
    misled: list[str] = []  # watchers that missed an event, saw one twice, or did not see the end
    recovered: list[str] = []  # unknown to its caller, and there
    excused: list[str] = []  # lost with the tail that the append-only file may lose
    dropped: list[str] = []  # ran in a fallback, whose journal gave way to the record
    submitted: Counter[str] = msgspec.field(default_factory=Counter)  # Submits by outcome
    steps: int = 0  # recorded
    starts: int = 0  # of handlers, for all tasks that are there
    late: int = 0  # results of attempts that had been taken away, none of them recorded

    @property
    def breaches(self) -> dict[str, list[str]]:
        """What breaks a promise, by name."""
        names = ("lost", "unexpected", "doubled", "holes", "stale", "unstarted", "changed")
        found = {name: getattr(self, name) for name in (*names, "misled")}
        return {name: tasks for name, tasks in found.items() if tasks}

    @property
    def attempts_a_step(self) -> float:
        """Duplicate work: handlers that began for each step that is recorded or failed for good."""
        return self.starts / self.steps if self.steps else 0.0


def check(history: History) -> Verdict:
    """Judge a run that has come to rest."""
    verdict = Verdict()
    _check_submits(history, verdict)
    for task, truth in history.truth.items():
        _check_task(history, verdict, task, truth)
    _check_starts(history, verdict)
    _check_watchers(history, verdict)
    _check_sightings(history, verdict)
    _check_reopened(history, verdict)
    verdict.dropped = sorted(history.dropped)
    return verdict


def _check_submits(history: History, verdict: Verdict) -> None:
    known: dict[str, set[Outcome]] = {}
    for submit in history.submits:
        known.setdefault(submit.task, set()).add(submit.outcome)
        verdict.submitted[submit.outcome.value] += 1
    accepted = {s.task: s for s in history.submits if s.outcome is Outcome.OK}
    for task, submit in accepted.items():
        truth = history.truth.get(task)
        if truth is not None and truth.state in TERMINAL_STATES:
            continue
        words = f"{task}: accepted, and {truth.state if truth else 'not there'} in the end"
        began = submit.ended if submit.mode == FALLBACK else submit.began
        excused = truth is None and _went_with_the_tail(history, began, submit.ended)
        (verdict.excused if excused else verdict.lost).append(words)
    for task in history.truth:
        outcomes = known.get(task, set())
        if not outcomes & {Outcome.OK, Outcome.INFO}:
            told = "refused" if outcomes else "never submitted"
            verdict.unexpected.append(f"{task}: there, and {told}")
        elif Outcome.OK not in outcomes:
            verdict.recovered.append(task)


def _went_with_the_tail(history: History, began: float, ended: float) -> bool:
    """Whether what a call was answered may be lost with the tail of a killed Redis.

    It was written before the kill. The answer of a call that was made before may have come after
    it, but not once Redis was back.
    """
    kills = (fault for fault in history.faults if fault.kind == KILLS_REDIS)
    return history.volatile_s > 0 and any(
        began <= kill.began and kill.began - history.volatile_s <= ended <= kill.ended
        for kill in kills
    )


def _check_task(history: History, verdict: Verdict, task: str, truth: Truth) -> None:
    sequences = [event.sequence for event in truth.events]
    if sequences != list(range(1, truth.version + 1)):
        verdict.holes.append(f"{task}: version {truth.version}, events {sequences}")
    for life in lives(truth.events):
        recorded = Counter(step for step, _ in _recorded(life))
        twice = [step for step, count in recorded.items() if count > 1]
        verdict.doubled += [f"{task}: {step} recorded {recorded[step]} times" for step in twice]
        ends = sum(event.type in TERMINAL_EVENTS for event in life)
        if ends > 1:
            verdict.doubled.append(f"{task}: ended {ends} times")
        after_end = [b for a, b in pairwise(life) if a.type in TERMINAL_EVENTS]
        verdict.doubled += [f"{task}: {event.type.name} after its end" for event in after_end]
    verdict.stale += [f"{task}: {words}" for words in _not_the_latest(truth.events)]


def lives(events: list[Event]) -> list[list[Event]]:
    """A history, cut where a person sends the task back or an operator redrives it."""
    parts: list[list[Event]] = [[]]
    for event in events:
        if event.type in NEW_LIFE:
            parts.append([])
        parts[-1].append(event)
    return parts


def _recorded(events: list[Event]) -> Iterator[tuple[str, int]]:
    """Step and attempt of each result of a worker."""
    for event in events:
        if event.type in STEP_ENDED and event.detail not in DECISIONS:
            yield event.step, event.attempt


def _not_the_latest(events: list[Event]) -> Iterator[str]:
    held: Event | None = None
    for event in events:
        if event.type in HANDED_OUT:
            held = event
        elif event.type in {EventType.LOST, EventType.RELEASED, EventType.RETRYING}:
            held = None
        elif event.type in STEP_ENDED and event.detail not in DECISIONS:
            told = (event.step, event.attempt)
            if held is None or told != (held.step, held.attempt):
                holder = f"{held.step} {held.attempt}" if held else "nobody"
                yield f"{event.step} {event.attempt} recorded, held was {holder}"
            held = None


def _check_starts(history: History, verdict: Verdict) -> None:
    begun = Counter((run.task, run.step, run.attempt) for run in history.runs)
    for task, truth in history.truth.items():
        for step, attempt in _recorded(truth.events):
            verdict.steps += 1
            if not begun[task, step, attempt]:
                verdict.unstarted.append(f"{task}: {step} {attempt} recorded, and never begun")
    planned = sum(repeats(truth.events) for truth in history.truth.values())
    verdict.starts = sum(run.task in history.truth for run in history.runs) - planned
    taken = _taken_away(history)
    verdict.late = sum(
        run.how == "completed"
        and run.ended is not None
        and run.ended > taken.get((run.task, run.step, run.attempt), run.ended)
        for run in history.runs
    )


def repeats(events: list[Event]) -> int:
    """Attempts that ended badly by what the task itself asked for, or ran and were cancelled.

    They are work that was wanted, not work that was done twice.
    """
    wanted, running = 0, False
    for event in events:
        wanted += event.type is EventType.RETRYING
        wanted += event.type in {EventType.CANCELLED, EventType.FAILED} and running
        if event.type is EventType.LEASED:
            running = True
        elif event.type not in {EventType.ADOPTED, EventType.CANCEL_REQUESTED}:
            running = False
    return wanted


def _taken_away(history: History) -> dict[tuple[str, str, int], float]:
    """When each lost attempt was declared lost."""
    return {
        (task, event.step, event.attempt): event.at_ms / 1000
        for task, truth in history.truth.items()
        for event in truth.events
        if event.type in {EventType.LOST, EventType.RELEASED}
    }


def _check_watchers(history: History, verdict: Verdict) -> None:
    terminal = {event.name for event in TERMINAL_EVENTS}
    set_back = _set_back(history)
    for watched in history.watched:
        task, seen = watched.task, watched.sequences
        if watched.error:
            verdict.misled.append(f"{task}: its watch ended with {watched.error}")
        elif watched.last not in terminal:
            verdict.misled.append(f"{task}: its watch ended with {watched.last or 'nothing'}")
        odd = [(a, b) for a, b in pairwise([0, *seen]) if b != a + 1]
        if odd and not watched.gaps:
            verdict.misled.append(f"{task}: watched {seen}")
        truth = history.truth.get(task)
        followed = truth is not None and not truth.journaled and task not in set_back
        if followed and truth is not None and seen and seen[-1] != truth.version:
            verdict.misled.append(f"{task}: watched up to {seen[-1]} of {truth.version}")


def _check_sightings(history: History, verdict: Verdict) -> None:
    set_back = _set_back(history)
    for sighting in history.sightings:
        truth = history.truth.get(sighting.task)
        if truth is None or sighting.task in set_back:
            continue  # judged elsewhere, or documented
        if (sighting.state, sighting.outputs) != (truth.state, truth.outputs):
            words = f"{sighting.state} {sighting.outputs}, later {truth.state} {truth.outputs}"
            verdict.changed.append(f"{sighting.task}: was {words}")


def _set_back(history: History) -> set[str]:
    """Tasks that were further than their record is."""
    return history.dropped | {one.task for one in history.reopened}


def _check_reopened(history: History, verdict: Verdict) -> None:
    """A decision may be lost in two documented ways: then the task waits as it did before."""
    for one in history.reopened:
        words = f"{one.task}: had ended, and waited for a person again"
        if one.task in history.dropped:
            continue
        excused = _went_with_the_tail(history, one.began, one.ended)
        (verdict.excused if excused else verdict.changed).append(words)
