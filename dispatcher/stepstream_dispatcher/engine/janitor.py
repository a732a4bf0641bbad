"""Keeps the index as short as the results are kept."""

from __future__ import annotations

import asyncio
from typing import Final

from stepstream_dispatcher.store.port import Store

__all__ = ["Janitor"]

EVERY_S: Final = 5.0
LIMIT: Final = 500  # tasks of one pass, so that no pass holds Redis for long


class Janitor:
    """Trims the index of expired tasks and of ended ones beyond the maximum."""

    def __init__(self, *, store: Store, results_max: int) -> None:
        self._store = store
        self._results_max = results_max

    async def run(self) -> None:
        """Trim until cancelled; at once again while there is much to trim."""
        while True:
            dropped = await self._store.trim(results_max=self._results_max, limit=LIMIT)
            if dropped < LIMIT:
                await asyncio.sleep(EVERY_S)
