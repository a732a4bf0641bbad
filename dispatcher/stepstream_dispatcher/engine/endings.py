"""How attempts ended that no worker reported, kept until the store has recorded it.

An attempt that is lost, beyond its limit or never received leaves its session's table at once, and
with it goes what the dispatcher knew about it. So what it came to is kept here: were it forgotten
while the store is away, recovery would find a lease that nobody holds and release it uncharged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from stepstream.errors import StepstreamError, StoreBusy, StoreUnavailable
from stepstream_dispatcher.core.facts import DeadlinePassed, Failed, Lost, Released
from stepstream_dispatcher.engine.committer import Committer, Proposal
from stepstream_dispatcher.engine.sessions import Attempt, Sessions
from stepstream_dispatcher.store.port import Verdict

__all__ = ["Ending", "Endings"]

Ending = Failed | DeadlinePassed | Lost | Released

_log = structlog.get_logger(__name__)


class Endings:
    """Records endings, again and again if need be. Their attempts count as held meanwhile.

    Args:
        reaches: Whether a task can be changed now; the others wait until it can.
    """

    def __init__(
        self, *, sessions: Sessions, committer: Committer, reaches: Callable[[str], bool]
    ) -> None:
        self._committer = committer
        self._reaches = reaches
        self._attempts = sessions.ending  # by lease token, as all tables here
        self._facts: dict[str, Ending] = {}
        self._in_flight: set[str] = set()

    async def add(self, endings: Iterable[tuple[Attempt, Ending]]) -> None:
        """Record how attempts ended, at once or by a later `retry`."""
        added = []
        for attempt, fact in endings:
            self._attempts[fact.token] = attempt
            self._facts[fact.token] = fact
            added.append(fact.token)
        if await self._record(added):
            _log.warning("endings wait for the store", attempts=len(self._facts))

    async def retry(self) -> None:
        """Record what is left.

        Raises:
            StoreUnavailable, StoreBusy: Some could not be recorded; they are kept.
        """
        if error := await self._record(list(self._facts)):
            raise error

    def take_back(self, token: str) -> bool:
        """Let an attempt go on whose worker has come back; False if it is over all the same."""
        if token not in self._facts:
            return True
        if token in self._in_flight or isinstance(self._facts[token], (Failed, DeadlinePassed)):
            return False
        self._forget(token)
        return True

    async def _record(self, tokens: list[str]) -> StoreUnavailable | StoreBusy | None:
        """Record each by itself, side by side; returns why any was not."""
        ready = [
            token
            for token in tokens
            if token not in self._in_flight and self._reaches(self._attempts[token].task_id)
        ]
        if not ready:
            return None
        self._in_flight.update(ready)
        try:
            async with asyncio.TaskGroup() as group:
                tries = [group.create_task(self._record_one(token)) for token in ready]
        finally:
            self._in_flight.difference_update(ready)
        return next((error for one in tries if (error := one.result())), None)

    async def _record_one(self, token: str) -> StoreUnavailable | StoreBusy | None:
        attempt, fact = self._attempts[token], self._facts[token]
        proposal = Proposal(task_id=attempt.task_id, record=attempt.record, fact=fact)
        try:
            (outcome,) = await self._committer.apply([proposal])
        except (StoreUnavailable, StoreBusy) as error:
            return error
        except StepstreamError as error:  # recovery finds the lease; nothing else would help
            _log.error("an ending could not be recorded", task=attempt.task_id, error=str(error))
        else:
            if outcome.verdict is Verdict.VERSION_CONFLICT:  # contended: nothing is decided yet
                return None
        self._forget(token)
        return None

    def _forget(self, token: str) -> None:
        self._facts.pop(token, None)
        self._attempts.pop(token, None)
