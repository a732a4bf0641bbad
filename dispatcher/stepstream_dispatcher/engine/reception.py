"""Opens worker sessions: checks who comes, and what becomes of the attempts it brings along."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from weakref import WeakValueDictionary

import msgspec
import structlog

from stepstream.errors import Draining, ProtocolMismatch, RateLimited
from stepstream.session import PROTOCOL_VERSION
from stepstream_dispatcher.core.facts import Adopted
from stepstream_dispatcher.core.lifecycle import Refusal
from stepstream_dispatcher.core.pipeline import Catalog
from stepstream_dispatcher.core.record import Stage, TaskRecord
from stepstream_dispatcher.engine.committer import Committer, Proposal
from stepstream_dispatcher.engine.identity import new_session_id
from stepstream_dispatcher.engine.leases import Leases
from stepstream_dispatcher.engine.readable import RecordReader
from stepstream_dispatcher.engine.sessions import Attempt, Hello, Inventory, Session, Sessions
from stepstream_dispatcher.store.port import Store

__all__ = ["Opened", "Reception"]

_log = structlog.get_logger(__name__)


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """A session that was opened, and the answer to its worker."""

    session: Session
    verdicts: list[tuple[str, str]]  # (assignment id, word of Verdict), in order of the inventory
    warnings: list[str]


class Reception:
    """Opens sessions until the dispatcher leaves.

    Args:
        sessions_max: Workers that may be connected at once.
        limit_ms_of: Limit of one attempt of a record.
        registered: Called after a session was added, so that the store knows of the worker.
        reaches: Whether a task can be read now; attempts at one that cannot stay with the worker.
    """

    def __init__(
        self,
        *,
        store: Store,
        sessions: Sessions,
        committer: Committer,
        leases: Leases,
        catalog: Catalog,
        dispatcher_id: str,
        sessions_max: int,
        limit_ms_of: Callable[[TaskRecord], int],
        registered: Callable[[Session], Awaitable[None]],
        reaches: Callable[[str], bool] = lambda _task_id: True,
    ) -> None:
        self._reaches = reaches
        self._reader = RecordReader(store)
        self._sessions = sessions
        self._committer = committer
        self._leases = leases
        self._catalog = catalog
        self._dispatcher_id = dispatcher_id
        self._limit_ms_of = limit_ms_of
        self._registered = registered
        self._sessions_max = sessions_max
        self._arriving = 0  # sessions that are being opened, and are on no table yet
        self._closed = False
        self._opening: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def close(self) -> None:
        """Refuse new sessions from now on."""
        self._closed = True

    async def open(self, hello: Hello, *, protocol_version: int) -> Opened:
        """Open a session, taking over from an older one of the same worker instance.

        Raises:
            Draining, ProtocolMismatch, RateLimited, StoreUnavailable: See the errors.
        """
        self._check(protocol_version)
        opening = self._opening.setdefault(hello.instance_id, asyncio.Lock())
        async with opening:  # an instance that dials again meanwhile finds this session
            return await self._open(hello)

    async def _open(self, hello: Hello) -> Opened:
        session = Session(new_session_id(), hello, now=asyncio.get_running_loop().time())
        older = self._sessions.of_instance(hello.instance_id)
        held = {*older.attempts, *older.parked} if older else set()
        with self._arrival(hello):
            adopted = {
                item.lease_token: await self._adopt(session, item)
                for item in hello.inventory
                if item.lease_token not in held
            }
        queues, warnings = self._lanes(hello)
        # Nothing is awaited until the session is on the table with what it carries over, so that no
        # attempt is nobody's, whatever fails.
        verdicts = [
            _verdict(item, kept=_carry_over(session, item, older) or adopted.get(item.lease_token))
            for item in hello.inventory
        ]
        self._sessions.add(session, queues)
        try:
            if older is not None:
                await self._supersede(older)
            await self._registered(session)
        except BaseException:  # its stream never begins, so nothing else would end it
            self._leases.broke(session)
            raise
        _log.info(
            "worker registered",
            worker=hello.worker_name,
            session=session.id,
            slots=hello.max_in_flight,
            brought=len(hello.inventory),
        )
        for warning in warnings:
            _log.warning(warning, worker=hello.worker_name)
        return Opened(session=session, verdicts=verdicts, warnings=warnings)

    def _check(self, protocol_version: int) -> None:
        if self._closed:
            raise Draining("this dispatcher is leaving", retry_after_s=0.2)
        if protocol_version != PROTOCOL_VERSION:
            words = f"protocol version {protocol_version} is not served, only {PROTOCOL_VERSION}"
            raise ProtocolMismatch(words)

    @contextlib.contextmanager
    def _arrival(self, hello: Hello) -> Iterator[None]:
        """Refuse one worker too many; one that moves to a new stream takes its own place."""
        taken = len(self._sessions) + self._arriving
        if taken >= self._sessions_max and self._sessions.of_instance(hello.instance_id) is None:
            raise RateLimited(f"{self._sessions_max} workers are connected", retry_after_s=1.0)
        self._arriving += 1
        try:
            yield
        finally:
            self._arriving -= 1

    def _lanes(self, hello: Hello) -> tuple[frozenset[str], list[str]]:
        """The lanes that it may be fed from: those of which it serves every step type."""
        fed: set[str] = set()
        warnings: list[str] = []
        for queue in sorted(hello.queues):
            wanted = self._catalog.step_types(queue)
            missing = wanted - hello.step_types
            if not wanted:
                warnings.append(f"queue {queue!r} belongs to no pipeline of this dispatcher")
            elif missing:
                words = ", ".join(sorted(missing))
                warnings.append(f"not fed from queue {queue!r}: it does not serve step {words}")
            else:
                fed.add(queue)
        return frozenset(fed), warnings

    async def _supersede(self, older: Session) -> None:
        """End the older stream of the instance; what it did not bring along is gone."""
        older.draining = True
        older.outbox.superseded = True
        older.outbox.notify()
        await self._leases.give_up(older, "its newer stream did not bring it along")

    # --- inventory -------------------------------------------------------------------------------

    async def _adopt(self, session: Session, item: Inventory) -> bool:
        """Answer for an attempt that another dispatcher, or this one before, handed out."""
        task_id = item.assignment_id.partition("/")[0]
        records = await self._reader.records([task_id]) if self._reaches(task_id) else {}
        if task_id not in records:
            return self._keep_unseen(session, item)
        record = records[task_id]
        if record is None or record.stage is not Stage.LEASED or record.lease != item.lease_token:
            return False
        if not self._leases.take_back(item.lease_token):
            return False
        return await self._take_over(session, item, task_id, record)

    async def _take_over(
        self, session: Session, item: Inventory, task_id: str, record: TaskRecord
    ) -> bool:
        """Hold an attempt that goes on, and record that its owner is this dispatcher now."""
        attempt = self._enter(session, item, task_id, record)
        if record.owner == self._dispatcher_id:
            return True
        fact = Adopted(
            token=item.lease_token, owner=self._dispatcher_id, worker=session.hello.worker_name
        )
        proposal = Proposal(task_id=task_id, record=record, fact=fact)
        try:
            (outcome,) = await self._committer.apply([proposal])
        finally:  # whatever came of it: recovery forgets what is not ours
            self._sessions.adopted[item.lease_token] = task_id
        if outcome.applied and outcome.record is not None:
            attempt.record = outcome.record
            return True
        if outcome.refusal is Refusal.BROKEN:
            return True  # perhaps it is ours: what is held is compared with the record again
        session.attempts.pop(item.lease_token, None)
        return False

    def _keep_unseen(self, session: Session, item: Inventory) -> bool:
        """Answer for an attempt at a task that nobody can look up: go on, unless it is over here.

        One that this dispatcher had given up, and could not say so, is held as it was before.
        """
        token = item.lease_token
        given_up = self._sessions.ending.get(token)
        if not self._leases.take_back(token):
            return False
        if given_up is None:
            session.unseen[token] = item.settled
        elif item.settled:
            session.parked[token] = given_up
        else:
            _hold_again(session, token, given_up)
        return True

    def _enter(
        self, session: Session, item: Inventory, task_id: str, record: TaskRecord
    ) -> Attempt:
        now = asyncio.get_running_loop().time()
        began = now - item.elapsed_s
        attempt = Attempt(
            assignment_id=item.assignment_id,
            task_id=task_id,
            record=record,
            timeout_at=began + self._limit_ms_of(record) / 1000,
            batch=0,
            named=True,
            leased_at=began,
            progress=record.progress,
            note=record.note,
        )
        session.attempts[item.lease_token] = attempt
        return attempt


def _verdict(item: Inventory, *, kept: bool | None) -> tuple[str, str]:
    if item.settled:
        return item.assignment_id, "RESEND"
    return item.assignment_id, "KEEP" if kept else "ABANDON"


def _carry_over(session: Session, item: Inventory, older: Session | None) -> bool:
    """Move an attempt from the instance's older session here."""
    token = item.lease_token
    if older is None:
        return False
    if token in older.parked:
        session.parked[token] = older.parked.pop(token)
        return True
    attempt = older.attempts.pop(token, None)
    if attempt is None:
        return False
    _hold_again(session, token, attempt)
    return True


def _hold_again(session: Session, token: str, attempt: Attempt) -> None:
    """Enter an attempt of an older stream into the table of the newer one."""
    attempt.named = True
    attempt.cancelled = False  # the word may have gone down with the older stream
    session.attempts[token] = attempt
