"""Where tasks are, Redis or the journal, and which way the switch is turned."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from stepstream_dispatcher.store.port import ImportingStore, Intents, Journal, StoreUnreachable

__all__ = ["AWAY", "Turn"]

STRANDED_S: Final = 5.0  # a worker whose stream broke is back by then, or at another dispatcher
VERDICT_S: Final = 2.0  # a call that could not reach Redis waits this long for the probes
AWAY: Final = "redis is away; only tasks that were accepted since are served"

T = TypeVar("T")


class Turn:
    """What the parts of the switch share.

    Args:
        remote: Redis.
        journal: The journal; its clock should be that of `remote`.
        running_max: Tasks of the journal that are not at rest; more are FULL.
    """

    def __init__(self, remote: ImportingStore, journal: Journal, *, running_max: int) -> None:
        self._remote = remote
        self._journal = journal
        self._running_max = running_max
        self.diverted = False
        self._remote_open = False
        self._journal_open = False
        self.doubted = asyncio.Event()  # a call could not reach Redis: probe now
        self.rested = asyncio.Event()  # the journal may have tasks to import
        self._told = asyncio.Event()  # the probes know: it is down, or it is not
        self._joined = asyncio.Event()  # set while not
        self._joined.set()
        self._intents = Intents()  # as Redis said last
        self._at_rest: dict[str, bool] = {}  # the tasks of the journal
        self._committing: Counter[str] = Counter()  # calls that write a task of the journal
        # Of those the ones that wait for a worker: their queue, and since when (monotonic).
        self._queued: dict[str, tuple[str, float]] = {}
        self._departed: set[str] = set()  # tasks that are, or may have been, imported
        self._waits: set[asyncio.Timeout] = set()  # blocks of readers, which a turn ends

    @property
    def remote(self) -> ImportingStore:
        """Redis."""
        return self._remote

    def __contains__(self, task_id: object) -> bool:
        """Whether a task is in the journal."""
        return task_id in self._at_rest

    @property
    def journaled(self) -> int:
        """How many tasks are in the journal."""
        return len(self._at_rest)

    @property
    def running(self) -> int:
        """Tasks of the journal that are not at rest."""
        return sum(not rests for rests in self._at_rest.values())

    def reaches(self, task_id: str) -> bool:
        """Whether a task can be read and changed now, as far as is known."""
        return not self.diverted or task_id in self._at_rest

    # --- turning ---------------------------------------------------------------------------------

    def divert(self) -> None:
        """New tasks go to the journal from now on."""
        self.diverted = True
        self._joined.clear()
        self._told.set()
        while self._waits:
            self._waits.pop().reschedule(0)

    def rejoin(self) -> None:
        """New tasks go to Redis again, and those of the journal follow."""
        self.diverted = False
        self._joined.set()
        self.rested.set()

    def vouch(self) -> None:
        """Redis has answered a probe; that says nothing about a doubt that is younger."""
        if not self.doubted.is_set():
            self._told.set()

    def resting(self) -> list[str]:
        """The tasks of the journal that can be imported, oldest first."""
        return [task_id for task_id, rests in self._at_rest.items() if rests]

    def stranded(self, serves: Callable[[str], bool]) -> list[str]:
        """The tasks of the journal that wait for a worker here, and none comes.

        Args:
            serves: Whether a worker that is connected here takes from a queue.
        """
        before = asyncio.get_running_loop().time() - STRANDED_S
        return [
            task_id
            for task_id, (queue, since) in self._queued.items()
            if since <= before and not serves(queue)
        ]

    async def _hears_down(self) -> bool:
        """Whether Redis is down; the probes may still be about to find out."""
        if not self.diverted:
            self._told.clear()
            self.doubted.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(VERDICT_S):
                    await self._told.wait()
        return self.diverted

    async def _ask(self, ask: Callable[[], Awaitable[T]], instead: Callable[[], Awaitable[T]]) -> T:
        """Ask Redis; the journal while diverted."""
        if not self.diverted:
            try:
                return await ask()
            except StoreUnreachable:
                if not await self._hears_down():
                    raise
        return await instead()

    def _refuse_diverted(self) -> None:
        if self.diverted:
            raise StoreUnreachable(AWAY)
