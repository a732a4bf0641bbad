"""Hands out steps that run alone: each has a worker for itself.

A step that has taken down workers, or vanished with them, gets a worker that is kept free of other
work: it is reserved, runs empty, is given this one step, and is let go when that has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from stepstream_dispatcher.core.record import TaskRecord
from stepstream_dispatcher.engine.sessions import Session, Sessions
from stepstream_dispatcher.store.port import Entry

__all__ = ["Alone", "Load"]

WAIT_S: Final = 1.0  # how long an entry is held that no worker may be reserved for
RESTART_S: Final = 5.0  # that a worker which is taken down is missing, as its supervisor waits
ALONE_SHARE: Final = 0.1  # of the workers' time that dangerous steps may cost a busy lane
IDLE_S: Final = 1.0  # a worker that has held nothing for this long is wanted by nobody else


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """An entry with what it names."""

    entry: Entry
    record: TaskRecord
    data: dict[str, bytes]


class Alone:
    """Gives workers of their own to entries that the feeder has read.

    Args:
        lease: Leases an entry for a worker and hands it out.
        put_back: Puts an entry back uncharged.
        closed: Whether nothing is handed out from a lane now.
    """

    def __init__(
        self,
        *,
        sessions: Sessions,
        lease: Callable[[Load, Session], Awaitable[None]],
        put_back: Callable[[Load], Awaitable[None]],
        closed: Callable[[str], bool],
    ) -> None:
        self._sessions = sessions
        self._lease = lease
        self._put_back = put_back
        self._closed = closed
        self._rested_at: dict[str, float] = {}  # lane -> monotonic: who runs alone may come again

    async def hand_out(self, load: Load) -> None:
        """Reserve the least busy worker, wait until it is idle, and give it this one."""
        session = await self._reserve_worker(load.entry.queue)
        if session is None:
            await self._put_back(load)
            return
        reserved_at = asyncio.get_running_loop().time()
        try:
            while session.attempts or session.settling:
                await self._sessions.stirred()
                if self._lost_for(session, load.entry.queue):
                    await self._put_back(load)
                    return
            await self._lease(load, session)
            while session.attempts and not session.left:
                await self._sessions.stirred()
            if session.broken_at is not None:
                self._rest(load.entry.queue, reserved_at)
        finally:
            session.reserved = False
            self._sessions.stir()

    def _rest(self, queue: str, since: float) -> None:
        """A worker was taken down again: let its lane work for a while before the next one is.

        The fewer workers there are, the longer: of their time all that run alone cost a share.
        """
        now = asyncio.get_running_loop().time()
        workers = sum(queue in self._sessions.queues_of(one) for one in self._sessions)
        cost_s = now - since + RESTART_S
        rest_s = cost_s * max(0.0, 1 / (ALONE_SHARE * max(1, workers)) - 1)
        self._rested_at[queue] = max(now, self._rested_at.get(queue, 0.0)) + rest_s

    def _lost_for(self, session: Session, queue: str) -> bool:
        """Whether what was reserved for an entry of a lane is not to be had any more."""
        gone = self._sessions.get(session.id) is None or session.left
        return gone or self._closed(queue)

    async def _reserve_worker(self, queue: str) -> Session | None:
        """The worker that is reserved; None if none comes in time.

        Of the workers of a lane at most half are reserved at once, and at least one may be, so that
        dangerous steps do not keep the lane from all others. While one is reserved already, or the
        lane rests from them, they are given nothing but a worker that nobody else wants.
        """
        loop = asyncio.get_running_loop()
        since = loop.time()
        while not self._closed(queue):
            now, rested_at = loop.time(), self._rested_at.get(queue, 0.0)
            rests = now < rested_at or self._reserved(queue) > 0
            if session := self._to_reserve(queue, now, rests=rests):
                session.reserved = True
                return session
            since = max(since, rested_at)
            if now >= since + WAIT_S:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(IDLE_S, since + WAIT_S - now)):
                    await self._sessions.stirred()
        return None

    def _to_reserve(self, queue: str, now: float, *, rests: bool) -> Session | None:
        """The least busy worker of a lane that may be reserved now."""
        able = [one for one in self._sessions if self._can_be_reserved(one, queue)]
        reserved = self._reserved(queue)
        if reserved >= max(1, (len(able) + reserved) // 2):
            return None
        if rests:
            able = [
                one
                for one in able
                if not (one.attempts or one.settling) and now - one.opened_at >= IDLE_S
            ]
        return min(able, key=lambda one: len(one.attempts), default=None)

    def _reserved(self, queue: str) -> int:
        """How many workers of a lane are reserved."""
        queues_of = self._sessions.queues_of
        return sum(one.reserved and queue in queues_of(one) for one in self._sessions)

    def _can_be_reserved(self, session: Session, queue: str) -> bool:
        open_to_it = queue in self._sessions.queues_of(session) and session.max_in_flight > 0
        return open_to_it and not (session.reserved or session.left)
