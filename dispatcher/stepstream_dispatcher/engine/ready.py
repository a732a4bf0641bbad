"""Entries that are loaded and wait for room, by lane; each for so long at most."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from itertools import islice
from operator import attrgetter

import msgspec

from stepstream_dispatcher.core.assign import Offer, Want, assign
from stepstream_dispatcher.engine.leasing import Load

__all__ = ["Ready"]


class _Waiting(msgspec.Struct, frozen=True, gc=False):
    load: Load
    until: float  # monotonic


_until = attrgetter("until")


class Ready:
    """What the feeder may lease, oldest first in each lane."""

    def __init__(self) -> None:
        self._lanes: dict[str, deque[_Waiting]] = {}

    def clear(self) -> None:
        """Forget everything."""
        self._lanes.clear()

    def add(self, loads: Sequence[Load], until: float) -> None:
        """Let entries wait; `until` never falls from call to call."""
        for load in loads:
            lane = self._lanes.setdefault(load.entry.queue, deque())
            lane.append(_Waiting(load, until))

    def waiting(self, queue: str) -> int:
        """How many entries of a lane wait."""
        lane = self._lanes.get(queue)
        return len(lane) if lane else 0

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def take_lanes(self, queues: Collection[str]) -> list[Load]:
        """Take everything of these lanes."""
        taken = [self._lanes.pop(queue) for queue in queues if queue in self._lanes]
        return [waiting.load for lane in taken for waiting in lane]

    def take_all(self) -> list[Load]:
        """Take everything."""
        return self.take_lanes(list(self._lanes))

    def take_late(self, now: float) -> list[Load]:
        """Take what has waited long enough."""
        late: list[Load] = []
        for queue, lane in list(self._lanes.items()):
            while lane and lane[0].until <= now:
                late.append(lane.popleft().load)
            self._close_if_empty(queue)
        return late

    def match(self, offers: Sequence[Offer]) -> list[tuple[Load, str]]:
        """Take what finds room, each with the id of its session; who waits longest goes first."""
        firsts = [
            waiting
            for queue, lane in self._lanes.items()
            for waiting in islice(lane, _room(queue, offers))
        ]
        if len(self._lanes) > 1:
            firsts.sort(key=_until)
        matches = assign([Want(queue=one.load.entry.queue) for one in firsts], offers)
        taken: list[tuple[Load, str]] = []
        for waiting, session_id in zip(firsts, matches, strict=True):
            if session_id is not None:
                taken.append((waiting.load, session_id))
                self._lanes[waiting.load.entry.queue].popleft()
        for queue in list(self._lanes):
            self._close_if_empty(queue)
        return taken

    def _close_if_empty(self, queue: str) -> None:
        if not self._lanes[queue]:
            del self._lanes[queue]


def _room(queue: str, offers: Sequence[Offer]) -> int:
    return sum(offer.room for offer in offers if queue in offer.queues)
