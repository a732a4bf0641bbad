"""Which worker runs which entry: a pure match of room and work."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TypeAlias

import msgspec

__all__ = ["Offer", "Want", "assign"]


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A worker session with room."""

    session_id: str
    queues: frozenset[str]  # lanes that it may be fed from
    free: int  # attempts that it can run now
    held: int  # attempts that it holds
    ahead: int = 0  # attempts that it takes beyond those, to wait there for a slot

    @property
    def room(self) -> int:
        """Attempts that it takes now."""
        return self.free + self.ahead


class Want(msgspec.Struct, frozen=True, kw_only=True):
    """An entry that waits for a worker."""

    queue: str


def assign(wants: Sequence[Want], offers: Sequence[Offer]) -> list[str | None]:
    """Match each want with a session id, or None where no offer fits; one per want, in order.

    The freest worker goes first, so that work spreads; among equals the one that holds least.
    Nothing is left to wait for a slot while another worker has one free.
    """
    by_queue: dict[str, list[_Place]] = {}
    left = {(False, offer.session_id): offer.free for offer in offers}
    left |= {(True, offer.session_id): offer.ahead for offer in offers}
    matched: list[str | None] = []
    for want in wants:
        heap = by_queue.get(want.queue)
        if heap is None:
            heap = by_queue[want.queue] = _heap(want.queue, offers)
        matched.append(_freest(heap, left))
    return matched


_Place: TypeAlias = tuple[bool, int, int, str]  # is ahead, -room of the kind, held, session id


def _heap(queue: str, offers: Sequence[Offer]) -> list[_Place]:
    able = [offer for offer in offers if queue in offer.queues]
    heap = [(False, -one.free, one.held, one.session_id) for one in able if one.free > 0]
    heap += [(True, -one.ahead, one.held, one.session_id) for one in able if one.ahead > 0]
    heapq.heapify(heap)
    return heap


def _freest(heap: list[_Place], left: dict[tuple[bool, str], int]) -> str | None:
    while heap:
        is_ahead, _, held, session_id = heap[0]
        room = left[is_ahead, session_id]
        if room <= 0:  # another lane has taken it
            heapq.heappop(heap)
            continue
        left[is_ahead, session_id] = room - 1
        heapq.heapreplace(heap, (is_ahead, 1 - room, held + 1, session_id))
        return session_id
    return None
