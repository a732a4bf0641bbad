"""Finds work that nobody does: of a dead dispatcher, and of this one's own past.

Entries that a dispatcher took are pending under its name until they are settled, so the pending
lists say all there is to find. For each entry the record tells what to do: not its task's current
entry: delete it; queued: queue it again under a new entry; leased by a dispatcher that is gone, and
brought back by no worker: release it, uncharged; unreadable: leave it. The entry of an attempt that
a worker brought to another dispatcher stays pending under the first one's name; so whoever meets it
asks for the owner that the record names, and the owner itself remembers by task what was brought to
it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from typing import Final

import structlog

from stepstream.errors import StoreBusy
from stepstream.session import RECONNECT_GRACE_S
from stepstream_dispatcher.core.facts import Fact, Released, Requeued
from stepstream_dispatcher.core.record import Stage, TaskRecord
from stepstream_dispatcher.engine.committer import Committer, Proposal
from stepstream_dispatcher.engine.feeder import Feeder
from stepstream_dispatcher.engine.readable import RecordReader
from stepstream_dispatcher.engine.sessions import Sessions
from stepstream_dispatcher.store.port import Entry, Store

__all__ = ["Recovery"]

EVERY_S: Final = 0.5  # between two sweeps of one's own pending list
BEAT_EVERY_S: Final = 2.0  # at most
BEATS_MIN: Final = 5  # within one silence limit, however short
PAGE: Final = 256
REMEMBERED: Final = 100  # silence limits for which one without a row is known by its last beat

_log = structlog.get_logger(__name__)


class Recovery:
    """Sweeps the pending lists.

    Args:
        dispatcher_id: This dispatcher.
        silence_limit_s: A dispatcher that has not beaten for this long is dead. Nobody is taken
            over for as long after the store was away, since then nobody could beat.
        lanes: Names of all lanes.
        reaches: Whether a task can be read now.
    """

    def __init__(
        self,
        *,
        store: Store,
        sessions: Sessions,
        committer: Committer,
        feeder: Feeder,
        dispatcher_id: str,
        silence_limit_s: float,
        lanes: Callable[[], Sequence[str]],
        reaches: Callable[[str], bool] = lambda _task_id: True,
    ) -> None:
        self._reaches = reaches
        self._store = store
        self._reader = RecordReader(store)
        self._sessions = sessions
        self._committer = committer
        self._feeder = feeder
        self._dispatcher_id = dispatcher_id
        self._silence_limit_s = silence_limit_s
        self._beat_every_s = min(BEAT_EVERY_S, silence_limit_s / BEATS_MIN)
        self._lanes = lanes
        self._orphan_since: dict[str, float] = {}  # lease token -> monotonic, when first seen
        self._heard_at: dict[str, float] = {}  # dispatcher -> monotonic, of its last known beat
        self._quiet_until = 0.0
        self._beaten_at = math.inf  # monotonic: this dispatcher's latest beat

    async def run(self) -> None:
        """Beat and sweep until cancelled."""
        self._orphan_since.clear()
        self.hold_back()
        self._beaten_at = asyncio.get_running_loop().time()
        await self._find_adopted()
        async with asyncio.TaskGroup() as group:
            group.create_task(_again(self._beat, self._beat_every_s))
            group.create_task(_again(self.sweep_own, EVERY_S))
            group.create_task(_again(self._sweep_dead, BEAT_EVERY_S / 2))

    def hold_back(self) -> None:
        """Take over nobody for one silence limit: nobody could beat while the store was away."""
        self._quiet_until = asyncio.get_running_loop().time() + self._silence_limit_s
        self._heard_at.clear()

    async def _beat(self) -> None:
        await self._store.beat()
        if self._is_unheard():
            self.hold_back()
        self._beaten_at = asyncio.get_running_loop().time()

    def _is_unheard(self) -> bool:
        """Whether this dispatcher could not beat for long; then others could not either."""
        silent_s = asyncio.get_running_loop().time() - self._beaten_at
        return silent_s >= self._silence_limit_s / 2

    def _is_quiet(self) -> bool:
        """Whether nobody may be taken over now."""
        return asyncio.get_running_loop().time() < self._quiet_until or self._is_unheard()

    async def sweep_own(self) -> None:
        """Settle what this dispatcher took, or adopted, and neither holds nor is about to lease."""
        seen: set[str] = set()
        async for entries in self._pending(self._dispatcher_id):
            busy = self._busy_entries()
            idle = [entry for entry in entries if (entry.task_id, entry.entry_id) not in busy]
            if idle:
                await self._settle_own(idle, seen)
        await self._settle_adopted(seen)
        self._orphan_since = {
            token: since for token, since in self._orphan_since.items() if token in seen
        }

    async def _settle_own(self, entries: list[Entry], seen: set[str]) -> None:
        records = await self._records_of(entries)
        gone = await self.owners_gone(records.values())
        busy = self._busy_entries()  # again: the reads took time
        proposals: list[Proposal] = []
        for entry in entries:
            if (entry.task_id, entry.entry_id) in busy or entry.task_id not in records:
                continue
            record = records[entry.task_id]
            if record is None or record.entry != entry.entry_id:
                await self._store.discard(entry.queue, [entry.entry_id])
            elif fact := self._own_fact(record, entry, seen, gone):
                proposals.append(Proposal(task_id=entry.task_id, record=record, fact=fact))
        await self._apply(proposals, self._dispatcher_id)

    def _own_fact(
        self, record: TaskRecord, entry: Entry, seen: set[str], gone: set[str]
    ) -> Fact | None:
        if record.stage is Stage.QUEUED:
            return Requeued(entry=entry.entry_id, reason="taken and not leased")
        if record.owner != self._dispatcher_id:
            return _released_for(record, gone)
        return None if self._sessions.holds(record.lease) else self._orphan_fact(record, seen)

    def _orphan_fact(self, record: TaskRecord, seen: set[str]) -> Fact | None:
        """Release a lease of this dispatcher that no session holds, once its grace is over."""
        now = asyncio.get_running_loop().time()
        seen.add(record.lease)
        since = self._orphan_since.setdefault(record.lease, now)
        if now - since < RECONNECT_GRACE_S:
            return None
        return Released(
            token=record.lease,
            reason="the dispatcher restarted and no worker came back with it",
            owner=self._dispatcher_id,
        )

    async def _settle_adopted(self, seen: set[str]) -> None:
        adopted = self._sessions.adopted
        lost = {
            token: task_id
            for token, task_id in adopted.items()
            if not self._sessions.holds(token) and self._reaches(task_id)
        }
        records = await self._reader.records(list(lost.values()))
        proposals: list[Proposal] = []
        for token, task_id in lost.items():
            if self._sessions.holds(token) or task_id not in records:
                continue
            record = records[task_id]
            if record is None or (record.lease, record.owner) != (token, self._dispatcher_id):
                adopted.pop(token, None)
            elif fact := self._orphan_fact(record, seen):
                proposals.append(Proposal(task_id=task_id, record=record, fact=fact))
        await self._apply(proposals, self._dispatcher_id)

    async def _find_adopted(self) -> None:
        """Learn what this dispatcher had adopted before it restarted under its name."""
        for other in await self._store.dispatchers():
            if other == self._dispatcher_id:
                continue
            async for entries in self._pending(other):
                for task_id, record in (await self._records_of(entries)).items():
                    if record is not None and record.owner == self._dispatcher_id:
                        self._sessions.adopted[record.lease] = task_id

    async def owners_gone(self, records: Collection[TaskRecord | None]) -> set[str]:
        """The owners that have not beaten for too long; none while nobody may be taken over.

        Somebody may have deleted the rows: where one's own is missing, others' say nothing, and who
        has none has been silent since his last known beat, or since he was first missed.
        """
        owners = {record.owner for record in records if record is not None and record.owner}
        owners.discard(self._dispatcher_id)
        if not owners or self._is_quiet():
            return set()
        silent_ms = await self._silences()
        if self._dispatcher_id not in silent_ms:
            return set()
        limit_ms = self._silence_limit_s * 1000
        now = asyncio.get_running_loop().time()
        silent_ms |= {
            owner: round((now - self._heard_at.setdefault(owner, now)) * 1000)
            for owner in owners - silent_ms.keys()
        }
        return {owner for owner in owners if silent_ms[owner] >= limit_ms}

    async def _silences(self) -> dict[str, int]:
        """How long each dispatcher that has a row has not beaten, in ms."""
        silent_ms = await self._store.dispatchers()
        now = asyncio.get_running_loop().time()
        self._heard_at |= {name: now - ms / 1000 for name, ms in silent_ms.items()}
        oldest = now - REMEMBERED * self._silence_limit_s
        self._heard_at = {name: at for name, at in self._heard_at.items() if at >= oldest}
        return silent_ms

    def _busy_entries(self) -> set[tuple[str, str]]:
        """Entries in hand, on a table, or being settled, with their tasks."""
        busy = {(entry.task_id, entry.entry_id) for entry in self._feeder.in_hand}
        tables = [self._sessions.ending]
        for session in self._sessions:
            tables += session.attempts, session.settling, session.parked
        for table in tables:
            busy.update((attempt.task_id, attempt.record.entry) for attempt in table.values())
        return busy

    # --- others ----------------------------------------------------------------------------------

    async def _sweep_dead(self) -> None:
        if not self._is_quiet():
            await self.sweep_dead()

    async def sweep_dead(self) -> None:
        """Take over what dead dispatchers have left."""
        limit_ms = self._silence_limit_s * 1000
        for dispatcher_id, silent_ms in (await self._silences()).items():
            if dispatcher_id != self._dispatcher_id and silent_ms >= limit_ms:
                left = await self._take_over(dispatcher_id)
                if not left:
                    await self._store.forget_dispatcher(dispatcher_id)

    async def _take_over(self, dead: str) -> int:
        """Settle what a dead dispatcher has pending; returns how many entries others hold."""
        left = 0
        async for entries in self._pending(dead):
            records = await self._records_of(entries)
            gone = await self.owners_gone(records.values())
            left += sum(entry.task_id not in records for entry in entries)
            proposals: list[Proposal] = []
            for entry in entries:
                if entry.task_id not in records:
                    continue
                record = records[entry.task_id]
                if record is None or record.entry != entry.entry_id:
                    await self._store.discard(entry.queue, [entry.entry_id])
                elif fact := _dead_fact(record, entry, dead, gone):
                    proposals.append(Proposal(task_id=entry.task_id, record=record, fact=fact))
                else:
                    left += 1
            await self._apply(proposals, dead)
        return left

    async def _apply(self, proposals: list[Proposal], of: str) -> None:
        outcomes = await self._committer.apply(proposals)
        if taken_over := sum(outcome.applied for outcome in outcomes):
            _log.warning("work taken over", dispatcher=of, attempts=taken_over)

    async def _records_of(self, entries: Sequence[Entry]) -> dict[str, TaskRecord | None]:
        """The records that entries name, by task; without those that are unreadable."""
        return await self._reader.records([entry.task_id for entry in entries])

    async def _pending(self, consumer: str) -> AsyncIterator[list[Entry]]:
        for queue in self._lanes():
            after = ""
            while True:
                page = await self._store.pending(queue, consumer=consumer, after=after, count=PAGE)
                if page:
                    yield page
                if len(page) < PAGE:
                    break
                after = page[-1].entry_id


async def _again(look: Callable[[], Awaitable[None]], every_s: float) -> None:
    """Do it for ever. What a busy store refuses is done the next time."""
    while True:
        with contextlib.suppress(StoreBusy):
            await look()
        await asyncio.sleep(every_s)


def _dead_fact(record: TaskRecord, entry: Entry, dead: str, gone: set[str]) -> Fact | None:
    if record.stage is Stage.QUEUED:
        return Requeued(entry=entry.entry_id, reason=f"dispatcher {dead} is gone")
    return _released_for(record, gone)


def _released_for(record: TaskRecord, gone: set[str]) -> Released | None:
    owner = record.owner
    if owner not in gone:
        return None
    return Released(token=record.lease, reason=f"dispatcher {owner} is gone", owner=owner)
