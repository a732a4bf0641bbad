"""Looks again and again whether the store can still be trusted with tasks, and says so loudly."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from stepstream_dispatcher.store.port import Store

__all__ = ["Checkup"]

EVERY_S: Final = 60.0

_log = structlog.get_logger(__name__)


class Checkup:
    """Complains in the log for as long as the store's server could lose tasks.

    A dispatcher refuses to start on such a server. One that runs goes on: to leave would help no
    task that is there already.
    """

    def __init__(self, *, store: Store) -> None:
        self._store = store
        self._faults: list[str] = []

    async def run(self) -> None:
        """Look once a minute until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.look()

    async def look(self) -> None:
        """Look once."""
        faults = await self._store.faults()
        for fault in faults:
            _log.error(f"tasks may be lost: {fault}")
        for fault in self._faults:
            if fault not in faults:
                _log.info(f"mended: {fault}")
        self._faults = faults
