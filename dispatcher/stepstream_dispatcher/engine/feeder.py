"""Feeds workers: reads as many entries as there is credit for, matches, leases, hands out.

Theory of operation. One reader per dispatcher takes entries of one lane at a time, never more than
the free credit of the sessions that the lane may feed; when all lanes are empty it blocks over
those with credit, and is woken when a new one gets some. What was read is *in hand* until it is
leased, and counts against the credit. An entry that is not its record's current one is deleted
unseen. An entry that finds no room after all is held for a second and then put back uncharged. A
step that has taken down two workers gets one for itself (`alone`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from stepstream_dispatcher.core.assign import Offer, Want, assign
from stepstream_dispatcher.core.facts import Leased, Released, Requeued
from stepstream_dispatcher.core.lifecycle import Refusal, runs_alone
from stepstream_dispatcher.core.record import Stage, TaskRecord, assignment_id
from stepstream_dispatcher.engine.alone import Alone, Load
from stepstream_dispatcher.engine.committer import Committer, Outcome, Proposal
from stepstream_dispatcher.engine.fresh import Fresh
from stepstream_dispatcher.engine.identity import new_tokens
from stepstream_dispatcher.engine.readable import read_around
from stepstream_dispatcher.engine.sessions import Attempt, Handout, Session, Sessions
from stepstream_dispatcher.store.port import Entry, Store, Verdict

__all__ = ["Feeder"]

READ_MAX: Final = 256  # entries of one read: a lease commit carries no more
ROUNDS_MAX: Final = 4  # rounds of load, match and lease that may overlap
WAIT_S: Final = 2.0  # longest block of one read; below the store's socket timeout
SURPLUS_S: Final = 1.0  # how long an entry without room is held (design 5)
NOT_ALONE: Final = "no worker could be kept free for it"


class Feeder:
    """The one reader of all lanes.

    Args:
        fresh: Tasks that were created here a moment ago.
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
        self._dispatcher_id = dispatcher_id
        self._limit_ms_of = limit_ms_of
        self._seen = seen
        self._waiting_on: frozenset[str] | None = None
        self._turn = 0
        self._stopped = False
        self.paused: frozenset[str] = frozenset()  # lanes that nothing is handed out from
        self.in_hand: set[Entry] = set()  # read, and not yet leased
        self._alone = Alone(
            sessions=sessions,
            lease=lambda load, session: self._lease([(load, session)]),
            put_back=lambda load: self._put_back([load]),
            put_off=lambda load: self._put_back([load], NOT_ALONE, needless=True),
            closed=lambda queue: self._stopped or queue in self.paused,
        )

    async def run(self) -> None:
        """Feed until cancelled."""
        self.in_hand.clear()
        self._alone.waiting.clear()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._wake_reader())
            await self._read_for_ever(group)

    def stop(self) -> None:
        """Hand out nothing more, and put back what is in hand."""
        self._stopped = True
        self._sessions.stir()

    def pause(self, queues: frozenset[str]) -> None:
        """Hand out nothing from these lanes, and from all others again."""
        if queues != self.paused:
            self.paused = queues
            self._sessions.stir()

    async def _read_for_ever(self, group: asyncio.TaskGroup) -> None:
        rounds = asyncio.Semaphore(ROUNDS_MAX)
        while True:
            self._sessions.changed.clear()
            credit = self._credit()
            if not credit:
                await self._sessions.changed.wait()
                continue
            entries = await self._read(credit) or await self._wait(frozenset(credit))
            if entries:
                self.in_hand.update(entries)
                await rounds.acquire()
                group.create_task(self._round(entries, rounds, group))

    def _credit(self) -> dict[str, int]:
        """Free slots by lane, less what is in hand for them."""
        if self._stopped:
            return {}
        credit: dict[str, int] = {}
        for offer in self._sessions.offers():
            for queue in offer.queues:
                credit[queue] = credit.get(queue, 0) + offer.free
        in_hand = len(self.in_hand) - len(self._alone.waiting)
        return {
            queue: free - in_hand
            for queue, free in credit.items()
            if free > in_hand and queue not in self.paused
        }

    async def _read(self, credit: dict[str, int]) -> list[Entry]:
        """Take what the next lane with entries has, each lane first in its turn."""
        queues = sorted(credit)
        self._turn += 1
        for offset in range(len(queues)):
            queue = queues[(self._turn + offset) % len(queues)]
            entries = await self._store.read(queue, min(credit[queue], READ_MAX))
            if entries:
                return entries
        return []

    async def _wait(self, queues: frozenset[str]) -> list[Entry]:
        if not self._credit().keys() <= queues:
            return []  # a lane got credit while the others were read
        self._waiting_on = queues
        try:
            return await self._store.wait(sorted(queues), timeout_s=WAIT_S)
        finally:
            self._waiting_on = None

    async def _wake_reader(self) -> None:
        """End the block when a lane gets credit that it does not wait on, and at the stop."""
        while True:
            await self._sessions.moved.wait()
            self._sessions.moved.clear()
            if self._waiting_on is None:
                continue
            unwanted = self._stopped or not self.paused.isdisjoint(self._waiting_on)
            if unwanted or not self._credit().keys() <= self._waiting_on:
                await self._store.wake()

    # --- one round -------------------------------------------------------------------------------

    async def _round(
        self, entries: list[Entry], rounds: asyncio.Semaphore, group: asyncio.TaskGroup
    ) -> None:
        try:
            loads = await self._load(entries)
            alone, surplus = self._alone.admit([load for load in loads if runs_alone(load.record)])
            for load in alone:
                group.create_task(self._alone.hand_out(load))
            if alone:
                self._sessions.stir()  # they take no credit from the others
            left = await self._hand_out([load for load in loads if not runs_alone(load.record)])
            if surplus:
                await self._put_back(surplus, NOT_ALONE, needless=True)
        finally:
            rounds.release()
        if left:
            await self._hold(left)

    async def _load(self, entries: list[Entry]) -> list[Load]:
        """Read what the entries name; delete those that are no task's current one.

        One whose task is unreadable is left to recovery, which leaves it as it is.
        """
        found: dict[Entry, tuple[TaskRecord | None, dict[str, bytes]] | None] = {
            entry: self._fresh.take(entry) for entry in entries
        }
        unknown = [entry for entry in entries if found[entry] is None]
        if unknown:
            read = await read_around(self._store.load, [entry.task_id for entry in unknown])
            found.update((entry, read.get(entry.task_id)) for entry in unknown)
        loads: list[Load] = []
        obsolete: list[Entry] = []
        for entry, known in found.items():
            if known is None:
                self._drop([entry])
                self._sessions.stir()  # the reader may have waited for this credit
                continue
            record, data = known
            if record is not None and is_current(record, entry):
                self._seen(entry.task_id, data)
                loads.append(Load(entry=entry, record=record, data=data))
            else:
                obsolete.append(entry)
        await self._discard(obsolete)
        return loads

    async def _discard(self, entries: Sequence[Entry]) -> None:
        by_queue: dict[str, list[str]] = {}
        for entry in entries:
            by_queue.setdefault(entry.queue, []).append(entry.entry_id)
        for queue, entry_ids in by_queue.items():
            await self._store.discard(queue, entry_ids)
        self._drop(entries)
        if entries:
            self._sessions.stir()  # the reader may have waited for this credit

    async def _hand_out(self, loads: list[Load]) -> list[Load]:
        """Lease what finds room; returns the rest."""
        if self._stopped:
            return loads
        wants = [Want(queue=load.entry.queue) for load in loads]
        matches = assign(wants, self._offers())
        taken: list[tuple[Load, Session]] = []
        left: list[Load] = []
        for load, session_id in zip(loads, matches, strict=True):
            session = self._sessions.get(session_id) if session_id else None
            if session is None:
                left.append(load)
            else:
                taken.append((load, session))
        if taken:
            await self._lease(taken)
        return left

    def _offers(self) -> list[Offer]:
        """What the sessions offer to the lanes that are not paused."""
        offers = self._sessions.offers()
        if not self.paused:
            return offers
        return [
            msgspec.structs.replace(offer, queues=offer.queues - self.paused) for offer in offers
        ]

    async def _lease(self, taken: Sequence[tuple[Load, Session]]) -> None:
        sessions = {session.id: session for _, session in taken}.values()
        for session in sessions:
            session.leasing += 1
        try:
            await self._lease_reserved(taken)
        finally:
            for session in sessions:
                session.leasing -= 1
                session.outbox.notify()

    async def _lease_reserved(self, taken: Sequence[tuple[Load, Session]]) -> None:
        attempts = self._reserve(taken)
        self._drop([load.entry for load, _ in taken])
        proposals = [
            Proposal(
                task_id=load.entry.task_id,
                record=load.record,
                fact=Leased(
                    entry=load.entry.entry_id,
                    token=token,
                    owner=self._dispatcher_id,
                    worker=session.hello.worker_name,
                ),
            )
            for (load, session), token in zip(taken, attempts, strict=True)
        ]
        outcomes: list[Outcome] = []
        try:
            outcomes = await self._committer.apply(proposals)
        finally:
            if not outcomes:  # unknown: recovery finds what was leased after all
                for (_, session), token in zip(taken, attempts, strict=True):
                    session.attempts.pop(token, None)
        await self._send(taken, attempts, outcomes)

    def _reserve(self, taken: Sequence[tuple[Load, Session]]) -> dict[str, Attempt]:
        """Enter the attempts into their sessions' tables, before anything is awaited."""
        attempts: dict[str, Attempt] = {}
        now = asyncio.get_running_loop().time()
        for (load, session), token in zip(taken, new_tokens(len(taken)), strict=True):
            session.busy_at = now
            attempt = Attempt(
                assignment_id="",
                task_id=load.entry.task_id,
                record=load.record,
                timeout_at=float("inf"),
                batch=0,
            )
            attempts[token] = session.attempts[token] = attempt
        return attempts

    async def _send(
        self,
        taken: Sequence[tuple[Load, Session]],
        attempts: dict[str, Attempt],
        outcomes: Sequence[Outcome],
    ) -> None:
        """Put leased attempts into the outboxes, and take back what was not leased.

        All tables and outboxes are right before anything is awaited, so that no slot is lost.
        """
        now = asyncio.get_running_loop().time()
        orphaned: list[Proposal] = []
        obsolete: list[Entry] = []
        for (load, session), token, outcome in zip(taken, attempts, outcomes, strict=True):
            attempt = attempts[token]
            if not outcome.applied or outcome.record is None:
                session.attempts.pop(token, None)
                if _is_obsolete(outcome):  # else: left to recovery
                    obsolete.append(load.entry)
                continue
            attempt.record = outcome.record
            if reason := self._too_late_for(session):
                session.attempts.pop(token, None)
                orphaned.append(_give_back(attempt, token, reason))
                continue
            self._post(session, attempt, load, now)
        self._sessions.stir()
        if orphaned:
            await self._committer.apply(orphaned)
        await self._discard(obsolete)

    def _too_late_for(self, session: Session) -> str:
        """Why what was leased for a worker is not sent to it; empty when it is."""
        if self._stopped:  # it has been told to go elsewhere: nothing may follow that word
            return "the dispatcher left before the hand-out"
        gone = session.left or self._sessions.get(session.id) is None
        return "the worker left before the hand-out" if gone else ""

    def _post(self, session: Session, attempt: Attempt, load: Load, now: float) -> None:
        record = attempt.record
        timeout_ms = self._limit_ms_of(record)
        attempt.assignment_id = assignment_id(attempt.task_id, record)
        attempt.timeout_at = now + timeout_ms / 1000
        attempt.leased_at = now
        handout = Handout(attempt=attempt, timeout_ms=timeout_ms, data=load.data)
        session.outbox.hand_out(handout)

    # --- entries without room --------------------------------------------------------------------

    async def _hold(self, loads: list[Load]) -> None:
        """Try again as credit moves, for a second; then put the rest back."""
        until = asyncio.get_running_loop().time() + SURPLUS_S
        loads = await self._put_back_paused(loads)
        while loads and not self._stopped:
            try:
                async with asyncio.timeout_at(until):
                    await self._sessions.stirred()
            except TimeoutError:
                break
            loads = await self._hand_out(await self._put_back_paused(loads))
        if loads:
            await self._put_back(loads)

    async def _put_back_paused(self, loads: list[Load]) -> list[Load]:
        """Put back what belongs to a paused lane; returns the rest."""
        queues = self.paused
        paused = [load for load in loads if load.entry.queue in queues]
        if paused:
            await self._put_back(paused, "its queue is paused")
        return [load for load in loads if load.entry.queue not in queues]

    async def _put_back(
        self, loads: list[Load], reason: str = "no worker had room", *, needless: bool = False
    ) -> None:
        proposals = [
            Proposal(
                task_id=load.entry.task_id,
                record=load.record,
                fact=Requeued(entry=load.entry.entry_id, reason=reason, needless=needless),
            )
            for load in loads
        ]
        await self._committer.apply(proposals)
        self._drop([load.entry for load in loads])
        self._sessions.stir()  # the reader may have waited for this credit

    def _drop(self, entries: Sequence[Entry]) -> None:
        self.in_hand.difference_update(entries)
        self._alone.waiting.difference_update(entries)


def is_current(record: TaskRecord, entry: Entry) -> bool:
    """Whether an entry is the one that its task's record waits for."""
    return record.stage is Stage.QUEUED and record.entry == entry.entry_id


def _is_obsolete(outcome: Outcome) -> bool:
    """Whether the entry of a lease that came to nothing is no task's current one."""
    contended = outcome.verdict is Verdict.VERSION_CONFLICT
    return not (contended or outcome.refusal is Refusal.UNKNOWN_PIPELINE)


def _give_back(attempt: Attempt, token: str, reason: str) -> Proposal:
    fact = Released(token=token, reason=reason, owner=attempt.record.owner)
    return Proposal(task_id=attempt.task_id, record=attempt.record, fact=fact)
