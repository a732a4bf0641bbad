"""Decides when Redis is down, and takes the journal's tasks to it once it is back.

Three failed PINGs on fresh connections turn the switch; one that is answered turns it back. A
failure is a refused or reset connection, one that nobody takes, or a server that still loads its
data. A server that took the connection and is slow to answer is not down.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from stepstream.errors import InternalError, StoreUnavailable
from stepstream_dispatcher.engine.switch import SwitchStore
from stepstream_dispatcher.store.port import Imported, StoreRefused, StoreUnreachable

__all__ = ["Fallback"]

PROBE_EVERY_S: Final = 0.5
PROBE_AGAIN_S: Final = 0.1  # after a failure
FAILURES: Final = 3  # in a row
IMPORT_EVERY_S: Final = 1.0  # what stayed in the journal is looked at again

_log = structlog.get_logger(__name__)


class Fallback:
    """The loops around a switch.

    Args:
        switch: What is turned.
        returned: Called when Redis answers again, before it is used: shares what it may have lost.
        turned: Called after each turn.
        serves: Whether a worker that is connected here takes from a queue.
    """

    def __init__(
        self,
        switch: SwitchStore,
        *,
        returned: Callable[[], Awaitable[None]],
        turned: Callable[[], Awaitable[None]],
        serves: Callable[[str], bool],
    ) -> None:
        self._switch = switch
        self._serves = serves
        self._returned = returned
        self._turned = turned
        self._complaint = ""  # why the latest return failed
        self.imports: Counter[Imported] = Counter()  # since the process began

    async def probe(self) -> None:
        """Watch Redis until cancelled."""
        failures = 0
        while True:
            self._switch.doubted.clear()
            try:
                await self._switch.ping()
            except StoreUnreachable as error:
                failures += 1
                if failures >= FAILURES and not self._switch.diverted:
                    await self._divert(error)
            except StoreUnavailable as error:
                failures = 0  # whoever took the connection may carry out what it was sent
                _log.debug("redis is slow", error=error.message)
            else:
                failures = 0
                self._switch.vouch()
                if self._switch.diverted:
                    await self._rejoin()
            await self._pause(hurry=bool(failures) and not self._switch.diverted)

    async def bring_home(self) -> None:
        """Import what is at rest or stranded, whenever Redis is there, until cancelled."""
        self._switch.rested.set()
        while True:
            await self._switch.rested.wait()
            self._switch.rested.clear()
            try:
                await self._import_all()
            except StoreUnavailable:
                self._switch.doubted.set()
            if self._switch.journaled and not self._switch.diverted:
                await asyncio.sleep(IMPORT_EVERY_S)
                self._switch.rested.set()

    async def _import_all(self) -> None:
        if self._switch.diverted:
            return
        for task_id in self._switch.resting():
            await self._import(task_id)
        for task_id in self._switch.stranded(self._serves):
            await self._import(task_id, queued=True)

    async def _import(self, task_id: str, *, queued: bool = False) -> None:
        try:
            word = await self._switch.bring_home(task_id, queued=queued)
        except InternalError as error:
            _log.error("task cannot be imported", task_id=task_id, error=error.message)
            return
        if word is None:
            return
        self.imports[word] += 1
        log = _log.warning if word is Imported.DROPPED else _log.info
        log("task imported", task_id=task_id, result=word.value)

    async def _divert(self, error: StoreUnreachable) -> None:
        self._switch.divert()
        _log.error("redis is down: tasks run synchronously", error=error.message)
        await self._tell()

    async def _rejoin(self) -> None:
        try:
            await self._switch.open_remote()
            self._switch.rejoin()
            await self._returned()
        except StoreUnavailable as error:
            self._switch.divert()
            self._complain(logging.WARNING, "redis answers and is not ready", error.message)
        except StoreRefused as error:
            self._switch.divert()
            self._complain(logging.ERROR, "redis is not used", str(error))
        else:
            self._complaint = ""
            _log.info("redis is back", to_import=self._switch.journaled)
            await self._tell()

    def _complain(self, level: int, event: str, error: str) -> None:
        """Log why Redis is not used yet, once for each reason."""
        if self._complaint != error:
            _log.log(level, event, error=error)
        self._complaint = error

    async def _tell(self) -> None:
        """Say that it turned; the probes go on whatever comes of that."""
        with contextlib.suppress(StoreUnavailable):
            await self._turned()

    async def _pause(self, *, hurry: bool) -> None:
        if hurry:
            await asyncio.sleep(PROBE_AGAIN_S)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PROBE_EVERY_S):
                await self._switch.doubted.wait()
