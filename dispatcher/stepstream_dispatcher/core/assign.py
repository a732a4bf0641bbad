"""Which worker runs which entry: a pure match of free slots and work."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import msgspec

__all__ = ["Offer", "Want", "assign"]


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A worker session with room."""

    session_id: str
    queues: frozenset[str]  # lanes that it may be fed from
    free: int  # attempts that it takes now, > 0
    held: int  # attempts that it holds


class Want(msgspec.Struct, frozen=True, kw_only=True):
    """An entry that waits for a worker."""

    queue: str
    alone: bool = False  # needs an idle worker for itself


def assign(wants: Sequence[Want], offers: Sequence[Offer]) -> list[str | None]:
    """Match each want with a session id, or None where no offer fits; one per want, in order.

    The freest worker goes first, so that work spreads; among equals the one that holds least. What
    must run alone gets a worker that holds nothing, and closes it for the rest of the round.
    """
    by_queue: dict[str, list[tuple[int, int, str]]] = {}
    matched: list[str | None] = [None] * len(wants)
    free = {offer.session_id: offer.free for offer in offers}
    taken: set[str] = set()
    used: dict[str, int] = {}
    for index, want in enumerate(wants):
        if want.alone:
            matched[index] = _idle(want, offers, taken, used)
    for index, want in enumerate(wants):
        if not want.alone:
            heap = by_queue.get(want.queue)
            if heap is None:
                heap = by_queue[want.queue] = _heap(want.queue, offers)
            matched[index] = _freest(heap, taken, used, free)
    return matched


def _heap(queue: str, offers: Sequence[Offer]) -> list[tuple[int, int, str]]:
    heap = [(-o.free, o.held, o.session_id) for o in offers if queue in o.queues and o.free > 0]
    heapq.heapify(heap)
    return heap


def _idle(want: Want, offers: Sequence[Offer], taken: set[str], used: dict[str, int]) -> str | None:
    for offer in offers:
        fits = want.queue in offer.queues and offer.held == 0 and offer.free > 0
        if fits and offer.session_id not in taken and not used.get(offer.session_id):
            taken.add(offer.session_id)
            return offer.session_id
    return None


def _freest(
    heap: list[tuple[int, int, str]], taken: set[str], used: dict[str, int], free: dict[str, int]
) -> str | None:
    while heap:
        _, held, session_id = heap[0]
        left = free[session_id] - used.get(session_id, 0)
        if session_id in taken or left <= 0:
            heapq.heappop(heap)
            continue
        used[session_id] = used.get(session_id, 0) + 1
        heapq.heapreplace(heap, (-(left - 1), held + 1, session_id))
        return session_id
    return None
