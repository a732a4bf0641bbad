"""Counts tasks that move while they are counted.

Theory of operation. A sweep meets each record at another instant. Whoever hears every event from
before the first record was read until a marker knows of each task what it was at the marker: the
newer of what was read and what was heard, told by the version. So the census is exact for the
instant at which the marker was published, whatever order reads and events come in. Ends are kept as
digests of ids, and not more of them than memory is meant for: beyond that nothing is counted.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

from stepstream_dispatcher.core.record import TERMINAL_STATES, Event, EventType, TaskRecord

__all__ = ["ENDS_MAX", "Census"]

ENDS_MAX: Final = 500_000  # remembered ends; about 80 bytes each


class Census:
    """The tasks of one sweep.

    Args:
        ends_max: Ends to remember at most.
        events_max: Events to hear at most.
    """

    def __init__(self, *, ends_max: int = ENDS_MAX, events_max: float = math.inf) -> None:
        self._ends_max = ends_max
        self._events_left = events_max
        self.gave_up = False  # there were too many ends or events: nothing is counted
        self._live: dict[int, tuple[int, str]] = {}  # digest of an id -> version and state
        self._over: dict[int, int] = {}  # likewise, tasks that ended meanwhile -> version then
        self._ends: dict[str, set[int]] = {"failed": set(), "cancelled": set()}  # digests of ids
        self._redriven: set[int] = set()  # heard; what is read of such an end may be older

    def saw(self, task_id: str, record: TaskRecord) -> None:
        """Take in a record."""
        if record.terminal or self.gave_up:
            return
        digest = hash(task_id)
        known = self._live.get(digest, (self._over.get(digest, 0), ""))
        if record.version > known[0]:
            self._live[digest] = record.version, record.state
            self._over.pop(digest, None)

    def saw_end(self, state: str, task_id: str) -> None:
        """Take in a member of the ended set."""
        if self.gave_up:
            return
        if state in self._ends and hash(task_id) not in self._redriven:
            self._ends[state].add(hash(task_id))
            self._bound()

    def heard(self, task_id: str, event: Event) -> None:
        """Take in an event. Those of one task come in order; an old one changes nothing."""
        self._events_left -= 1
        if self._events_left < 0:
            self._give_up()
        if event.type is EventType.PROGRESS or self.gave_up:
            return
        digest = hash(task_id)
        if event.type is EventType.REDRIVEN:
            self._ends["failed"].discard(digest)
            self._redriven.add(digest)
        if event.state in self._ends:
            self._ends[event.state].add(digest)
        version, _ = self._live.get(digest, (self._over.get(digest, 0), ""))
        anew = event.sequence == 1 and digest in self._over  # after it had expired
        if event.sequence <= version and not anew:
            return
        self._live.pop(digest, None)
        self._over.pop(digest, None)
        if event.state in TERMINAL_STATES:
            self._over[digest] = event.sequence
        else:
            self._live[digest] = event.sequence, event.state
        self._bound()

    def _bound(self) -> None:
        """Give up, and let go of everything, once more ends are remembered than may be."""
        known = len(self._over) + len(self._redriven) + sum(map(len, self._ends.values()))
        if known > self._ends_max:
            self._give_up()

    def _give_up(self) -> None:
        self.gave_up = True
        self._live.clear()
        self._over.clear()
        self._redriven.clear()
        for digests in self._ends.values():
            digests.clear()

    def counts(self, *, ended: int) -> dict[str, int]:
        """How many tasks were in each state at the marker, and `live`.

        Args:
            ended: Size of the ended set at the marker. Most ends are good ones: those are the rest.
        """
        counts = dict(Counter(state for _, state in self._live.values()))
        others = {state: len(ids) for state, ids in self._ends.items()}
        return counts | others | {"done": ended - sum(others.values()), "live": len(self._live)}
