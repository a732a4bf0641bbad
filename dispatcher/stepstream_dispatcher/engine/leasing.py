"""Leases what was matched: reserves its slots, commits, and hands out; or puts it back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from stepstream.session import AHEAD_WAIT_S
from stepstream_dispatcher.core.facts import Leased, Released, Requeued
from stepstream_dispatcher.core.lifecycle import Refusal
from stepstream_dispatcher.core.record import TaskRecord, assignment_id
from stepstream_dispatcher.engine.committer import Committer, Outcome, Proposal
from stepstream_dispatcher.engine.fresh import is_small
from stepstream_dispatcher.engine.identity import new_tokens
from stepstream_dispatcher.engine.sessions import Attempt, Handout, Session, Sessions
from stepstream_dispatcher.store.port import Entry, Store

__all__ = ["BROKEN_PAUSE_S", "Leasing", "Load"]

# How long a slot stays taken whose lease the store could not carry out: where that is so of every
# task, the lanes would be read to their ends.
BROKEN_PAUSE_S: Final = 1.0


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """An entry with what it names."""

    entry: Entry
    record: TaskRecord
    data: dict[str, bytes]


class Round(msgspec.Struct, frozen=True, eq=False):
    """Entries that are matched with workers, and have their slots."""

    taken: Sequence[tuple[Load, Session]]
    attempts: dict[str, Attempt]  # by lease token, in the same order


class Leasing:
    """Takes entries out of the feeder's hand, one way or another.

    Args:
        dispatcher_id: Owner of the leases.
        limit_ms_of: Limit of one attempt of a record.
        gone: Told of entries that are not in hand any more.
    """

    def __init__(
        self,
        *,
        store: Store,
        sessions: Sessions,
        committer: Committer,
        dispatcher_id: str,
        limit_ms_of: Callable[[TaskRecord], int],
        gone: Callable[[Sequence[Entry]], None],
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._committer = committer
        self._dispatcher_id = dispatcher_id
        self._limit_ms_of = limit_ms_of
        self._gone = gone
        self._rounds: set[Round] = set()  # reserved, and not through
        self.stopped = False  # the dispatcher leaves: what is leased is given back

    def give_up(self) -> None:
        """Free the slots of all rounds: nobody carries them out any more."""
        for one in list(self._rounds):
            self._free_slots(one)
            self._close(one)

    async def discard(self, entries: Sequence[Entry]) -> None:
        """Delete entries that are no task's current ones."""
        by_queue: dict[str, list[str]] = {}
        for entry in entries:
            by_queue.setdefault(entry.queue, []).append(entry.entry_id)
        for queue, entry_ids in by_queue.items():
            await self._store.discard(queue, entry_ids)
        self._gone(entries)
        if entries:
            self._sessions.stir()  # the reader may have waited for this credit

    async def put_back(self, loads: Sequence[Load], reason: str, *, needless: bool = False) -> None:
        """Put entries back, uncharged."""
        proposals = [
            Proposal(
                task_id=load.entry.task_id,
                record=load.record,
                fact=Requeued(entry=load.entry.entry_id, reason=reason, needless=needless),
            )
            for load in loads
        ]
        await self._committer.apply(proposals)
        self._gone([load.entry for load in loads])
        self._sessions.stir()  # the reader may have waited for this credit

    async def lease(self, taken: Sequence[tuple[Load, Session]]) -> None:
        """Lease entries for workers and hand them out.

        Raises:
            StoreUnavailable: Which of them are leased is unknown; recovery finds them.
        """
        await self.commit(self.reserve(taken))

    def reserve(self, taken: Sequence[tuple[Load, Session]]) -> Round:
        """Enter the attempts into their sessions' tables, so that their slots are taken."""
        attempts: dict[str, Attempt] = {}
        now = asyncio.get_running_loop().time()
        for (load, session), token in zip(taken, new_tokens(len(taken)), strict=True):
            session.busy_at = now
            session.leasing += 1
            attempt = Attempt(
                assignment_id="",
                task_id=load.entry.task_id,
                record=load.record,
                timeout_at=float("inf"),
                batch=0,
                data=load.data if is_small(load.data) else None,
            )
            attempts[token] = session.attempts[token] = attempt
            attempt.waits = session.waits
        self._gone([load.entry for load, _ in taken])
        made = Round(taken, attempts)
        self._rounds.add(made)
        return made

    async def commit(self, reserved: Round) -> None:
        """Lease what was reserved, and hand it out; see `lease`."""
        try:
            await self._commit(reserved)
        finally:
            self._close(reserved)

    def _close(self, through: Round) -> None:
        self._rounds.discard(through)
        for _, session in through.taken:
            session.leasing -= 1
            session.outbox.notify()

    def _free_slots(self, failed: Round) -> None:
        for (_, session), token in zip(failed.taken, failed.attempts, strict=True):
            session.attempts.pop(token, None)

    async def _commit(self, reserved: Round) -> None:
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
            for (load, session), token in zip(reserved.taken, reserved.attempts, strict=True)
        ]
        outcomes: list[Outcome] = []
        try:
            outcomes = await self._committer.apply(proposals)
        finally:
            if not outcomes:  # unknown: recovery finds what was leased after all
                self._free_slots(reserved)
        await self._send(reserved, outcomes)

    async def _send(self, leased: Round, outcomes: Sequence[Outcome]) -> None:
        """Put leased attempts into the outboxes, and take back what was not leased.

        All tables and outboxes are right before anything is awaited, so that no slot is lost.
        """
        now = asyncio.get_running_loop().time()
        orphaned: list[Proposal] = []
        obsolete: list[Entry] = []
        slots_moved = False
        triples = zip(leased.taken, leased.attempts.items(), outcomes, strict=True)
        for (load, session), (token, attempt), outcome in triples:
            if outcome.refusal is Refusal.BROKEN:
                self._free_later(session, token)
                continue
            record = outcome.record if outcome.applied else None
            if record is None:
                session.attempts.pop(token, None)
                slots_moved = True
                if not outcome.undecided:  # its entry is no task's current one; else: recovery's
                    obsolete.append(load.entry)
                continue
            attempt.record = record
            if reason := self._too_late_for(session):
                session.attempts.pop(token, None)
                slots_moved = True
                orphaned.append(_give_back(attempt, token, reason))
                continue
            self._post(session, attempt, load, now)
        if slots_moved:
            self._sessions.stir()
        if orphaned:
            await self._committer.apply(orphaned)
        await self.discard(obsolete)

    def _free_later(self, session: Session, token: str) -> None:
        def free() -> None:
            session.attempts.pop(token, None)
            self._sessions.stir()

        asyncio.get_running_loop().call_later(BROKEN_PAUSE_S, free)

    def _too_late_for(self, session: Session) -> str:
        """Why what was leased for a worker is not sent to it; empty when it is."""
        if self.stopped:  # it has been told to go elsewhere: nothing may follow that word
            return "the dispatcher left before the hand-out"
        gone = session.left or self._sessions.get(session.id) is None
        return "the worker left before the hand-out" if gone else ""

    def _post(self, session: Session, attempt: Attempt, load: Load, now: float) -> None:
        record = attempt.record
        timeout_ms = self._limit_ms_of(record)
        attempt.assignment_id = assignment_id(attempt.task_id, record)
        attempt.leased_at = now + _wait_s(attempt, timeout_ms)
        attempt.timeout_at = attempt.leased_at + timeout_ms / 1000
        handout = Handout(attempt=attempt, timeout_ms=timeout_ms, data=load.data)
        session.outbox.hand_out(handout)
        if session.outbox.clogged:
            self._sessions.stir()  # the reader may wait for what was its room


def _wait_s(attempt: Attempt, timeout_ms: int) -> float:
    """How long an attempt may wait for a slot before its limit counts: not beyond the deadline."""
    if not attempt.waits:
        return 0.0
    record = attempt.record
    if not record.deadline_ms:
        return AHEAD_WAIT_S
    return min(AHEAD_WAIT_S, (record.deadline_ms - record.leased_ms - timeout_ms) / 1000)


def _give_back(attempt: Attempt, token: str, reason: str) -> Proposal:
    fact = Released(token=token, reason=reason, owner=attempt.record.owner)
    return Proposal(task_id=attempt.task_id, record=attempt.record, fact=fact)
