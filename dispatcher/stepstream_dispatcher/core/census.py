"""Counts tasks that move while they are counted.

Theory of operation. A sweep meets each record at another instant. Whoever hears every event from
before the first record was read until a marker knows of each task what it was at the marker: the
newer of what was read and what was heard, told by the version. So the census is exact for the
instant at which the marker was published, whatever order reads and events come in.
"""

from __future__ import annotations

from collections import Counter

from stepstream_dispatcher.core.record import TERMINAL_STATES, Event, EventType, TaskRecord

__all__ = ["Census"]


class Census:
    """The tasks of one sweep."""

    def __init__(self) -> None:
        self._live: dict[str, tuple[int, str]] = {}  # task -> version and state
        self._over: dict[str, int] = {}  # tasks that ended meanwhile -> their version then
        self._ends: dict[str, set[int]] = {"failed": set(), "cancelled": set()}  # digests of ids
        self._redriven: set[int] = set()  # heard; what is read of such an end may be older

    def saw(self, task_id: str, record: TaskRecord) -> None:
        """Take in a record."""
        if record.terminal:
            return
        known = self._live.get(task_id, (self._over.get(task_id, 0), ""))
        if record.version > known[0]:
            self._live[task_id] = record.version, record.state
            self._over.pop(task_id, None)

    def saw_end(self, state: str, task_id: str) -> None:
        """Take in a member of the ended set."""
        if state in self._ends and hash(task_id) not in self._redriven:
            self._ends[state].add(hash(task_id))

    def heard(self, task_id: str, event: Event) -> None:
        """Take in an event. Those of one task come in order; an old one changes nothing."""
        if event.type is EventType.PROGRESS:
            return
        if event.type is EventType.REDRIVEN:
            self._ends["failed"].discard(hash(task_id))
            self._redriven.add(hash(task_id))
        if event.state in self._ends:
            self._ends[event.state].add(hash(task_id))
        version, _ = self._live.get(task_id, (self._over.get(task_id, 0), ""))
        anew = event.sequence == 1 and task_id in self._over  # after it had expired
        if event.sequence <= version and not anew:
            return
        self._live.pop(task_id, None)
        self._over.pop(task_id, None)
        if event.state in TERMINAL_STATES:
            self._over[task_id] = event.sequence
        else:
            self._live[task_id] = event.sequence, event.state

    def counts(self, *, ended: int) -> dict[str, int]:
        """How many tasks were in each state at the marker, and `live`.

        Args:
            ended: Size of the ended set at the marker. Most ends are good ones: those are the rest.
        """
        counts = dict(Counter(state for _, state in self._live.values()))
        others = {state: len(ids) for state, ids in self._ends.items()}
        return counts | others | {"done": ended - sum(others.values()), "live": len(self._live)}
