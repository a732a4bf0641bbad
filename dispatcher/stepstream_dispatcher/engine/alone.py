"""Hands out steps that run alone: each has a worker for itself.

A step that has taken down workers, or vanished with them, gets a worker that is kept free of other
work: it is reserved, runs empty, is given this one step, and is let go when that has ended. Few
entries wait here, and not for long: what is held for nothing goes back, and comes ever later.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from stepstream_dispatcher.engine.leasing import Load
from stepstream_dispatcher.engine.sessions import Session, Sessions
from stepstream_dispatcher.store.port import Entry

__all__ = ["Alone"]

WAITING_MAX: Final = 16  # entries of a lane that wait for a worker here
HOLD_S: Final = 10.0  # how long an entry is held that no worker may be reserved for
REST_MAX_S: Final = 60.0  # how long a lane rests at most
RESTART_S: Final = 5.0  # that a worker which is taken down is missing, as its supervisor waits
ALONE_SHARE: Final = 0.1  # of the workers' time that dangerous steps may cost a busy lane
IDLE_S: Final = 1.0  # a worker that has held nothing for this long is wanted by nobody else


class Alone:
    """Gives workers of their own to entries that the feeder has read.

    Args:
        lease: Leases an entry for a worker and hands it out.
        put_back: Puts an entry back uncharged.
        put_off: The same, and it comes again ever later.
        closed: Whether nothing is handed out from a lane now.
    """

    def __init__(
        self,
        *,
        sessions: Sessions,
        lease: Callable[[Load, Session], Awaitable[None]],
        put_back: Callable[[Load], Awaitable[None]],
        put_off: Callable[[Load], Awaitable[None]],
        closed: Callable[[str], bool],
    ) -> None:
        self._sessions = sessions
        self._lease = lease
        self._put_back = put_back
        self._put_off = put_off
        self._closed = closed
        self.waiting: set[Entry] = set()  # read, and without a worker of their own
        self._turns: dict[tuple[str, bool], asyncio.Lock] = {}  # by lane, and whether proven
        self._proven: Counter[str] = Counter()  # lane -> steps that were charged and have a worker
        self._rested_at: dict[str, float] = {}  # lane -> monotonic: who runs alone may come again

    def admit(self, loads: Sequence[Load]) -> tuple[list[Load], list[Load]]:
        """Tell which of the loads may wait here, and which are too many."""
        admitted: list[Load] = []
        refused: list[Load] = []
        waiting = Counter(entry.queue for entry in self.waiting)
        for load in loads:
            queue = load.entry.queue
            waiting[queue] += 1
            (admitted if waiting[queue] <= WAITING_MAX else refused).append(load)
        self.waiting.update(load.entry for load in admitted)
        return admitted, refused

    async def hand_out(self, load: Load) -> None:
        """Reserve the least busy worker, wait until it is idle, and give it this one."""
        queue, proven = load.entry.queue, load.record.losses > 0
        session = await self._reserve_in_turn(queue, proven=proven)
        if session is None:
            waited = not self._closed(queue) and self._is_served(queue)
            await (self._put_off(load) if waited else self._put_back(load))
            return
        reserved_at = asyncio.get_running_loop().time()
        self._proven[queue] += proven
        try:
            while session.attempts or session.settling:
                await self._sessions.stirred()
                if self._lost_for(session, queue):
                    await self._put_back(load)
                    return
            await self._lease(load, session)
            while session.attempts and not session.left:
                await self._sessions.stirred()
            if session.broken_at is not None:
                self._rest(queue, reserved_at)
        finally:
            session.reserved = False
            self._proven[queue] -= proven
            self._sessions.stir()

    def _rest(self, queue: str, since: float) -> None:
        """A worker was taken down again: let its lane work for a while before the next one is.

        The fewer workers there are, the longer: of their time all that run alone cost a share.
        """
        now = asyncio.get_running_loop().time()
        workers = sum(queue in self._sessions.queues_of(one) for one in self._sessions)
        cost_s = now - since + RESTART_S
        rest_s = cost_s * max(0.0, 1 / (ALONE_SHARE * max(1, workers)) - 1)
        rested_at = max(now, self._rested_at.get(queue, 0.0)) + rest_s
        self._rested_at[queue] = min(rested_at, now + REST_MAX_S)

    def _lost_for(self, session: Session, queue: str) -> bool:
        """Whether what was reserved for an entry of a lane is not to be had any more."""
        gone = self._sessions.get(session.id) is None or session.left
        return gone or self._closed(queue)

    async def _reserve_in_turn(self, queue: str, *, proven: bool) -> Session | None:
        """The worker that is reserved, once those before have theirs; None if none comes in time.

        Whoever waits longer gives another dispatcher its chance. One of each kind looks at a time.
        """
        turn = self._turns.setdefault((queue, proven), asyncio.Lock())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HOLD_S), turn:
                return await self._reserve_worker(queue, proven=proven)
        return None

    async def _reserve_worker(self, queue: str, *, proven: bool) -> Session | None:
        """The worker that is reserved, as soon as one may be; None if the lane has none at all.

        Of the workers of a lane at most half are reserved at once, and at least one may be, so that
        dangerous steps do not keep the lane from all others. While the lane rests from them they
        are given nothing but a worker that nobody else wants; so is a step that was charged for a
        worker before, while another such has one.
        """
        loop = asyncio.get_running_loop()
        while not self._closed(queue) and self._is_served(queue):
            now = loop.time()
            rests = now < self._rested_at.get(queue, 0.0) or (proven and self._proven[queue] > 0)
            if session := self._to_reserve(queue, now, rests=rests):
                session.reserved = True
                self._sessions.stir()  # the reader may wait for what was its room
                return session
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(IDLE_S):
                    await self._sessions.stirred()
        return None

    def _to_reserve(self, queue: str, now: float, *, rests: bool) -> Session | None:
        """The least busy worker of a lane that may be reserved now."""
        able = [one for one in self._sessions if self._can_be_reserved(one, queue)]
        reserved = self._reserved(queue)
        if reserved >= max(1, (len(able) + reserved) // 2):
            return None
        if rests:
            able = [one for one in able if one.idle_s(now) >= IDLE_S]
        return min(able, key=lambda one: len(one.attempts), default=None)

    def _reserved(self, queue: str) -> int:
        """How many workers of a lane are reserved."""
        queues_of = self._sessions.queues_of
        return sum(one.reserved and queue in queues_of(one) for one in self._sessions)

    def _is_served(self, queue: str) -> bool:
        """Whether a lane has workers at all."""
        queues_of = self._sessions.queues_of
        return any(queue in queues_of(one) and not one.left for one in self._sessions)

    def _can_be_reserved(self, session: Session, queue: str) -> bool:
        open_to_it = queue in self._sessions.queues_of(session) and session.max_in_flight > 0
        return open_to_it and not (session.reserved or session.left)
