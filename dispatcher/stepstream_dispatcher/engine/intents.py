"""Obeys what operators want of all dispatchers: paused queues, and workers that are to leave.

The store is the truth. Whoever changes an intent tells the dispatchers that it concerns; each of
them then reads all intents again, and every 2 s without being told, so that a lost message does no
harm. Reads follow each other: an older answer never replaces a newer one.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from stepstream_dispatcher.engine.feeder import Feeder
from stepstream_dispatcher.engine.leases import Leases
from stepstream_dispatcher.engine.messages import CENSUS_WORD, ORPHAN_WORD, SPARE_WORD
from stepstream_dispatcher.engine.sessions import Session, Sessions
from stepstream_dispatcher.engine.spread import Spread
from stepstream_dispatcher.store.port import Intents, Store

__all__ = ["IntentKeeper"]

LOOK_EVERY_S: Final = 1.5  # every 2 s is promised, and reading and obeying take their time

_log = structlog.get_logger(__name__)


class IntentKeeper:
    """Keeps this dispatcher to the stored intents."""

    def __init__(
        self, *, store: Store, sessions: Sessions, feeder: Feeder, leases: Leases, spread: Spread
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._feeder = feeder
        self._leases = leases
        self._spread = spread
        self._reading = asyncio.Lock()
        self._known = Intents()

    async def run(self) -> None:
        """Listen and look until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            group.create_task(self._look_for_ever())

    async def look(self) -> Intents:
        """Read the intents and obey them; returns them.

        Raises:
            StoreUnavailable: Redis does not answer; what was known stays in force.
        """
        async with self._reading:
            self._known = await self._store.intents()
            self._tell_changes()
            self._feeder.pause(frozenset(self._known.paused))
            for session in self._dismiss():
                await self._leases.worker_drains(session)
            return self._known

    def greet(self) -> None:
        """Obey what is known for workers that have just registered: some may have to leave."""
        self._dismiss()

    def _dismiss(self) -> list[Session]:
        """Send the workers away that are to leave; returns those that were not told before."""
        leaving = [
            session
            for session in self._sessions
            if session.hello.instance_id in self._known.draining and not session.dismissed
        ]
        for session in leaving:
            session.dismissed = session.draining = True
            session.outbox.drain, session.outbox.leave = "an operator drains this worker", True
            session.outbox.notify()
            _log.info("worker dismissed", worker=session.hello.worker_name, session=session.id)
        return leaving

    def _tell_changes(self) -> None:
        before, now = self._feeder.paused, self._known.paused.keys()
        for queue in sorted(now - before):
            _log.info("queue paused", queue=queue)
        for queue in sorted(before - now):
            _log.info("queue resumed", queue=queue)

    async def _look_for_ever(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self.look()

    async def _listen(self) -> None:
        """Take in what other dispatchers want of this one."""
        async for signal in self._store.signals(events=False):
            word, _, rest = signal.payload.decode(errors="replace").partition(" ")
            if word == "cancel":
                self._leases.cancel_task(rest)
            elif word == ORPHAN_WORD and signal.kind == "intent":
                self._sessions.look_after(*rest.split(" ", 1))
            elif word == SPARE_WORD and rest.isdecimal():
                await self._spread.spare(int(rest))
            elif word != CENSUS_WORD:
                await self.look()  # another word, or messages may have been missed
