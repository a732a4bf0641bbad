"""Takes what workers say about attempts to the record, and answers with receipts."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog

from stepstream.errors import StepstreamError, StoreBusy, StoreUnavailable
from stepstream_dispatcher.core.facts import Completed, Fact, Failed, Progressed, Released
from stepstream_dispatcher.core.lifecycle import Refusal
from stepstream_dispatcher.core.record import TaskRecord
from stepstream_dispatcher.engine.committer import Committer, Outcome, Proposal
from stepstream_dispatcher.engine.readable import RecordReader
from stepstream_dispatcher.engine.sessions import Attempt, ReceiptWord, Session, Sessions
from stepstream_dispatcher.store.port import Store, Verdict

__all__ = ["Held", "Settlement", "Settling"]

REPORT_BYTES_MAX: Final = 64 * 1024 * 1024  # of results that are being recorded, of all workers

_WORDS: Final = {Verdict.DUPLICATE: "DUPLICATE", Verdict.NOT_FOUND: "UNKNOWN"}

_log = structlog.get_logger(__name__)


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker says that an attempt ended."""

    assignment_id: str
    lease_token: str
    fact: Fact
    refused: str = ""  # why it can't be recorded as it is; the fact is then a failure


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that a heartbeat names."""

    lease_token: str
    progress: float | None
    note: str


class Settling:
    """Records settlements and progress.

    Args:
        reaches: Whether a task can be changed now; the result of one that cannot stays with its
            worker, and holds up no other.
    """

    def __init__(
        self,
        *,
        store: Store,
        sessions: Sessions,
        committer: Committer,
        reaches: Callable[[str], bool] = lambda _task_id: True,
    ) -> None:
        self._reaches = reaches
        self._store = store
        self._reader = RecordReader(store)
        self._sessions = sessions
        self._committer = committer
        # As long as the attempts out with workers: a report's slots are its own.
        self._received: asyncio.Queue[tuple[Session, Sequence[Settlement]]] = asyncio.Queue()
        # Taken from there for tasks that have not begun: cancelled before, a task does nothing.
        self._starting: deque[tuple[Session, Sequence[Settlement]]] = deque()
        self._bytes = 0  # of results that are being recorded
        self._has_room = asyncio.Event()
        self._has_room.set()

    async def run(self) -> None:
        """Record what is received, many reports side by side, until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._starting.append(await self._received.get())
                    group.create_task(self._record_next())
        finally:
            while self._starting:
                self._received.put_nowait(self._starting.popleft())

    async def room(self, session: Session, *, at_most_s: float) -> bool:
        """Wait until another report of a worker may be read; returns False if that was not in time.

        While too much is being recorded, a worker is read only if none of that is its own: one that
        sends faster than results are recorded waits, and every other one has its turn.
        """
        if self._has_room_for(session):
            return True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(at_most_s):
                while not self._has_room_for(session):
                    await self._has_room.wait()
                return True
        return False

    def _has_room_for(self, session: Session) -> bool:
        return not session.reports or self._has_room.is_set()

    def _hold(self, size: int) -> None:
        self._bytes += size
        if self._bytes < REPORT_BYTES_MAX:
            self._has_room.set()
        else:
            self._has_room.clear()

    def receive(self, session: Session, settlements: Sequence[Settlement]) -> None:
        """Take settled attempts off the table at once, so that their slots are free.

        Their receipts come to the session's outbox once they are recorded.
        """
        for settlement in settlements:
            token = settlement.lease_token
            attempt = session.attempts.pop(token, None) or session.parked.pop(token, None)
            if attempt is not None:
                session.settling[token] = attempt
            elif token in session.unseen:
                session.unseen[token] = True
        self._sessions.stir()  # first, so that the feeder's read is under way when the commit is
        near: list[Settlement] = []
        away: list[Settlement] = []
        for one in settlements:
            (near if self._reaches(_task_of(one)) else away).append(one)
        for reports in filter(None, (near, away)):
            session.reports += 1
            self._hold(sum(map(_size_of, reports)))
            self._received.put_nowait((session, reports))

    async def _record_next(self) -> None:
        """Record the report that waits longest, and answer it whatever comes."""
        session, settlements = self._starting.popleft()
        receipts: list[ReceiptWord] = []
        try:
            receipts = await self._record(session, settlements)
        except (StoreUnavailable, StoreBusy):
            _log.debug("results are not durable yet", results=len(settlements))
        except StepstreamError as error:
            _log.error("results could not be recorded", error=str(error))
        finally:
            session.reports -= 1
            self._hold(-sum(map(_size_of, settlements)))
            if not receipts:
                receipts = [self._keep(session, settlement) for settlement in settlements]
            for settlement, receipt in zip(settlements, receipts, strict=True):
                session.settling.pop(settlement.lease_token, None)
                if receipt.status != "RETRY_LATER":
                    session.unseen.pop(settlement.lease_token, None)
            session.busy_at = asyncio.get_running_loop().time()
            session.outbox.receipts.extend(receipts)
            if not session.leasing:  # else they ride with the batch that is about to go
                session.outbox.notify()
            self._sessions.stir()

    async def _record(
        self, session: Session, settlements: Sequence[Settlement]
    ) -> list[ReceiptWord]:
        found = [await self._record_of(session, settlement) for settlement in settlements]
        proposals = [
            Proposal(
                task_id=_task_of(settlement),
                record=record,
                fact=_fact_of(session, settlement),
                data=_data_of(session, settlement),
            )
            for settlement, record in zip(settlements, found, strict=True)
            if isinstance(record, TaskRecord)
        ]
        outcomes = iter(await self._committer.apply(proposals)) if proposals else iter(())
        return [
            await self._answer(session, settlement, next(outcomes))
            if isinstance(record, TaskRecord)
            else record
            for settlement, record in zip(settlements, found, strict=True)
        ]

    async def _record_of(
        self, session: Session, settlement: Settlement
    ) -> TaskRecord | ReceiptWord:
        """The record: from the table where the attempt was on it, else from the store.

        Returns the receipt where there is none, or none that can be read.
        """
        attempt = session.settling.get(settlement.lease_token)
        if attempt is not None:
            return attempt.record
        task_id = _task_of(settlement)
        records = await self._reader.records([task_id])
        if task_id not in records:
            session.unseen[settlement.lease_token] = True  # so that it is held until it can be told
            return self._keep(session, settlement)
        return records[task_id] or _receipt(settlement, "UNKNOWN")

    async def _answer(
        self, session: Session, settlement: Settlement, outcome: Outcome
    ) -> ReceiptWord:
        if outcome.verdict is Verdict.APPLIED:
            if settlement.refused:
                return _receipt(settlement, "INVALID", settlement.refused)
            return _receipt(settlement, "ACCEPTED")
        if outcome.verdict in _WORDS:
            return _receipt(settlement, _WORDS[outcome.verdict])
        if outcome.refusal is Refusal.UNKNOWN_OUTCOME and outcome.record is not None:
            return await self._fail_unknown_outcome(session, settlement, outcome.record)
        if outcome.undecided:
            return self._keep(session, settlement)
        return await self._stale(settlement)

    async def _stale(self, settlement: Settlement) -> ReceiptWord:
        """Tell a result that was recorded before from one whose lease somebody else holds."""
        task_id, step, _ = settlement.assignment_id.split("/", 2)
        token = await self._store.settled(task_id, step)
        status = "DUPLICATE" if token == settlement.lease_token else "STALE_LEASE"
        return _receipt(settlement, status)

    async def _fail_unknown_outcome(
        self, session: Session, settlement: Settlement, record: TaskRecord
    ) -> ReceiptWord:
        outcome = settlement.fact.outcome if isinstance(settlement.fact, Completed) else ""
        words = f"step {record.step} has no outcome {outcome[:64]!r} in pipeline {record.pipeline}"
        fact = Failed(
            token=settlement.lease_token, code="UNKNOWN_OUTCOME", message=words, retryable=False
        )
        (failed,) = await self._committer.apply(
            [Proposal(task_id=_task_of(settlement), record=record, fact=fact)]
        )
        if failed.undecided:
            return self._keep(session, settlement)
        return _receipt(settlement, "INVALID", words)

    def _keep(self, session: Session, settlement: Settlement) -> ReceiptWord:
        """Not durable yet: the worker keeps the result and resends it."""
        attempt = session.settling.get(settlement.lease_token)
        if attempt is not None:
            session.parked[settlement.lease_token] = attempt
        return _receipt(settlement, "RETRY_LATER")

    async def progress(self, session: Session, held: Sequence[Held]) -> None:
        """Record how far attempts are. Best effort: the next heartbeat says more."""
        proposals = []
        for one in held:
            attempt = session.attempts.get(one.lease_token)
            if attempt is not None and one.progress is not None:
                attempt.progress, attempt.note = one.progress, one.note
                proposals.append(_progress_of(attempt, one, one.progress))
        if proposals:
            try:
                await self._committer.apply(proposals)
            except (StoreUnavailable, StoreBusy):
                return


def _fact_of(session: Session, settlement: Settlement) -> Fact:
    """What a worker says, with whether it gives an attempt back without need."""
    fact = settlement.fact
    attempt = session.settling.get(settlement.lease_token)
    waited = attempt is not None and attempt.waits
    if isinstance(fact, Released) and not (session.left or waited):
        return msgspec.structs.replace(fact, needless=True)
    return fact


def _data_of(session: Session, settlement: Settlement) -> dict[str, bytes] | None:
    attempt = session.settling.get(settlement.lease_token)
    return attempt.data if attempt is not None else None


def _progress_of(attempt: Attempt, held: Held, progress: float) -> Proposal:
    fact = Progressed(token=held.lease_token, progress=progress, note=held.note)
    return Proposal(task_id=attempt.task_id, record=attempt.record, fact=fact)


def _size_of(settlement: Settlement) -> int:
    return len(settlement.fact.output) if isinstance(settlement.fact, Completed) else 0


def _task_of(settlement: Settlement) -> str:
    return settlement.assignment_id.split("/", 1)[0]


def _receipt(settlement: Settlement, status: str, message: str = "") -> ReceiptWord:
    return ReceiptWord(
        assignment_id=settlement.assignment_id,
        lease_token=settlement.lease_token,
        status=status,
        message=message,
    )
