"""Acts when a task's timer goes off: queues what is due, fails what is beyond its deadline."""

from __future__ import annotations

import asyncio
from typing import Final

from stepstream_dispatcher.core.facts import DeadlinePassed, Due, Fact
from stepstream_dispatcher.core.record import TaskRecord
from stepstream_dispatcher.engine.committer import Committer, Proposal
from stepstream_dispatcher.engine.readable import RecordReader
from stepstream_dispatcher.store.port import Store

__all__ = ["Timers"]

LOOK_EVERY_S: Final = 1.0  # another dispatcher may have delayed a task; its own timer is exact
PAGE: Final = 256
STUCK_MAX: Final = 4096  # tasks that are due and do not move, and are looked past


class Timers:
    """Sleeps until the next due time; woken when an earlier one is set here."""

    def __init__(self, *, store: Store, committer: Committer) -> None:
        self._store = store
        self._reader = RecordReader(store)
        self._committer = committer
        self._earlier = asyncio.Event()
        self._next_ms: int | None = None

    def set(self, due_ms: int) -> None:
        """Hear of a timer that was set here."""
        if self._next_ms is None or due_ms < self._next_ms:
            self._earlier.set()

    async def run(self) -> None:
        """Act on what is due until cancelled.

        What is due and does not move, such as a task of a pipeline that nobody defines or one whose
        record is unreadable, is looked past by so much longer a look, so that it holds up no other.
        """
        stuck = 0
        while True:
            self._earlier.clear()
            self._next_ms = None  # whatever is delayed while the store looks is looked for again
            limit = PAGE + stuck
            task_ids, self._next_ms = await self._store.due(limit=limit)
            moved = await self._act(task_ids) if task_ids else 0
            left = len(task_ids) - moved
            seen_all = len(task_ids) < limit or left > STUCK_MAX
            stuck = min(left, STUCK_MAX)
            if not moved and seen_all:
                await self._sleep()

    async def _act(self, task_ids: list[str]) -> int:
        """Act on what is due; returns how many timers that took away."""
        records = await self._reader.records(task_ids)
        gone = [task_id for task_id, record in records.items() if record is None]
        dropped = await self._store.drop_timers(gone) if gone else 0
        proposals = [
            Proposal(task_id=task_id, record=record, fact=self._fact(record))
            for task_id, record in records.items()
            if record is not None
        ]
        outcomes = await self._committer.apply(proposals) if proposals else []
        return dropped + sum(outcome.applied for outcome in outcomes)

    def _fact(self, record: TaskRecord) -> Fact:
        return DeadlinePassed() if record.is_late(self._store.now_ms()) else Due()

    async def _sleep(self) -> None:
        delay_s = LOOK_EVERY_S
        if self._next_ms is not None:
            delay_s = min(delay_s, max(0.001, (self._next_ms - self._store.now_ms()) / 1000))
        try:
            async with asyncio.timeout(delay_s):
                await self._earlier.wait()
        except TimeoutError:
            return
