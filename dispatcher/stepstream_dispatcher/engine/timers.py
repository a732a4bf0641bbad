"""Acts when a task's timer goes off: queues what is due, fails what is beyond its deadline."""

from __future__ import annotations

import asyncio
from typing import Final

from stepstream_dispatcher.core.facts import DeadlinePassed, Due, Fact
from stepstream_dispatcher.core.record import TaskRecord, Transition
from stepstream_dispatcher.engine.committer import Committer, Proposal
from stepstream_dispatcher.store.port import Store

__all__ = ["Timers"]

LOOK_EVERY_S: Final = 1.0  # another dispatcher may have delayed a task; its own timer is exact
PAGE: Final = 256


class Timers:
    """Sleeps until the next due time; woken when an earlier one is set here."""

    def __init__(self, *, store: Store, committer: Committer) -> None:
        self._store = store
        self._committer = committer
        self._earlier = asyncio.Event()
        self._next_ms: int | None = None

    def applied(self, transition: Transition) -> None:
        """Hear of a transition that was applied here."""
        due_ms = transition.due_ms
        if due_ms is not None and (self._next_ms is None or due_ms < self._next_ms):
            self._earlier.set()

    async def run(self) -> None:
        """Act on what is due until cancelled."""
        while True:
            self._earlier.clear()
            self._next_ms = None  # whatever is delayed while the store looks is looked for again
            task_ids, self._next_ms = await self._store.due(limit=PAGE)
            if task_ids:
                await self._act(task_ids)
                continue
            await self._sleep()

    async def _act(self, task_ids: list[str]) -> None:
        records = await self._store.records(task_ids)
        proposals = [
            Proposal(task_id=task_id, record=record, fact=self._fact(record))
            for task_id, record in zip(task_ids, records, strict=True)
            if record is not None
        ]
        outcomes = await self._committer.apply(proposals)
        if not any(outcome.applied for outcome in outcomes):
            await self._sleep()  # leftovers of tasks that are gone or went on

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
