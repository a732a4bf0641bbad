"""Gives each dispatcher its share of the workers again, after one of them has come back.

Theory of operation. While a dispatcher is away its workers are at the others, and nothing would
bring them back before their streams are old. So a dispatcher that has fewer than its share asks the
one that has most to spare some, a tenth of what it lacks at a time; one that leaves asks nobody.
Who is asked tells the workers that have least to do to move, as if their streams were old: what
runs there goes on. A worker chooses by itself where it goes; one that comes back is left in peace
for as long as a stream lasts.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from typing import Final

import structlog

from stepstream.session import STREAM_AGE_S
from stepstream_dispatcher.engine.leases import Leases
from stepstream_dispatcher.engine.messages import SPARE_WORD
from stepstream_dispatcher.engine.sessions import Session, Sessions
from stepstream_dispatcher.store.port import Store

__all__ = ["Spread"]

LOOK_EVERY_S: Final = 10.0
PART: Final = 10  # of what is lacking, asked for at a time: 500 workers at once would be a storm
REASON: Final = "another dispatcher has fewer workers"

_log = structlog.get_logger(__name__)


class Spread:
    """Asks for workers, and spares some.

    Args:
        dispatcher_id: This dispatcher.
        silence_limit_s: A dispatcher that has not beaten for this long has no share.
        leaving: Whether this dispatcher leaves.
    """

    def __init__(
        self,
        *,
        store: Store,
        sessions: Sessions,
        leases: Leases,
        dispatcher_id: str,
        silence_limit_s: float,
        leaving: Callable[[], bool],
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._leases = leases
        self._dispatcher_id = dispatcher_id
        self._silence_limit_s = silence_limit_s
        self._leaving = leaving
        self._told_at: dict[str, float] = {}  # instance -> monotonic, when it was told to move

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if not self._leaving():
                await self._look()

    async def _look(self) -> None:
        limit_ms = self._silence_limit_s * 1000
        silent_ms = await self._store.dispatchers()
        have = Counter({name: 0 for name, silent in silent_ms.items() if silent < limit_ms})
        if len(have) < 2 or self._dispatcher_id not in have:  # noqa: PLR2004 - nobody to ask
            return
        for worker in (await self._store.workers()).values():
            if worker.get("is_running") == "1" and worker.get("dispatcher") in have:
                have[worker["dispatcher"]] += 1
        lacking = have.total() // len(have) - have[self._dispatcher_id]
        if lacking > 0:
            (richest, _), *_ = have.most_common(1)
            amount = math.ceil(lacking / PART)
            await self._store.notify(richest, f"{SPARE_WORD} {amount}".encode())

    async def spare(self, amount: int) -> None:
        """Tell so many workers to move; one that goes while another gives back does no harm."""
        for session in self._tell(amount):
            await self._leases.worker_drains(session)

    def _tell(self, amount: int) -> list[Session]:
        """Choose and tell at one instant, so that whoever is told is there; returns them."""
        now = asyncio.get_running_loop().time()
        self._told_at = {who: at for who, at in self._told_at.items() if now - at < STREAM_AGE_S}
        free_to_go = [
            session
            for session in self._sessions
            if not session.left and session.hello.instance_id not in self._told_at
        ]
        told = sorted(free_to_go, key=lambda one: len(one.attempts))[:amount]
        for session in told:
            self._told_at[session.hello.instance_id] = now
            session.draining = True
            session.outbox.drain = REASON
            session.outbox.notify()
            _log.info("worker told to move", worker=session.hello.worker_name, reason=REASON)
        return told
