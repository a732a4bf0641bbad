"""The healing parts of a dispatcher on one store, and what others may destroy there."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec

from stepstream_dispatcher.core.census import Census
from stepstream_dispatcher.core.pipeline import Catalog
from stepstream_dispatcher.engine.committer import Committer
from stepstream_dispatcher.engine.feeder import Feeder
from stepstream_dispatcher.engine.fresh import Fresh
from stepstream_dispatcher.engine.orphans import Orphans
from stepstream_dispatcher.engine.reconciler import Reconciler
from stepstream_dispatcher.engine.recovery import Recovery
from stepstream_dispatcher.engine.sessions import Sessions
from stepstream_dispatcher.engine.sweep import Report, Sweep
from stepstream_dispatcher.store.redis import RedisStore
from tests.support.records import TRANSLATION
from tests.support.stores import RedisBackend

__all__ = ["DESTROYED", "LIMIT_S", "QUEUES", "Healer", "destroy", "healer_of"]

QUEUES = ["checks", "default"]
LIMIT_S = 20.0


class Healer:
    """The parts of a dispatcher that heal, on one store."""

    def __init__(self, store: RedisStore, *, silence_limit_s: float = 15.0) -> None:
        self.store = store
        self.away = False
        self.learns: list[str] = []  # lanes that others know
        self.learned: list[str] = []
        catalog = Catalog([msgspec.structs.replace(TRANSLATION, version="1")])
        self.sessions = Sessions()
        self.committer = Committer(
            store=store,
            catalog=catalog,
            learn=self._learn,
            retain_s=3600,
            live_max=0,
            applied=lambda _transition, _entry, _source: None,
            rng=random.Random(1),
            moved=lambda _record, _transition: None,
        )
        feeder = Feeder(
            store=store,
            sessions=self.sessions,
            committer=self.committer,
            fresh=Fresh(lambda _queue: True),
            dispatcher_id="d1",
            limit_ms_of=lambda _record: 1000,
            seen=lambda _task_id, _data: None,
        )
        self.recovery = Recovery(
            store=store,
            sessions=self.sessions,
            committer=self.committer,
            feeder=feeder,
            dispatcher_id="d1",
            silence_limit_s=silence_limit_s,
            lanes=lambda: QUEUES,
        )
        self.orphans = Orphans(
            store=store,
            committer=self.committer,
            recovery=self.recovery,
            sessions=self.sessions,
            dispatcher_id="d1",
        )
        self.reconciler = Reconciler(
            store=store,
            committer=self.committer,
            orphans=self.orphans,
            queues=lambda: QUEUES + self.learned,
            learn=self._learn,
            away=lambda: self.away,
        )

    async def _learn(self) -> None:
        self.learned = self.learns

    async def sweep(self, **limits: int) -> Report:
        assert await self.store.claim_sweep(ttl_s=10)
        sweep = Sweep(
            store=self.store,
            committer=self.committer,
            orphans=self.orphans,
            queues=QUEUES,
            share=0.5,
        )
        sweep._census = Census(**limits)
        return await sweep.run()


@asynccontextmanager
async def healer_of(store: RedisStore, **options: float) -> AsyncIterator[Healer]:
    """A healer whose committer runs."""
    await store.beat()
    healer = Healer(store, **options)
    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
        committing = group.create_task(healer.committer.run())
        yield healer
        committing.cancel()


DESTROYED = {
    "delete the lane": ("DEL", "stream"),
    "trim the lane": ("XTRIM", "stream", "MAXLEN", "0"),
    "delete the delayed set": ("DEL", "delayed"),
    "delete the index": ("DEL", "index"),
    "delete the ended set": ("DEL", "ended"),
    "delete a state's set": ("DEL", "state:human_review"),
    "delete the failed": ("DEL", "state:failed"),
    "delete the counts": ("DEL", "count"),
    "a count that is wrong": ("HSET", "count", "pending", "77"),
    "a stranger in the index": ("ZADD", "index", "1", "nobody"),
    "a stranger's timer": ("ZADD", "delayed", "9e12", "nobody"),
    "a stranger in a state": ("ZADD", "state:human_review", "1", "t-create"),
    "a stranger's entry": ("XADD", "stream", "*", "task", "nobody", "step", "translate"),
}


async def destroy(redis: RedisBackend, command: Sequence[str]) -> object:
    verb, name, *rest = command
    return await redis.client.execute_command(verb, f"{redis.prefix}task:{name}", *rest)  # type: ignore[no-untyped-call]
