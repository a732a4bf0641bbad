"""The engine: all parts of one dispatcher, put together, run and drained."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import msgspec
import structlog

from stepstream_dispatcher.core.admission import Limits
from stepstream_dispatcher.core.pipeline import Catalog, Pipeline, decode, encode
from stepstream_dispatcher.core.record import TaskRecord, Transition
from stepstream_dispatcher.engine.committer import Committer
from stepstream_dispatcher.engine.desk import Desk
from stepstream_dispatcher.engine.feeder import Feeder
from stepstream_dispatcher.engine.fresh import Fresh
from stepstream_dispatcher.engine.intents import IntentKeeper
from stepstream_dispatcher.engine.janitor import Janitor
from stepstream_dispatcher.engine.leases import Leases
from stepstream_dispatcher.engine.operations import Operations
from stepstream_dispatcher.engine.overview import Overview
from stepstream_dispatcher.engine.reception import Reception
from stepstream_dispatcher.engine.recovery import Recovery
from stepstream_dispatcher.engine.roster import Roster
from stepstream_dispatcher.engine.sessions import Sessions
from stepstream_dispatcher.engine.settling import Settling
from stepstream_dispatcher.engine.stats import Stats, assemble
from stepstream_dispatcher.engine.supervise import LoopHealth, supervise
from stepstream_dispatcher.engine.timers import Timers
from stepstream_dispatcher.engine.vocabulary import Vocabulary
from stepstream_dispatcher.engine.watch import WatchHub
from stepstream_dispatcher.store.port import MINUTE_MS, Durability, Store

__all__ = ["Engine", "EngineOptions"]

_log = structlog.get_logger(__name__)


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator sets."""

    dispatcher_id: str
    namespace: str  # part of every derived task id
    timeout_ms: int  # limit of an attempt whose step and task set none
    heartbeat_interval_s: float
    silence_limit_s: float
    retain_s: int  # how long ended tasks are kept
    results_max: int  # ended tasks kept beyond the time
    live_max: int  # live tasks beyond which Submit is refused
    payload_bytes_max: int


class Engine:
    """One dispatcher's engine. Construction starts nothing; `run` does."""

    def __init__(
        self, *, store: Store, pipelines: Sequence[Pipeline], options: EngineOptions
    ) -> None:
        self.options = options
        self.store = store
        self.catalog = Catalog(pipelines)
        self.sessions = Sessions()
        self.watch = WatchHub(store=store)
        self.vocabulary = Vocabulary(self.catalog, learn=self._learn)
        self.overview = Overview(store=store, watch=self.watch, vocabulary=self.vocabulary)
        self.health: dict[str, LoopHealth] = {}
        self.draining = False
        self._ending = False
        self.durability: Durability = "VOLATILE"  # until the store was asked
        self.committer = Committer(
            store=store,
            catalog=self.catalog,
            learn=self._learn,
            retain_s=options.retain_s,
            live_max=options.live_max,
            applied=self._applied,
            rng=random.Random(),
        )
        self.fresh = Fresh()
        self.timers = Timers(store=store, committer=self.committer)
        self.settling = Settling(store=store, sessions=self.sessions, committer=self.committer)
        self.leases = Leases(
            store=store,
            sessions=self.sessions,
            committer=self.committer,
            dispatcher_id=options.dispatcher_id,
            silence_limit_s=options.silence_limit_s,
        )
        self.feeder = Feeder(
            store=store,
            sessions=self.sessions,
            committer=self.committer,
            fresh=self.fresh,
            dispatcher_id=options.dispatcher_id,
            limit_ms_of=self._limit_ms_of,
        )
        self.intents = IntentKeeper(
            store=store, sessions=self.sessions, feeder=self.feeder, leases=self.leases
        )
        self._roster = Roster(
            store=store, sessions=self.sessions, dispatcher_id=options.dispatcher_id
        )
        self.reception = Reception(
            store=store,
            sessions=self.sessions,
            committer=self.committer,
            leases=self.leases,
            catalog=self.catalog,
            dispatcher_id=options.dispatcher_id,
            limit_ms_of=self._limit_ms_of,
            registered=self._registered,
        )
        self.desk = Desk(
            store=store,
            committer=self.committer,
            pipelines=self.catalog,
            watch=self.watch,
            limits=Limits(payload_bytes=options.payload_bytes_max),
            namespace=options.namespace,
            cancel_here=self.leases.cancel_task,
            vocabulary=self.vocabulary,
        )
        self.operations = self._make_operations()
        self._janitor = Janitor(store=store, results_max=options.results_max)

    def _make_operations(self) -> Operations:
        return Operations(
            store=self.store,
            committer=self.committer,
            desk=self.desk,
            intents=self.intents,
            catalog=self.catalog,
            vocabulary=self.vocabulary,
            limits=Limits(payload_bytes=self.options.payload_bytes_max),
            silence_limit_s=self.options.silence_limit_s,
            dispatcher_id=self.options.dispatcher_id,
        )

    async def open(self) -> None:
        """Connect the store, and share pipelines with it: its older versions come back.

        Raises:
            StoreUnavailable: Try again.
        """
        await self.store.open()
        await self.store.keep_pipelines({one.key: encode(one) for one in self.catalog})
        await self._learn()
        await self.store.ensure_lanes(sorted(self.catalog.queues()))
        await self.store.beat()
        await self.intents.look()
        self.durability = await self.store.durability()

    async def run(self) -> None:
        """Run every loop until cancelled."""
        recovery = Recovery(
            store=self.store,
            sessions=self.sessions,
            committer=self.committer,
            feeder=self.feeder,
            dispatcher_id=self.options.dispatcher_id,
            silence_limit_s=self.options.silence_limit_s,
            lanes=lambda: sorted(self.catalog.queues()),
        )
        loops = {
            "committer": self.committer.run,
            "settling": self.settling.run,
            "feeder": self.feeder.run,
            "leases": self.leases.run,
            "timers": self.timers.run,
            "recovery": recovery.run,
            "roster": self._roster.run,
            "janitor": self._janitor.run,
            "intents": self.intents.run,
            "watch": self.watch.listen,
            "overview": self.overview.run,
        }
        async with asyncio.TaskGroup() as group:
            for name, loop in loops.items():
                self.health[name] = LoopHealth()
                group.create_task(
                    supervise(name, loop, health=self.health[name], ending=lambda: self._ending)
                )
            try:
                await asyncio.Event().wait()
            finally:
                self._ending = True

    async def drain(self, *, grace_s: float) -> None:
        """Hand out nothing more, tell the workers, and wait until they have finished or moved."""
        self.draining = True
        self.feeder.stop()
        self.reception.close()
        for session in self.sessions:
            session.outbox.drain = "the dispatcher is leaving"
            session.outbox.notify()
        try:
            async with asyncio.timeout(grace_s):
                while self.feeder.in_hand or any(
                    one.attempts or one.settling for one in self.sessions
                ):
                    await self.sessions.stirred()
        except TimeoutError:
            held = sum(len(session.attempts) for session in self.sessions)
            _log.warning("left with running attempts; their workers take them along", held=held)
        for session in self.sessions:
            session.outbox.closing = True
            session.outbox.notify()
        await self._roster.save()

    async def stats(self) -> Stats:
        """Read the counts.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        minute = self.store.now_ms() // MINUTE_MS
        return assemble(
            await self.store.counts(),
            await self.store.workers(),
            ended_last_minute=await self.store.ended_in(minute - 1),
            is_running=not self.draining,
        )

    async def ready(self) -> str | None:
        """Why calls should not be sent here; None when they may."""
        if self.draining:
            return "draining"
        outages = [name for name, health in self.health.items() if health.outage]
        return "store_unavailable" if outages else None

    async def _registered(self) -> None:
        self.intents.greet()
        await self._roster.save()

    def _applied(self, transition: Transition, entry_id: str) -> None:
        self.fresh.applied(transition, entry_id)
        self.watch.applied(transition)
        self.timers.applied(transition)

    async def _learn(self) -> None:
        """Take in the definitions that others, or this dispatcher before, have stored."""
        for definition in (await self.store.pipelines()).values():
            self.catalog.add(decode(definition))

    def _limit_ms_of(self, record: TaskRecord) -> int:
        if record.timeout_ms > 0:
            return record.timeout_ms
        pipeline = self.catalog.by_key(record.pipeline)
        return (pipeline and pipeline.step(record.step).timeout_ms) or self.options.timeout_ms
