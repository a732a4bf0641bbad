"""The switch's lanes and timers: the journal's come first, since somebody waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from stepstream.errors import StoreUnavailable
from stepstream_dispatcher.engine.turn import Turn
from stepstream_dispatcher.store.port import (
    Entry,
)

__all__ = ["SwitchedLanes"]


class SwitchedLanes(Turn):
    """Entries and due times of both stores."""

    # --- lanes -----------------------------------------------------------------------------------

    async def ensure_lanes(self, queues: Sequence[str]) -> None:
        """See Store.ensure_lanes."""
        if not self.diverted:
            await self._remote.ensure_lanes(queues)

    async def read(self, queue: str, count: int) -> list[Entry]:
        """See Store.read. The journal's come first: somebody waits for them."""
        entries = await self._journal.read(queue, count) if self._at_rest else []
        if len(entries) < count:
            room = count - len(entries)
            entries += self._handed_out(
                await self._ask(lambda: self._remote.read(queue, room), _nothing)
            )
        return entries

    async def wait(self, queues: Sequence[str], *, count: int, timeout_s: float) -> list[Entry]:
        """See Store.wait. While the journal has tasks, `count` is 1; both may answer at once."""
        if self.diverted:
            return await self._journal.wait(queues, count=count, timeout_s=timeout_s)
        if self._at_rest:
            return await self._wait_for_both(queues, timeout_s)
        return self._handed_out(
            await self._ask(lambda: self._wait_remotely(queues, count, timeout_s), _nothing)
        )

    async def _wait_remotely(
        self, queues: Sequence[str], count: int, timeout_s: float
    ) -> list[Entry]:
        """Wait at Redis, until it is down; one that vanished would hold the reader for seconds."""
        try:
            async with asyncio.timeout(None) as turn:
                self._waits.add(turn)
                try:
                    return await self._remote.wait(queues, count=count, timeout_s=timeout_s)
                finally:
                    self._waits.discard(turn)
        except TimeoutError:
            return []
        except StoreUnavailable:
            if not await self._hears_down():
                raise
            return []

    async def _wait_for_both(self, queues: Sequence[str], timeout_s: float) -> list[Entry]:
        found: list[Entry] = []

        async def wait_here() -> None:
            found.extend(await self._journal.wait(queues, count=1, timeout_s=timeout_s))
            await self._remote.wake()

        async def wait_there() -> None:
            entries = await self._ask(lambda: self._wait_remotely(queues, 1, timeout_s), _nothing)
            found.extend(self._handed_out(entries))
            await self._journal.wake()

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(wait_here())
                group.create_task(wait_there())
        except* StoreUnavailable:
            if not found:
                raise
        return found

    def _handed_out(self, entries: Sequence[Entry]) -> list[Entry]:
        """Without those that Redis has for tasks of the journal."""
        return [
            entry
            for entry in entries
            if entry.task_id not in self._at_rest or self._journal.is_own_entry(entry.entry_id)
        ]

    async def wake(self) -> None:
        """See Store.wake."""
        await self._journal.wake()
        await self._ask(self._remote.wake, _idle)

    async def pending(self, queue: str, *, consumer: str, after: str, count: int) -> list[Entry]:
        """See Store.pending. The journal's come first."""
        page: list[Entry] = []
        if not after or self._journal.is_own_entry(after):
            page = await self._journal.pending(queue, consumer=consumer, after=after, count=count)
            after = ""
        if len(page) < count:
            room = count - len(page)
            page += self._handed_out(
                await self._ask(
                    lambda: self._remote.pending(queue, consumer=consumer, after=after, count=room),
                    _nothing,
                )
            )
        return page

    async def discard(self, queue: str, entry_ids: Sequence[str]) -> None:
        """See Store.discard. What Redis has stays pending while diverted, for recovery to find."""
        here = [entry_id for entry_id in entry_ids if self._journal.is_own_entry(entry_id)]
        there = [entry_id for entry_id in entry_ids if not self._journal.is_own_entry(entry_id)]
        if here:
            await self._journal.discard(queue, here)
        if there:
            await self._ask(lambda: self._remote.discard(queue, there), _idle)

    # --- time ------------------------------------------------------------------------------------

    async def due(self, *, limit: int) -> tuple[list[str], int | None]:
        """See Store.due."""
        here, next_here = await self._journal.due(limit=limit) if self._at_rest else ([], None)
        there, next_there = await self._ask(lambda: self._remote.due(limit=limit), _nothing_due)
        later = [at_ms for at_ms in (next_here, next_there) if at_ms is not None]
        elsewhere = [task_id for task_id in there if task_id not in self._at_rest]
        return [*here, *elsewhere], min(later, default=None)

    async def drop_timers(self, task_ids: Sequence[str]) -> int:
        """See Store.drop_timers. While diverted only those of the journal."""
        here = [task_id for task_id in task_ids if task_id in self._at_rest]
        there = [task_id for task_id in task_ids if task_id not in self._at_rest]
        dropped = await self._journal.drop_timers(here) if here else 0
        if there and not self.diverted:
            dropped += await self._remote.drop_timers(there)
        return dropped


async def _nothing() -> list[Entry]:
    return []


async def _nothing_due() -> tuple[list[str], int | None]:
    return [], None


async def _idle() -> None:
    return
