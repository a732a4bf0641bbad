"""Keeps what is known about this dispatcher's workers in the store, for every replica to read."""

from __future__ import annotations

import asyncio
from typing import Final
from weakref import WeakValueDictionary

from stepstream_dispatcher.engine.sessions import Session, Sessions
from stepstream_dispatcher.store.port import Store

__all__ = ["Roster"]

LOOK_EVERY_S: Final = 0.25  # how old the count of held attempts may be
SAVE_EVERY_S: Final = 60.0  # unchanged workers too, so that they do not expire


class Roster:
    """Saves workers when they change."""

    def __init__(self, *, store: Store, sessions: Sessions, dispatcher_id: str) -> None:
        self._store = store
        self._sessions = sessions
        self._dispatcher_id = dispatcher_id
        self._writing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._saved: dict[str, tuple[dict[str, str | int], float]] = {}

    async def run(self) -> None:
        """Save until cancelled."""
        while True:
            await self.save()
            await asyncio.sleep(LOOK_EVERY_S)

    async def save(self) -> None:
        """Write every worker that changed, and those that left."""
        current = {
            session.hello.worker_name: session
            for session in self._sessions
            if session.broken_at is None
        }
        for session in current.values():
            await self._write(session)
        for name in [name for name in self._saved if name not in current]:
            await self._left(name)

    async def enter(self, session: Session) -> None:
        """Write one worker that has come; when many come at once, each is written once."""
        await self._write(session)

    async def _write(self, session: Session) -> None:
        """Write a worker as it is now, if that is news; one write of a name at a time."""
        name = session.hello.worker_name
        writing = self._writing.setdefault(name, asyncio.Lock())
        async with writing:
            now, fields = asyncio.get_running_loop().time(), self._describe(session)
            known = self._saved.get(name)
            if known is None or known[0] != fields or now - known[1] >= SAVE_EVERY_S:
                await self._store.save_worker(name, {**fields, "seen_ms": self._store.now_ms()})
                self._saved[name] = (fields, now)

    async def save_all(self) -> None:
        """Write every worker, to a store that may know none of them."""
        self._saved.clear()
        await self.save()

    async def _left(self, name: str) -> None:
        """Mark a worker as gone, unless it has moved to another dispatcher."""
        known = (await self._store.workers()).get(name, {})
        if known.get("dispatcher", "") == self._dispatcher_id:
            gone: dict[str, str | int] = {"is_running": 0, "current_tasks": 0, "draining": 0}
            await self._store.save_worker(name, {**gone, "seen_ms": self._store.now_ms()})
            if known.get("draining") == "1":
                await self._store.forget_dismissal(known.get("instance", ""))
        self._saved.pop(name, None)

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
        }
