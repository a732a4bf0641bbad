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


def assign(wants: Sequence[Want], offers: Sequence[Offer]) -> list[str | None]:
    """Match each want with a session id, or None where no offer fits; one per want, in order.

    The freest worker goes first, so that work spreads; among equals the one that holds least.
    """
    by_queue: dict[str, list[tuple[int, int, str]]] = {}
    free = {offer.session_id: offer.free for offer in offers}
    used: dict[str, int] = {}
    matched: list[str | None] = []
    for want in wants:
        heap = by_queue.get(want.queue)
        if heap is None:
            heap = by_queue[want.queue] = _heap(want.queue, offers)
        matched.append(_freest(heap, used, free))
    return matched


def _heap(queue: str, offers: Sequence[Offer]) -> list[tuple[int, int, str]]:
    heap = [(-o.free, o.held, o.session_id) for o in offers if queue in o.queues and o.free > 0]
    heapq.heapify(heap)
    return heap


def _freest(
    heap: list[tuple[int, int, str]], used: dict[str, int], free: dict[str, int]
) -> str | None:
    while heap:
        _, held, session_id = heap[0]
        left = free[session_id] - used.get(session_id, 0)
        if left <= 0:
            heapq.heappop(heap)
            continue
        used[session_id] = used.get(session_id, 0) + 1
        heapq.heapreplace(heap, (-(left - 1), held + 1, session_id))
        return session_id
    return None
