"""What operators and other dispatchers want of this one: cancel, drain a worker, pause a queue.

An intent is stored first and then announced; whoever misses the announcement reads it again within
2 s. Pauses are a set of queues; that a worker shall leave stands in what is known about it, under
its instance, so that its next start is not meant.
"""

from __future__ import annotations

import asyncio
from typing import Final

from stepstream_dispatcher.engine.feeder import Feeder
from stepstream_dispatcher.engine.leases import Leases
from stepstream_dispatcher.engine.sessions import Sessions
from stepstream_dispatcher.store.port import Store

__all__ = ["DRAIN_FIELD", "Intents"]

DRAIN_FIELD: Final = "leaves"  # of a worker's fields: the instance that an operator drains
AGAIN_S: Final = 2.0

_CANCEL, _LOOK = "cancel", "look"


class Intents:
    """Carries out what is wanted of this dispatcher."""

    def __init__(self, *, store: Store, sessions: Sessions, feeder: Feeder, leases: Leases) -> None:
        self._store = store
        self._sessions = sessions
        self._feeder = feeder
        self._leases = leases

    async def run(self) -> None:
        """Listen and look until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            group.create_task(self._look_again())

    async def announce(self) -> None:
        """Carry out what was stored, here at once and everywhere else soon."""
        await self.look()
        for dispatcher_id in await self._store.dispatchers():
            await self._store.notify(dispatcher_id, _LOOK.encode())

    async def look(self) -> None:
        """Read pauses and drains, and carry them out."""
        self._feeder.pause(frozenset(await self._store.paused()))
        if not len(self._sessions):
            return
        workers = await self._store.workers()
        for session in self._sessions:
            known = workers.get(session.hello.worker_name, {})
            if known.get(DRAIN_FIELD) == session.hello.instance_id:
                session.tell_to_leave()

    async def _listen(self) -> None:
        async for signal in self._store.signals(events=False):
            if signal.kind != "intent":
                continue
            word, _, task_id = signal.payload.decode().partition(" ")
            if word == _CANCEL:
                self._leases.cancel_task(task_id)
            elif word == _LOOK:
                await self.look()

    async def _look_again(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(AGAIN_S)
