"""Watches over what workers hold: limits, silence, broken streams, and what a heartbeat tells.

All times are monotonic. A stream that breaks keeps its attempts for a short grace, in which the
worker instance may come back with them; after it, and after the silence limit, they are settled: an
attempt that the worker had named was running and is *lost*; one that it never named is *released*,
uncharged, unless it ran alone because that had happened to it before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import structlog

from stepstream.session import RECONNECT_GRACE_S
from stepstream_dispatcher.core.facts import DeadlinePassed, Failed, Lost, Released
from stepstream_dispatcher.core.lifecycle import runs_alone
from stepstream_dispatcher.engine.committer import Committer
from stepstream_dispatcher.engine.endings import Ending, Endings
from stepstream_dispatcher.engine.readable import RecordReader
from stepstream_dispatcher.engine.sessions import Attempt, Session, Sessions
from stepstream_dispatcher.store.port import Store

__all__ = ["Leases"]

TICK_S: Final = 0.1  # how late a limit may be noticed
PAUSE_S: Final = 1.0  # a tick that is later than this: the process stood still
CATCH_UP_S: Final = 1.0  # after that, until what has come meanwhile is read
INTENTS_EVERY_S: Final = 2.0  # how often intents are read again (design 5)

_log = structlog.get_logger(__name__)


class Leases:
    """The watchdog over all sessions.

    Args:
        dispatcher_id: Owner of the leases.
        silence_limit_s: A worker that was not heard for this long is given up.
        reaches: Whether a task can be read and changed now.
    """

    def __init__(
        self,
        *,
        store: Store,
        sessions: Sessions,
        committer: Committer,
        dispatcher_id: str,
        silence_limit_s: float,
        reaches: Callable[[str], bool] = lambda _task_id: True,
    ) -> None:
        self._reaches = reaches
        self._reader = RecordReader(store)
        self._sessions = sessions
        self._endings = Endings(sessions=sessions, committer=committer, reaches=reaches)
        self._dispatcher_id = dispatcher_id
        self._silence_limit_s = silence_limit_s
        self._blind_until = 0.0  # monotonic: before it no limit of an attempt is held

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_limits())
            group.create_task(self._read_intents())

    async def _watch_limits(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            slept_at = loop.time()
            await asyncio.sleep(TICK_S)
            now = loop.time()
            if (paused_s := now - slept_at - TICK_S) >= PAUSE_S:
                self._stood_still(paused_s, now)
            for session in self._sessions:
                if session.broken_at is not None:
                    if now - session.broken_at >= RECONNECT_GRACE_S:
                        await self.give_up(session, "its stream broke and it did not come back")
                elif session.is_read and now - session.heard_at >= self._silence_limit_s:
                    await self._silent(session)
                elif session.attempts and now >= self._blind_until:
                    await self._expire(session, now)
            await self._endings.retry()

    def _stood_still(self, paused_s: float, now: float) -> None:
        """This process was frozen: what it did not hear meanwhile is no worker's silence."""
        _log.warning("this process stood still", paused_s=round(paused_s, 1))
        self._blind_until = now + CATCH_UP_S
        for session in self._sessions:
            session.heard_at += paused_s
            if session.broken_at is not None:
                session.broken_at += paused_s

    async def _silent(self, session: Session) -> None:
        """Give up a worker that is connected and says nothing."""
        session.outbox.closing = True
        session.outbox.notify()
        await self.give_up(session, f"silent for {self._silence_limit_s:g} s")

    async def _expire(self, session: Session, now: float) -> None:
        """Fail the attempts that are beyond their limit, and tell the worker to stop them."""
        late = {
            token: attempt
            for token, attempt in session.attempts.items()
            if attempt.timeout_at <= now
        }
        if not late:
            return
        for token, attempt in late.items():
            session.attempts.pop(token, None)
            session.cancel(attempt, "DEADLINE" if _ends_the_task(attempt) else "TIMEOUT")
        await self._endings.add(
            (attempt, _beyond_limit(token, attempt)) for token, attempt in late.items()
        )
        self._sessions.stir()

    # --- the end of a session --------------------------------------------------------------------

    def broke(self, session: Session) -> None:
        """A stream is gone; its worker may come back with its attempts."""
        if session.attempts or session.settling or session.parked:
            session.broken_at = asyncio.get_running_loop().time()
            self._sessions.stir()
        else:
            self._sessions.remove(session)

    async def worker_drains(self, session: Session) -> None:
        """A worker takes nothing more; what was not written to it yet is given back."""
        session.draining = True
        unsent = session.outbox.take_handouts()
        tokens = [handout.attempt.record.lease for handout in unsent]
        await self.forget(session, tokens, "it drains")

    async def give_up(self, session: Session, reason: str) -> None:
        """Settle everything that a session still holds, and forget it.

        What has ended and is not recorded goes back uncharged: its worker has the result, and is
        gone. What is on its way to the record is left to recovery.
        """
        self._sessions.remove(session)
        vanished = not session.outbox.superseded  # a half-close tells nothing: a kill looks like it
        attempts = dict(session.attempts)
        session.attempts.clear()
        parked = dict(session.parked)
        session.parked.clear()
        waited_s = asyncio.get_running_loop().time() - session.heard_at
        if session.broken_at is not None:
            waited_s = asyncio.get_running_loop().time() - session.broken_at
        if attempts:
            _log.warning(
                "worker lost",
                worker=session.hello.worker_name,
                attempts=len(attempts),
                reason=reason,
            )
        await self._endings.add(
            [
                (attempt, self._gone(session, token, attempt, reason, waited_s, vanished=vanished))
                for token, attempt in attempts.items()
            ]
            + [(attempt, self._unrecorded(session, token)) for token, attempt in parked.items()]
        )

    def _unrecorded(self, session: Session, token: str) -> Ending:
        reason = f"worker {session.hello.worker_name} is gone with the result"
        return Released(token=token, reason=reason, owner=self._dispatcher_id)

    async def forget(self, session: Session, tokens: Iterable[str], reason: str) -> None:
        """Settle attempts that the worker holds no more."""
        gone = {token: session.attempts.pop(token) for token in tokens if token in session.attempts}
        await self._endings.add(
            (attempt, self._gone(session, token, attempt, reason, 0.0))
            for token, attempt in gone.items()
        )
        self._sessions.stir()

    def _gone(
        self,
        session: Session,
        token: str,
        attempt: Attempt,
        reason: str,
        waited_s: float,
        *,
        vanished: bool = False,
    ) -> Ending:
        """How an attempt ended that its worker holds no more.

        A worker that vanished may have been taken down by what it had not even named. Nobody is
        charged for that before it has happened to the same step twice, and then only what ran
        alone, so that it was this step or nothing.
        """
        worker = session.hello.worker_name
        unseen = attempt.batch > 0 and vanished and not attempt.named
        if attempt.named or (unseen and runs_alone(attempt.record)):
            return Lost(
                token=token,
                reason=f"worker {worker}: {reason}",
                owner=self._dispatcher_id,
                waited_ms=int(waited_s * 1000),
                progress=attempt.progress,
                note=attempt.note,
            )
        reason = f"never received by worker {worker}"
        if unseen:
            reason = f"never named by worker {worker}, which is gone"
        return Released(token=token, reason=reason, owner=self._dispatcher_id, unseen=unseen)

    def take_back(self, token: str) -> bool:
        """Let an attempt go on whose worker came back before its loss was recorded.

        Returns False if it is over all the same.
        """
        return self._endings.take_back(token)

    # --- heartbeats and intents ------------------------------------------------------------------

    async def heard(
        self, session: Session, tokens: Sequence[str], batch_received: int
    ) -> list[str]:
        """Take in a heartbeat.

        Args:
            tokens: Leases of every attempt that the worker says it holds.
            batch_received: Highest batch number that it received.

        Returns:
            The leases among `tokens` that are not the worker's any more.
        """
        held = set(tokens)
        for token in held & session.attempts.keys():
            session.attempts[token].named = True
        missing = [
            token
            for token, attempt in session.attempts.items()
            if token not in held and 0 < attempt.batch <= batch_received
        ]
        for token in [
            token
            for token, attempt in session.parked.items()
            if token not in held and 0 < attempt.batch <= batch_received
        ]:
            del session.parked[token]  # its worker has forgotten the result: recovery releases it
        if missing:
            await self.forget(session, missing, "the attempt vanished from its heartbeat")
        return [token for token in held if not session.holds(token)]

    async def _read_intents(self) -> None:
        while True:
            await asyncio.sleep(INTENTS_EVERY_S)
            await self._look_again()

    async def _look_again(self) -> None:
        """Compare what has been held for a while with the record."""
        before = asyncio.get_running_loop().time() - INTENTS_EVERY_S
        held = [
            (session, token, attempt)
            for session in self._sessions
            for token, attempt in session.attempts.items()
            if 0 < attempt.leased_at <= before and self._reaches(attempt.task_id)
        ]
        records = await self._reader.records([attempt.task_id for _, _, attempt in held])
        for session, token, attempt in held:
            if token not in session.attempts or attempt.task_id not in records:
                continue
            record = records[attempt.task_id]
            if record is None or (record.lease, record.owner) != (token, self._dispatcher_id):
                session.attempts.pop(token)
                if record is None or record.lease != token:  # else its worker has moved with it
                    session.cancel(attempt, "LEASE_LOST")
                self._sessions.stir()
            elif record.cancel and not attempt.cancelled:
                session.cancel(attempt, "REQUESTED")

    def cancel_task(self, task_id: str) -> bool:
        """Tell the worker that holds a task here to stop it; False if none does."""
        found = self._sessions.holder_of_task(task_id)
        if found is None or not found[1].assignment_id:  # not handed out: the next look tells it
            return False
        session, attempt = found
        if not attempt.cancelled:
            session.cancel(attempt, "REQUESTED")
        return True


def _ends_the_task(attempt: Attempt) -> bool:
    """Whether the limit of an attempt is its task's deadline."""
    record = attempt.record
    limit_ms = (attempt.timeout_at - attempt.leased_at) * 1000
    return 0 < record.deadline_ms <= record.leased_ms + round(limit_ms)


def _beyond_limit(token: str, attempt: Attempt) -> Ending:
    if _ends_the_task(attempt):
        return DeadlinePassed(token=token)
    limit_s = attempt.timeout_at - attempt.leased_at
    return Failed(
        token=token,
        code="DEADLINE_EXCEEDED",
        message=f"attempt {attempt.record.attempt} ran beyond its limit of {limit_s:g} s",
        retryable=True,
        reported=False,
    )
