"""Keeps what is known about this dispatcher's workers in the store, for every replica to read."""

from __future__ import annotations

import asyncio
from typing import Final, TypeAlias
from weakref import WeakValueDictionary

from stepstream_dispatcher.engine.sessions import Hello, Session, Sessions
from stepstream_dispatcher.store.port import Store

__all__ = ["Roster"]

LOOK_EVERY_S: Final = 0.25  # how old the count of held attempts may be, of up to LOOK_MAX workers
LOOK_MAX: Final = 500  # workers of one look: where there are more, they have their turns
SAVE_EVERY_S: Final = 60.0  # unchanged workers too, so that they do not expire

_Changing: TypeAlias = tuple[Hello, int, int, bool]


class Roster:
    """Saves workers when they change."""

    def __init__(self, *, store: Store, sessions: Sessions, dispatcher_id: str) -> None:
        self._store = store
        self._sessions = sessions
        self._dispatcher_id = dispatcher_id
        self._writing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._saved: dict[str, tuple[_Changing, float]] = {}
        self._turn = 0  # where in the row of workers the next look begins

    async def run(self) -> None:
        """Save until cancelled."""
        while True:
            await self.save(LOOK_MAX)
            await asyncio.sleep(LOOK_EVERY_S)

    async def save(self, at_most: int | None = None) -> None:
        """Write every worker that changed, and those that left.

        Args:
            at_most: How many are looked at, beginning after those of the last time; None: all.
        """
        present, now = self._present(), asyncio.get_running_loop().time()
        for session in self._next(list(present.values()), at_most):
            if self._is_news(session, now):
                await self._write(session)
        missed = self._saved.keys() - present.keys()
        if left := list(missed - self._present().keys()) if missed else []:  # others may have come
            await self._store.mark_left(left)
        for name in left:
            self._saved.pop(name, None)  # one that came back meanwhile is written again

    def _next(self, sessions: list[Session], at_most: int | None) -> list[Session]:
        """Those whose turn it is."""
        if at_most is None or len(sessions) <= at_most:
            return sessions
        first = self._turn % len(sessions)
        self._turn = first + at_most
        return (sessions + sessions)[first : self._turn]

    def _present(self) -> dict[str, Session]:
        """The sessions by the names of their workers."""
        return {
            session.hello.worker_name: session
            for session in self._sessions
            if session.broken_at is None
        }

    async def enter(self, session: Session) -> None:
        """Write one worker that has come; when many come at once, each is written once."""
        await self._write(session)

    async def _write(self, session: Session) -> None:
        """Write a worker as it is now, if that is news; one write of a name at a time."""
        name = session.hello.worker_name
        writing = self._writing.setdefault(name, asyncio.Lock())
        async with writing:
            now = asyncio.get_running_loop().time()
            if not self._is_news(session, now):
                return
            # Before it is written, so that who finds it gone meanwhile has it written again.
            self._saved[name] = (_changing(session), now)
            try:
                await self._store.save_worker(name, self._describe(session))
            except BaseException:
                self._saved.pop(name, None)
                raise

    def _is_news(self, session: Session, now: float) -> bool:
        """Whether a worker is not written as it is now, or was long ago."""
        known = self._saved.get(session.hello.worker_name)
        if known is None or known[0] != _changing(session):
            return True
        return now - known[1] >= SAVE_EVERY_S

    async def save_all(self) -> None:
        """Write every worker, to a store that may know none of them."""
        self._saved.clear()
        await self.save()

    def _describe(self, session: Session) -> dict[str, str | int]:
        return {
            "instance": session.hello.instance_id,
            "dispatcher": self._dispatcher_id,
            "sdk": session.hello.sdk,
            "queues": ",".join(sorted(session.hello.queues)),
            "step_types": ",".join(sorted(session.hello.step_types)),
            "max_in_flight": session.max_in_flight,
            "current_tasks": len(session.attempts) + len(session.settling),
            "is_running": 1,
            "draining": int(session.draining),
            "seen_ms": self._store.now_ms(),
        }


def _changing(session: Session) -> _Changing:
    """What tells a worker from itself a moment ago, and is quickly compared."""
    held = len(session.attempts) + len(session.settling)
    return session.hello, session.max_in_flight, held, session.draining
