"""Looks after leased tasks that no pending entry leads to, so that recovery would not find them.

Whoever destroys a lane, its group or an entry destroys the knowledge of who had taken what. As long
as the owner of such a lease lives it settles it as ever, and needs no entry for that; the owner is
told of it again and again, since it may have been started again and have forgotten it, and may not
have heard it. When the owner is gone, the lease is released here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import islice
from typing import Final

from stepstream_dispatcher.core.facts import Released
from stepstream_dispatcher.core.reconcile import Repair, Sight
from stepstream_dispatcher.core.record import TaskRecord
from stepstream_dispatcher.engine.committer import Committer, Proposal
from stepstream_dispatcher.engine.messages import ORPHAN_WORD
from stepstream_dispatcher.engine.readable import readable_records
from stepstream_dispatcher.engine.recovery import Recovery
from stepstream_dispatcher.engine.sessions import Sessions
from stepstream_dispatcher.store.port import RepairableStore

__all__ = ["Orphans"]

PAGE: Final = 500  # leases that one look reads
TELL_EVERY_S: Final = 20.0  # an owner, of the same lease
WATCHED_MAX: Final = 100_000  # leases; a sweep finds again what is beyond


class Orphans:
    """The leases that are watched here.

    Args:
        store: Where the records are.
        committer: Releases what nobody holds.
        recovery: Knows which owners are gone, and when nobody may be taken over.
        sessions: What this dispatcher holds.
        dispatcher_id: This dispatcher.
    """

    def __init__(
        self,
        *,
        store: RepairableStore,
        committer: Committer,
        recovery: Recovery,
        sessions: Sessions,
        dispatcher_id: str,
    ) -> None:
        self._store = store
        self._committer = committer
        self._recovery = recovery
        self._sessions = sessions
        self._dispatcher_id = dispatcher_id
        self._watched: dict[str, str] = {}  # lease token -> task id; those read last are at the end
        self._told: dict[str, float] = {}  # token -> monotonic, when its owner was told last

    def note(self, sights: Iterable[Sight]) -> None:
        """Watch leases that a sweep has found."""
        for sight in sights:
            if sight.record is not None and len(self._watched) < WATCHED_MAX:
                self._watched.setdefault(sight.record.lease, sight.task_id)

    async def look(self) -> dict[Repair, int]:
        """Tell owners, and release what is left of those that are gone; returns how many.

        At most a page is looked at, in turn.
        """
        watched, repaired = self._next_page(), {Repair.LEASES: 0, Repair.ORPHANS: 0}
        if not watched:
            return repaired
        records = await readable_records(self._store, list(watched.values()))
        gone = await self._recovery.owners_gone(records)
        proposals: list[Proposal] = []
        for (token, task_id), record in zip(watched.items(), records, strict=True):
            if record is None or record.lease != token:
                self._forget(token)
            elif record.owner == self._dispatcher_id:
                repaired[Repair.ORPHANS] += self._adopt(token, task_id)
            elif record.owner in gone:
                proposals.append(_released(task_id, record))
            else:
                await self._tell(record.owner, token, task_id)
        outcomes = await self._committer.apply(proposals) if proposals else []
        repaired[Repair.LEASES] = sum(outcome.applied for outcome in outcomes)
        return repaired

    def _next_page(self) -> dict[str, str]:
        """Take those that were not looked at for longest, and put them behind all others."""
        page = dict(islice(self._watched.items(), PAGE))
        for token in page:
            self._watched[token] = self._watched.pop(token)
        return page

    async def _tell(self, owner: str, token: str, task_id: str) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._told.get(token, -TELL_EVERY_S) < TELL_EVERY_S:
            return
        await self._store.notify(owner, f"{ORPHAN_WORD} {token} {task_id}".encode())
        self._told[token] = now

    def _adopt(self, token: str, task_id: str) -> bool:
        """Leave a lease of this dispatcher to its recovery, as one that was brought here."""
        self._forget(token)
        return self._sessions.look_after(token, task_id)

    def _forget(self, token: str) -> None:
        self._watched.pop(token, None)
        self._told.pop(token, None)


def _released(task_id: str, record: TaskRecord) -> Proposal:
    reason = f"dispatcher {record.owner} is gone"
    fact = Released(token=record.lease, reason=reason, owner=record.owner)
    return Proposal(task_id=task_id, record=record, fact=fact)
