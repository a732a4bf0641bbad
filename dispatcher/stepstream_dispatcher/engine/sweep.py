"""One sweep over all tasks: finds what the records say and the indexes do not, and mends it.

Theory of operation. The sweep walks the records themselves, never one index alone, in pages, and
rests after each page for many times what it took, so that it has a bounded share of the server. It
listens to every event meanwhile, so that it can count tasks that move (see `core/census.py`). What
is mended is checked again at the instant of the write: transitions by the record's version, sorted
sets by reading the version in the same script. What the scripts count by results (`entries`,
`timers`, `listed`) is corrected by the difference that was there at the beginning: what differs
beyond that at the end was destroyed during the sweep, still shows, and has the next one.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Final

import msgspec

from stepstream.errors import StoreUnavailable
from stepstream_dispatcher.core.census import Census
from stepstream_dispatcher.core.facts import Requeued
from stepstream_dispatcher.core.reconcile import (
    BY_RESULTS,
    DELAYED,
    ENDED,
    ENTRIES,
    INDEX,
    Mend,
    Need,
    Repair,
    Sight,
    corrections,
    crowded,
    differences,
    mends_of,
    need_of,
    shifts,
    stray_of,
)
from stepstream_dispatcher.core.record import Stage
from stepstream_dispatcher.engine.committer import Committer, Proposal
from stepstream_dispatcher.engine.messages import CENSUS_WORD
from stepstream_dispatcher.engine.orphans import Orphans
from stepstream_dispatcher.engine.readable import readable_records
from stepstream_dispatcher.store.port import Page, RepairableStore, SurveyMode

__all__ = ["CLAIM_S", "Report", "Sweep"]

PAGE: Final = 500  # tasks; their survey takes Redis about 3 ms
ENTRY_COST_S: Final = 1e-6  # of an entry that XRANGE answers, rounded up
MEMBERS: Final = 1000  # of a sorted set, about as long
UNREADABLE_MAX: Final = 1000  # ids of unreadable records that a report names
LOOKS_MAX: Final = 5  # at a task that moves under every repair
CLAIM_S: Final = 15.0  # a sweeper that is silent for this long is gone
CLAIM_EVERY_S: Final = 3.0
REST_MAX_S: Final = 1.0  # after one page, however slow it was
HEAR_S: Final = 5.0  # until a subscription stands, or a marker is heard


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a sweep has done."""

    repaired: dict[str, int]  # by the word of Repair; without zeros
    tasks: int  # records that it looked at
    took_s: float
    counted: bool  # whether the counts are right now; else they have to be counted again
    finished: bool = True  # whether it has looked at everything
    unreadable: tuple[str, ...] = ()  # tasks whose records say nothing; at most UNREADABLE_MAX


class _ClaimLostError(Exception):
    """Another dispatcher sweeps by now."""


class Sweep:
    """One pass over everything.

    Args:
        store: Redis.
        committer: Queues again what has lost its entry.
        orphans: Is told of leases that no pending entry leads to.
        queues: All lanes.
        share: Of the server's time that reading may take, 0 to 1. Repairs are commits like others.
        events_max: Events that it hears at most; beyond that it mends, and does not count.
    """

    def __init__(
        self,
        *,
        store: RepairableStore,
        committer: Committer,
        orphans: Orphans,
        queues: Sequence[str],
        share: float,
        events_max: float = math.inf,
    ) -> None:
        self._store = store
        self._committer = committer
        self._orphans = orphans
        self._queues = queues
        self._share = share
        self._census = Census(events_max=events_max)
        self._found: Counter[str] = Counter()
        self._tasks = 0
        self._unreadable: list[str] = []
        self._holders: set[str] = set()  # dispatchers that have entries pending
        self._offers: set[tuple[str, str]] = set()  # queue and entry, at the beginning
        self._states: frozenset[str] = frozenset()  # those that have a sorted set
        self._claimed_at = 0.0
        self._holding = False  # trims are held back
        self._ready = asyncio.Event()  # every event is heard from now on
        self._marked = asyncio.Event()  # all events up to the marker were heard
        self._unfinished = False  # something moved too fast to be mended
        self._deaf = False  # some may have been missed
        self._marker = f"{CENSUS_WORD} {secrets.token_hex(8)}".encode()

    async def run(self) -> Report:
        """Sweep; the caller has claimed it.

        Raises:
            StoreUnavailable: Redis does not answer; what was mended so far stays so.
        """
        clock = asyncio.get_running_loop().time
        began = clock()
        counted = finished = False
        try:
            async with asyncio.TaskGroup() as group:
                listening = group.create_task(self._listen())
                counted = await self._pass()
                finished = True
                listening.cancel()
        except* _ClaimLostError:
            pass
        except* StoreUnavailable as errors:
            raise StoreUnavailable(f"the sweep broke off: {errors.exceptions[0]}") from errors
        repaired = {word: n for word, n in self._found.items() if n}
        return Report(
            repaired=repaired,
            tasks=self._tasks,
            took_s=clock() - began,
            counted=counted,
            finished=finished,
            unreadable=tuple(self._unreadable),
        )

    async def _pass(self) -> bool:
        await self._wait_for(self._ready)
        before = await self._store.tally(self._queues)
        self._states = frozenset(before.sizes) - {INDEX, DELAYED, ENDED}
        if before.groupless:
            await self._store.ensure_lanes(sorted(before.groupless))
            self._found[Repair.LANES] += len(before.groupless)
        if ENTRIES in differences(before):
            await self._walk_records("whole")
        else:
            await self._walk_offers()
            await self._walk_records("quick")
        await self._store.enlist(sorted(self._holders))
        await self._walk_set(DELAYED)
        await self._walk_lanes()
        await self._walk_ended()
        self._found.update(await self._orphans.look())
        await self._keep_claim()
        marked = await self._store.tally(self._queues, marker=self._marker)
        await self._wait_for(self._marked)
        if self._deaf or self._census.gave_up:
            return False
        truth = self._census.counts(ended=marked.sizes[ENDED])
        for place in crowded(truth, marked):
            await self._walk_set(place)
        wrong = corrections(truth, marked) | shifts(before)
        self._found[Repair.COUNTS] += sum(
            bool(by) for name, by in wrong.items() if name not in BY_RESULTS
        )
        return await self._store.recount(wrong) and not self._unfinished

    async def _wait_for(self, heard: asyncio.Event) -> None:
        """Wait until it is heard; else the sweep mends, and does not count."""
        try:
            async with asyncio.timeout(HEAR_S):
                await heard.wait()
        except TimeoutError:
            self._deaf = True

    async def _listen(self) -> None:
        """Hear every event up to the marker, and none beyond: those are not in what it marks."""
        async with aclosing(self._store.all_signals()) as signals:
            async for signal in signals:
                if signal.event is not None:
                    self._census.heard(signal.task_id, signal.event)
                    if self._census.gave_up:
                        self._marked.set()  # nobody has to wait for the marker
                        return
                elif signal.kind == "resync":
                    if self._ready.is_set():
                        self._deaf = True
                        self._marked.set()  # the marker may be among what was missed
                    self._ready.set()
                elif signal.payload == self._marker:
                    self._marked.set()
                    return

    # --- walking ---------------------------------------------------------------------------------

    async def _walk_offers(self) -> None:
        """Read the entries of all lanes: cheaper than to look for each alone.

        What was there now and is gone when its record is met was destroyed in between, and shows.
        """
        for queue in self._queues:
            after, more = "", True
            while more:
                entries = await self._store.lane_page(queue, after, count=PAGE, delivered=False)
                self._offers.update((queue, entry.entry_id) for entry in entries)
                await self._rest(len(entries) * ENTRY_COST_S)
                more = len(entries) == PAGE
                after = entries[-1].entry_id if entries else ""

    async def _walk_records(self, how: SurveyMode) -> None:
        """Look at all records; whole where entries are gone, of which most will be missed."""
        clock = asyncio.get_running_loop().time
        cursor, more = "", True
        while more:
            page = await self._store.record_page(cursor, count=PAGE)
            survey = await self._store.survey(page.names, self._queues, how=how)
            read_at = clock()
            looked_s = await self._judge(survey.sights, how)
            cost_s = page.cost_s + survey.cost_s + looked_s
            await self._rest(cost_s, rested_s=clock() - read_at)
            cursor, more = page.cursor, bool(page.cursor)

    async def _judge(self, sights: Sequence[Sight], how: SurveyMode) -> float:
        """Mend what a page of records needs; returns what a closer look has cost."""
        needs: dict[Need, list[Sight]] = {need: [] for need in Need}
        mends: list[Mend] = []
        for sight in sights:
            if not sight.readable and len(self._unreadable) < UNREADABLE_MAX:
                self._unreadable.append(sight.task_id)
            if sight.record is None:
                continue
            self._tasks += 1
            if sight.holder:
                self._holders.add(sight.holder)
            self._census.saw(sight.task_id, sight.record)
            needs[need_of(sight)].append(sight)
            mends += mends_of(sight, self._states)
        self._orphans.note(needs[Need.HOLDER])
        missing, cost_s = needs[Need.ENTRY], 0.0
        if how == "quick":
            unmet = [one.task_id for one in missing if not self._is_offered(one)]
            survey = await self._store.survey(unmet, self._queues)
            missing, cost_s = list(survey.sights), survey.cost_s
        await self._queue_again([one for one in missing if need_of(one) is Need.ENTRY])
        await self._mend(mends)
        return cost_s

    def _is_offered(self, sight: Sight) -> bool:
        """Whether a lane had the entry of a quick look, and somebody will come upon it."""
        record = sight.record
        there = record is not None and (record.queue, record.entry) in self._offers
        return there and need_of(msgspec.structs.replace(sight, has_entry=True)) is Need.NOTHING

    async def _queue_again(self, sights: Sequence[Sight]) -> None:
        """Give queued tasks another entry; whoever has the old one in hand finds it obsolete."""
        if not sights:
            return
        records = await readable_records(self._store, [sight.task_id for sight in sights])
        proposals = [
            Proposal(
                task_id=sight.task_id,
                record=record,
                fact=Requeued(entry=record.entry, reason="its entry was gone"),
            )
            for sight, record in zip(sights, records, strict=True)
            if record is not None and record.stage is Stage.QUEUED
            if sight.record is not None and sight.record.entry == record.entry
        ]
        outcomes = await self._committer.apply(proposals) if proposals else []
        self._found[Repair.ENTRIES] += sum(outcome.applied for outcome in outcomes)

    async def _walk_set(self, place: str) -> None:
        """Take out what has nothing to do in a sorted set."""
        async for page in self._members(place):
            survey = await self._store.survey(page.names, self._queues, how="thorough")
            found = (stray_of(sight, place) for sight in survey.sights)
            await self._mend([stray for stray in found if stray is not None], place)
            await self._rest(survey.cost_s)

    async def _walk_lanes(self) -> None:
        """Delete delivered entries that are no task's current one."""
        for queue in self._queues:
            after, more = "", True
            while more:
                entries = await self._store.lane_page(queue, after, count=PAGE)
                survey = await self._store.survey([one.task_id for one in entries], self._queues)
                stale = [
                    entry.entry_id
                    for entry, sight in zip(entries, survey.sights, strict=True)
                    if sight.readable
                    if sight.record is None or sight.record.entry != entry.entry_id
                ]
                if stale:  # unless it was settled since it was listed
                    still = await self._store.lane_page(queue, after, count=PAGE)
                    stale = [one.entry_id for one in still if one.entry_id in set(stale)]
                    await self._store.discard(queue, stale)
                    self._found[Repair.STRAYS] += len(stale)
                await self._rest(survey.cost_s)
                more = len(entries) == PAGE
                after = entries[-1].entry_id if entries else ""

    async def _walk_ended(self) -> None:
        """Count the ends; nothing is trimmed until all are counted."""
        self._holding = True
        await self._claim()
        async for page in self._members(ENDED):
            if self._census.gave_up:
                return
            for member in page.names:
                state, _, task_id = member.partition(" ")
                self._census.saw_end(state, task_id)

    async def _members(self, place: str) -> AsyncIterator[Page]:
        cursor, more = "", True
        while more:
            page = await self._store.member_page(place, cursor, count=MEMBERS)
            yield page
            await self._rest(page.cost_s)
            cursor, more = page.cursor, bool(page.cursor)

    async def _mend(self, mends: Sequence[Mend], place: str = "") -> None:
        """Change sorted sets; what has moved since it was looked at is looked at again.

        Args:
            place: Whose strays are taken out; empty: what sets lack is put in.
        """
        for _ in range(LOOKS_MAX):
            moved: dict[str, None] = {}
            by_kind: dict[Repair, list[Mend]] = {}
            for mend in mends:
                by_kind.setdefault(mend.repair, []).append(mend)
            for kind, some in by_kind.items():
                changed, left = await self._store.mend(some)
                self._found[kind] += changed
                moved |= dict.fromkeys(mend.task_id for mend in left)
            if not moved:
                return
            mends = await self._mends_of(list(moved), place)
        self._unfinished = True

    async def _mends_of(self, task_ids: Sequence[str], place: str) -> list[Mend]:
        survey = await self._store.survey(
            task_ids, self._queues, how="thorough" if place else "whole"
        )
        if place:
            strays = (stray_of(sight, place) for sight in survey.sights)
            return [stray for stray in strays if stray is not None]
        return [mend for sight in survey.sights for mend in mends_of(sight, self._states)]

    # --- pace ------------------------------------------------------------------------------------

    async def _rest(self, cost_s: float, *, rested_s: float = 0.0) -> None:
        """Leave the server to others for as long as the share demands.

        Args:
            cost_s: What reading took of the server.
            rested_s: How long nothing has been read since.
        """
        rest_s = min(REST_MAX_S, cost_s * (1 / self._share - 1)) - rested_s
        await asyncio.sleep(max(0.0, rest_s))
        await self._keep_claim()

    async def _keep_claim(self) -> None:
        if asyncio.get_running_loop().time() - self._claimed_at >= CLAIM_EVERY_S:
            await self._claim()

    async def _claim(self) -> None:
        """Stay the one that sweeps, and keep trims back."""
        now = asyncio.get_running_loop().time()
        late = self._claimed_at and now - self._claimed_at >= CLAIM_S
        if late or not await self._store.claim_sweep(ttl_s=CLAIM_S):
            raise _ClaimLostError
        if self._holding:
            await self._store.hold_trims(ttl_s=CLAIM_S)
        self._claimed_at = now
