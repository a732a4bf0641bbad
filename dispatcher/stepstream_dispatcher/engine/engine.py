"""The engine: all parts of one dispatcher, put together, run and drained."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import NoReturn

import msgspec
import structlog

from stepstream_dispatcher.core.admission import Limits
from stepstream_dispatcher.core.pipeline import Catalog, Pipeline, decode, encode
from stepstream_dispatcher.core.record import TaskRecord, Transition
from stepstream_dispatcher.engine.checkup import Checkup
from stepstream_dispatcher.engine.commit_lane import Source
from stepstream_dispatcher.engine.committer import Committer
from stepstream_dispatcher.engine.desk import Desk
from stepstream_dispatcher.engine.fallback import Fallback
from stepstream_dispatcher.engine.feeder import Feeder
from stepstream_dispatcher.engine.fresh import Fresh
from stepstream_dispatcher.engine.intents import IntentKeeper
from stepstream_dispatcher.engine.janitor import Janitor
from stepstream_dispatcher.engine.leases import Leases
from stepstream_dispatcher.engine.modes import Home
from stepstream_dispatcher.engine.operations import Operations
from stepstream_dispatcher.engine.orphans import Orphans
from stepstream_dispatcher.engine.overview import Overview
from stepstream_dispatcher.engine.reception import Reception
from stepstream_dispatcher.engine.reconciler import Reconciler
from stepstream_dispatcher.engine.recovery import Recovery
from stepstream_dispatcher.engine.roster import Roster
from stepstream_dispatcher.engine.sessions import Session, Sessions
from stepstream_dispatcher.engine.settling import Settling
from stepstream_dispatcher.engine.spread import Spread
from stepstream_dispatcher.engine.stats import Stats, assemble
from stepstream_dispatcher.engine.supervise import LoopHealth, end_loops, supervise
from stepstream_dispatcher.engine.sweep import Report
from stepstream_dispatcher.engine.switch import SwitchStore
from stepstream_dispatcher.engine.timers import Timers
from stepstream_dispatcher.engine.traces import SpanSink, Traces
from stepstream_dispatcher.engine.vocabulary import Vocabulary
from stepstream_dispatcher.engine.watch import WatchHub
from stepstream_dispatcher.store.port import MINUTE_MS, Durability, RepairableStore, Store

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
    watchers_max: int = 10_000  # watches and waits at once
    sessions_max: int = 5_000  # connected workers
    synchronous: bool = False  # every Submit waits until its task is at rest


class Engine:
    """One dispatcher's engine. Construction starts nothing; `run` does.

    Args:
        store: Where tasks are kept.
        pipelines: What tasks may begin with.
        options: What an operator sets.
        spans: Where spans go; None: nobody wants them.
    """

    def __init__(
        self,
        *,
        store: Store,
        pipelines: Sequence[Pipeline],
        options: EngineOptions,
        spans: SpanSink | None = None,
    ) -> None:
        self.options = options
        self.store = store
        self.catalog = Catalog(pipelines)
        self.sessions = Sessions()
        self.watch = WatchHub(store=store, watchers_max=options.watchers_max)
        self.vocabulary = Vocabulary(self.catalog, learn=self._learn)
        self.overview = Overview(store=store, watch=self.watch, vocabulary=self.vocabulary)
        self.health: dict[str, LoopHealth] = {}
        self.draining = False
        self._ending = False
        self.durability: Durability = "VOLATILE"  # until the store was asked
        self.traces = Traces(store=store, sink=spans)
        self._switch = store if isinstance(store, SwitchStore) else None
        self.committer = Committer(
            store=store,
            catalog=self.catalog,
            learn=self._learn,
            retain_s=options.retain_s,
            live_max=options.live_max,
            applied=self._applied,
            rng=random.Random(),
            moved=self.traces.moved,
        )
        self.fresh = Fresh(self.sessions.serves)
        self.timers = Timers(store=store, committer=self.committer)
        self.settling = Settling(
            store=store, sessions=self.sessions, committer=self.committer, reaches=self._reaches
        )
        self.leases = Leases(
            store=store,
            sessions=self.sessions,
            committer=self.committer,
            dispatcher_id=options.dispatcher_id,
            silence_limit_s=options.silence_limit_s,
            reaches=self._reaches,
        )
        self.feeder = self._make_feeder()
        self.spread = Spread(
            store=store,
            sessions=self.sessions,
            leases=self.leases,
            dispatcher_id=options.dispatcher_id,
            silence_limit_s=options.silence_limit_s,
            leaving=lambda: self.draining,
        )
        self.intents = IntentKeeper(
            store=store,
            sessions=self.sessions,
            feeder=self.feeder,
            leases=self.leases,
            spread=self.spread,
        )
        self._roster = Roster(
            store=store, sessions=self.sessions, dispatcher_id=options.dispatcher_id
        )
        self.reception = self._make_reception()
        self.desk = self._make_desk()
        self.recovery = self._make_recovery()
        self.reconciler = self._make_reconciler()
        self.operations = self._make_operations()
        self.checkup = Checkup(store=store)

    def _make_feeder(self) -> Feeder:
        return Feeder(
            store=self.store,
            sessions=self.sessions,
            committer=self.committer,
            fresh=self.fresh,
            dispatcher_id=self.options.dispatcher_id,
            limit_ms_of=self._limit_ms_of,
            seen=self.traces.seen,
        )

    def _make_reception(self) -> Reception:
        return Reception(
            store=self.store,
            sessions=self.sessions,
            committer=self.committer,
            leases=self.leases,
            catalog=self.catalog,
            dispatcher_id=self.options.dispatcher_id,
            sessions_max=self.options.sessions_max,
            limit_ms_of=self._limit_ms_of,
            registered=self._registered,
            reaches=self._reaches,
        )

    def _make_desk(self) -> Desk:
        return Desk(
            store=self.store,
            committer=self.committer,
            pipelines=self.catalog,
            watch=self.watch,
            limits=Limits(payload_bytes=self.options.payload_bytes_max),
            namespace=self.options.namespace,
            cancel_here=self.leases.cancel_task,
            home_of=self.home_of,
            traced=self.traces.begin,
            vocabulary=self.vocabulary,
        )

    def _make_recovery(self) -> Recovery:
        return Recovery(
            store=self.store,
            sessions=self.sessions,
            committer=self.committer,
            feeder=self.feeder,
            dispatcher_id=self.options.dispatcher_id,
            silence_limit_s=self.options.silence_limit_s,
            lanes=lambda: sorted(self.catalog.queues()),
            reaches=self._reaches,
        )

    def _make_reconciler(self) -> Reconciler | None:
        """None where nobody else can reach what is stored."""
        store = self._switch.remote if self._switch else self.store
        if not isinstance(store, RepairableStore):
            return None
        orphans = Orphans(
            store=store,
            committer=self.committer,
            recovery=self.recovery,
            sessions=self.sessions,
            dispatcher_id=self.options.dispatcher_id,
        )
        return Reconciler(
            store=store,
            committer=self.committer,
            orphans=orphans,
            queues=self.catalog.queues,
            learn=self._learn,
            away=lambda: self._switch is not None and self._switch.diverted,
        )

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
        await self._share()

    async def _share(self) -> None:
        """Give the store what it may not have, and learn what it is."""
        await self.store.keep_pipelines({one.key: encode(one) for one in self.catalog})
        await self._learn()
        await self.store.ensure_lanes(sorted(self.catalog.queues()))
        await self.store.beat()
        await self.intents.look()
        self.durability = await self.store.durability()

    def home_of(self, task_id: str) -> Home:
        """Where an accepted task is kept; where a new one would be, without an id."""
        if self.options.synchronous:
            return Home("SYNCHRONOUS", self.durability)
        if self._switch and (task_id in self._switch if task_id else self._switch.diverted):
            return Home("SYNCHRONOUS_FALLBACK", "LOCAL")
        return Home("PARALLEL", self.durability)

    async def run(self) -> None:
        """Run every loop until cancelled."""
        loops = {
            "committer": self.committer.run,
            "settling": self.settling.run,
            "feeder": self.feeder.run,
            "leases": self.leases.run,
            "timers": self.timers.run,
            "recovery": self.recovery.run,
            "roster": self._roster.run,
            "janitor": Janitor(store=self.store, results_max=self.options.results_max).run,
            "checkup": self.checkup.run,
            "traces": self.traces.run,
            "intents": self.intents.run,
            "spread": self.spread.run,
            "watch": self.watch.listen,
            "overview": self.overview.run,
        }
        if self.reconciler:
            loops["reconciler"] = self.reconciler.run
        if self._switch:
            fallback = Fallback(
                self._switch,
                returned=self._returned,
                turned=self._turned,
                serves=self.sessions.serves,
            )
            loops |= {"fallback": fallback.probe, "import": fallback.bring_home}
        running: set[asyncio.Task[NoReturn]] = set()
        async with asyncio.TaskGroup() as group:
            for name, loop in loops.items():
                self.health[name] = LoopHealth()
                body = supervise(name, loop, health=self.health[name], ending=lambda: self._ending)
                running.add(group.create_task(body, name=name))
            try:
                await asyncio.Event().wait()
            finally:
                self._ending = True
                await end_loops(running)

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
                while self.feeder.in_hand or any(self._is_busy(one) for one in self.sessions):
                    await self.sessions.stirred()
        except TimeoutError:
            held = sum(len(session.attempts) for session in self.sessions)
            _log.warning("left with running attempts; their workers take them along", held=held)
        for session in self.sessions:
            session.outbox.closing = True
            session.outbox.notify()
        await self._roster.save()

    def _is_busy(self, session: Session) -> bool:
        """Whether something is worth waiting for: a result for a Redis that is down is not."""
        awaited = any(self._reaches(attempt.task_id) for attempt in session.parked.values())
        return bool(session.attempts or session.settling or awaited)

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
            mode=self.home_of("").mode,
        )

    async def repair(self) -> Report:
        """Mend the indexes now, and say what was mended.

        Raises:
            StoreUnavailable: Redis is away.
        """
        if self.reconciler is None:
            return Report(repaired={}, tasks=0, took_s=0.0, counted=True)
        return await self.reconciler.repair()

    async def ready(self) -> str | None:
        """Why calls should not be sent here; None when they may."""
        if self.draining:
            return "draining"
        outages = [name for name, health in self.health.items() if health.outage]
        return "store_unavailable" if outages else None

    async def _registered(self, session: Session) -> None:
        self.intents.greet()
        await self._roster.enter(session)

    async def _returned(self) -> None:
        self.recovery.hold_back()
        await self._share()

    async def _turned(self) -> None:
        for health in self.health.values():  # what failed, failed with the other store
            health.start_anew()
        if self._switch and not self._switch.diverted:
            self.sessions.let_look_again()
        await self._roster.save_all()

    def _reaches(self, task_id: str) -> bool:
        return self._switch is None or self._switch.reaches(task_id)

    def _applied(self, transition: Transition, entry_id: str, source: Source) -> None:
        self.fresh.queued(source, transition, entry_id)
        self.watch.applied(transition)
        if transition.due_ms is not None:
            self.timers.set(transition.due_ms)

    async def _learn(self) -> None:
        """Take in the definitions that others, or this dispatcher before, have stored."""
        for definition in (await self.store.pipelines()).values():
            self.catalog.add(decode(definition))

    def _limit_ms_of(self, record: TaskRecord) -> int:
        """Limit of the attempt that a record's lease began, never beyond the task's deadline."""
        pipeline = self.catalog.by_key(record.pipeline)
        limit_ms = max(record.timeout_ms, 0) or (
            (pipeline and pipeline.step(record.step).timeout_ms) or self.options.timeout_ms
        )
        if not record.deadline_ms:
            return limit_ms
        return max(1, min(limit_ms, record.deadline_ms - record.leased_ms))
