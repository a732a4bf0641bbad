"""Feeds workers: reads as many entries as there is credit for, matches, leases, hands out.

Theory of operation. One reader per dispatcher takes entries of one lane at a time, never more than
the free credit of the sessions that the lane may feed; when all lanes are empty it blocks over
those with a free slot, for no more than the least of them shared among them, and is woken when a
new one gets some, or there are less. For workers that only take something ahead of their slots it
never blocks: what comes may find a slot elsewhere. What was read is *in hand* until it is
leased; what can be leased is at once, so that slots which are free have nothing ready. An entry
that is not its record's current one is deleted unseen. An entry that finds no room after all is
held for a second and then put back uncharged. A step that has taken down two workers gets one for
itself (`alone`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from operator import attrgetter
from typing import Final, TypeAlias

import msgspec

from stepstream_dispatcher.core.assign import Offer
from stepstream_dispatcher.core.lifecycle import runs_alone
from stepstream_dispatcher.core.record import Stage, TaskRecord
from stepstream_dispatcher.engine.alone import Alone
from stepstream_dispatcher.engine.committer import Committer
from stepstream_dispatcher.engine.fresh import Fresh
from stepstream_dispatcher.engine.leasing import Leasing, Load
from stepstream_dispatcher.engine.readable import read_around
from stepstream_dispatcher.engine.ready import Ready
from stepstream_dispatcher.engine.sessions import Session, Sessions
from stepstream_dispatcher.store.port import Entry, Store

__all__ = ["Feeder"]

READ_MAX: Final = 256  # entries of one read: a lease commit carries no more
WAIT_S: Final = 2.0  # longest block of one read; below the store's socket timeout
SURPLUS_S: Final = 1.0  # how long an entry without room is held (design 5)
# Turns of the loop before the next read: what was handed out is then on its way to Redis.
TURNS_FIRST: Final = 4
NOT_ALONE: Final = "no worker could be kept free for it"
NO_ROOM: Final = "no worker had room"
PAUSED: Final = "its queue is paused"

_Known: TypeAlias = tuple[TaskRecord | None, dict[str, bytes]] | None


class Feeder:
    """The one reader of all lanes.

    Args:
        fresh: Tasks that were queued here a moment ago.
        dispatcher_id: Owner of the leases.
        limit_ms_of: Limit of one attempt of a record.
        seen: Told of the data of each task that is read here.
    """

    def __init__(
        self,
        *,
        store: Store,
        sessions: Sessions,
        committer: Committer,
        fresh: Fresh,
        dispatcher_id: str,
        limit_ms_of: Callable[[TaskRecord], int],
        seen: Callable[[str, dict[str, bytes]], None],
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._committer = committer
        self._fresh = fresh
        self._seen = seen
        self._look = sessions.bell()  # there may be room for what is ready; the first to hear of it
        self._changed = sessions.bell()  # the reader looks again
        self._waiting_on: frozenset[str] | None = None
        self._waiting_for = 0  # entries of each of these lanes
        self._looked_at: frozenset[str] = frozenset()  # lanes that were read before that
        self._waking: asyncio.Task[None] | None = None
        self._last = ""  # the lane that entries came from last
        self._stopped = False
        self.paused: frozenset[str] = frozenset()  # lanes that nothing is handed out from
        self.in_hand: set[Entry] = set()  # read, and not yet leased
        self._ready = Ready()  # of those what waits for room
        self._leasing = Leasing(
            store=store,
            sessions=sessions,
            committer=committer,
            dispatcher_id=dispatcher_id,
            limit_ms_of=limit_ms_of,
            gone=self._drop,
        )
        self._alone = Alone(
            sessions=sessions,
            lease=lambda load, session: self._leasing.lease([(load, session)]),
            put_back=lambda load: self._leasing.put_back([load], NO_ROOM),
            put_off=lambda load: self._leasing.put_back([load], NOT_ALONE, needless=True),
            closed=lambda queue: self._stopped or queue in self.paused,
        )

    async def run(self) -> None:
        """Feed until cancelled."""
        self.in_hand.clear()
        self._ready.clear()
        self._alone.waiting.clear()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._hand_out_for_ever(group))
                await self._read_for_ever(group)
        finally:
            self._leasing.give_up()  # what was reserved, and whose commit never began

    def stop(self) -> None:
        """Hand out nothing more, and put back what is in hand."""
        self._stopped = self._leasing.stopped = True
        self._sessions.stir()

    def pause(self, queues: frozenset[str]) -> None:
        """Hand out nothing from these lanes, and from all others again."""
        if queues != self.paused:
            self.paused = queues
            self._sessions.stir()

    # --- reading ---------------------------------------------------------------------------------

    async def _read_for_ever(self, group: asyncio.TaskGroup) -> None:
        while True:
            self._changed.clear()
            room = self._room()
            if not room:
                await self._changed.wait()
                continue
            entries = await self._read(room) or await self._wait(room.keys())
            if entries:
                self.in_hand.update(entries)
                await self._take_in(entries, group)
                for _ in range(TURNS_FIRST):
                    await asyncio.sleep(0)

    def _room(self) -> dict[str, int]:
        """Free credit by lane: what is ready has had its chance, and found none of it."""
        return self._by_lane(attrgetter("room"))

    def _free(self) -> dict[str, int]:
        """Free slots by lane."""
        return {queue: free for queue, free in self._by_lane(attrgetter("free")).items() if free}

    def _by_lane(self, part: Callable[[Offer], int]) -> dict[str, int]:
        if self._stopped:
            return {}
        found: dict[str, int] = {}
        for offer in self._sessions.offers():
            for queue in offer.queues - self.paused:
                found[queue] = found.get(queue, 0) + part(offer)
        return found

    async def _read(self, room: dict[str, int]) -> list[Entry]:
        """Take what the next lane with entries has, each lane in its turn."""
        for queue in sorted(room, key=lambda name: (name <= self._last, name)):
            entries = await self._store.read(queue, min(room[queue], READ_MAX))
            if entries:
                self._last = queue
                return entries
        return []

    async def _wait(self, queues: AbstractSet[str]) -> list[Entry]:
        if self._room().keys() != queues:
            return []  # a lane got credit while the others were read, or lost it
        free = self._free()
        if not free:
            await self._changed.wait()
            return []
        self._waiting_on, self._waiting_for = frozenset(free), _share(free)
        self._looked_at = frozenset(queues)
        try:
            return await self._store.wait(sorted(free), count=self._waiting_for, timeout_s=WAIT_S)
        finally:
            self._waiting_on = None

    def _should_wake(self) -> bool:
        """Whether a lane that the reader does not know of got credit, or it waits for too much."""
        if self._waiting_on is None:
            return False
        if self._stopped or not self.paused.isdisjoint(self._waiting_on):
            return True
        free = self._free()
        if not free.keys() <= self._waiting_on or _share(free) < self._waiting_for:
            return True
        return not self._room().keys() <= self._looked_at

    async def _take_in(self, entries: list[Entry], group: asyncio.TaskGroup) -> None:
        """Sort what was read: who runs alone, who is ready, and who comes too early."""
        loads = await self._load(entries)
        alone, surplus = self._alone.admit([load for load in loads if runs_alone(load.record)])
        for load in alone:
            group.create_task(self._alone.hand_out(load))
        if alone:
            await asyncio.sleep(0)  # they reserve their workers before others take the room
        if surplus:
            group.create_task(self._leasing.put_back(surplus, NOT_ALONE, needless=True))
        loop = asyncio.get_running_loop()
        until = loop.time() + SURPLUS_S
        self._ready.add([load for load in loads if not runs_alone(load.record)], until)
        self._hand_out(group)
        if self._ready:
            loop.call_at(until, self._look.set)

    async def _load(self, entries: list[Entry]) -> list[Load]:
        """Read what the entries name; delete those that are no task's current one.

        One whose task is unreadable is left to recovery, which leaves it as it is.
        """
        found: dict[Entry, _Known] = {entry: self._fresh.take(entry) for entry in entries}
        unknown = [entry for entry in entries if found[entry] is None]
        if unknown:
            unknown = await self._still_unknown(unknown, found)
        if unknown:
            read = await read_around(self._store.load, [entry.task_id for entry in unknown])
            found.update((entry, read.get(entry.task_id)) for entry in unknown)
        loads: list[Load] = []
        obsolete: list[Entry] = []
        for entry, known in found.items():
            if known is None:
                self._drop([entry])
                self._sessions.stir()  # whoever drains may wait for it
                continue
            record, data = known
            if record is not None and is_current(record, entry):
                self._seen(entry.task_id, data)
                loads.append(Load(entry=entry, record=record, data=data))
            else:
                obsolete.append(entry)
        await self._leasing.discard(obsolete)
        return loads

    async def _still_unknown(self, entries: list[Entry], found: dict[Entry, _Known]) -> list[Entry]:
        """Look again once commits are through: an entry may be read before what added it is."""
        await self._committer.added(entry.task_id for entry in entries)
        found.update((entry, self._fresh.take(entry)) for entry in entries)
        return [entry for entry in entries if found[entry] is None]

    # --- handing out -----------------------------------------------------------------------------

    async def _hand_out_for_ever(self, group: asyncio.TaskGroup) -> None:
        while True:
            await self._look.wait()
            self._look.clear()
            self._hand_out(group)
            if self._should_wake() and (self._waking is None or self._waking.done()):
                self._waking = group.create_task(self._store.wake())
                self._waking.add_done_callback(lambda _: self._look.set())

    def _hand_out(self, group: asyncio.TaskGroup) -> None:
        """Reserve slots for all that finds room, and have it leased."""
        for reason, loads in self._unwanted():
            group.create_task(self._leasing.put_back(loads, reason))
        if taken := self._matched():
            group.create_task(self._leasing.commit(self._leasing.reserve(taken)))

    def _unwanted(self) -> Iterator[tuple[str, list[Load]]]:
        """Take what is not to be handed out here, by why it is put back."""
        if paused := self._ready.take_lanes(self.paused):
            yield PAUSED, paused
        now = asyncio.get_running_loop().time()
        if late := self._ready.take_all() if self._stopped else self._ready.take_late(now):
            yield NO_ROOM, late

    def _matched(self) -> list[tuple[Load, Session]]:
        """Take what finds room from what is ready, with the worker that gets it."""
        if not self._ready:
            return []
        taken: list[tuple[Load, Session]] = []
        for load, session_id in self._ready.match(self._offers()):
            session = self._sessions.get(session_id)
            assert session is not None, "offers are of open sessions"
            taken.append((load, session))
        return taken

    def _offers(self) -> list[Offer]:
        """What the sessions offer to the lanes that are not paused."""
        offers = self._sessions.offers()
        if not self.paused:
            return offers
        return [
            msgspec.structs.replace(offer, queues=offer.queues - self.paused) for offer in offers
        ]

    def _drop(self, entries: Sequence[Entry]) -> None:
        self.in_hand.difference_update(entries)
        self._alone.waiting.difference_update(entries)


def _share(free: Mapping[str, int]) -> int:
    """How many entries each lane may give at once, so that all of them find room; 0: none.

    One at least, where lanes share less.
    """
    return max(1, min(READ_MAX, *free.values()) // len(free)) if free else 0


def is_current(record: TaskRecord, entry: Entry) -> bool:
    """Whether an entry is the one that its task's record waits for."""
    return record.stage is Stage.QUEUED and record.entry == entry.entry_id
