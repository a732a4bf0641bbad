"""The store on Redis 7.0 or Valkey 7.2 and later: the parts joined into one Store.

Theory of operation. A task's record is the truth; lanes, sets and counts are indexes beside it.
All change of tasks goes through commit.lua, one round trip for many tasks. Four kinds of
connections are kept apart, so that none waits for another: commits, the rest, the one blocking
reader, and listeners.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, TypeVar

import structlog
from redis import exceptions as redis_errors

from stepstream.errors import StepstreamError
from stepstream_dispatcher.core.reconcile import Mend, Tally
from stepstream_dispatcher.core.record import Event, TaskRecord, Transition
from stepstream_dispatcher.store.keys import Keys
from stepstream_dispatcher.store.port import (
    CommitKind,
    Durability,
    Entry,
    Imported,
    IndexPage,
    Intents,
    Journaled,
    Page,
    Result,
    Signal,
    StoreUnreachable,
    Survey,
    SurveyMode,
)
from stepstream_dispatcher.store.redis_checks import (
    check_server,
    read_durability,
    read_faults,
    read_mirrored,
)
from stepstream_dispatcher.store.redis_commit import RedisCommits
from stepstream_dispatcher.store.redis_import import RedisImport
from stepstream_dispatcher.store.redis_lanes import RedisLanes
from stepstream_dispatcher.store.redis_link import Link, StoreClock
from stepstream_dispatcher.store.redis_ping import ping_afresh
from stepstream_dispatcher.store.redis_reads import RedisReads
from stepstream_dispatcher.store.redis_registry import RedisRegistry
from stepstream_dispatcher.store.redis_repair import RedisRepairs
from stepstream_dispatcher.store.redis_scripts import (
    DROP_TIMERS,
    SETTLE,
    SUBMIT,
    TRIM,
    keep,
    preload,
)
from stepstream_dispatcher.store.redis_signals import RedisSignals

__all__ = ["RedisStore"]

COMMIT_CONNECTIONS_MAX: Final = 4  # Redis carries out one script at a time; more only queue there
OTHER_CONNECTIONS_MAX: Final = 8
TRIM_TASKS_MAX: Final = 500  # a call of trim.lua; bounds how long it holds Redis
TIMERS_MAX: Final = 500  # a call of drop_timers.lua, likewise

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class RedisStore:
    """Everything that is kept outside the process, in Redis.

    Args:
        url: redis://, rediss:// or unix://.
        dispatcher_id: This process: the consumer of the lanes, and who beats and publishes.
        prefix: Stands before every key.
        partition: Number of the partition, see Keys.
        allow_eviction: Use the server even if it may silently drop tasks when it is full.
        monotonic: Clock of this host, seconds that only grow.
    """

    def __init__(
        self,
        url: str,
        *,
        dispatcher_id: str,
        prefix: str = "",
        partition: int = 0,
        allow_eviction: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.keys: Final = Keys(prefix, partition=partition)
        self.warnings: list[str] = []  # what `open` could not check, in words
        self._allow_eviction = allow_eviction
        self._clock = StoreClock(monotonic)
        name = f"stepstream-{dispatcher_id}"
        self._committing = Link(url, connections_max=COMMIT_CONNECTIONS_MAX, name=f"{name}-commit")
        self._link = Link(url, connections_max=OTHER_CONNECTIONS_MAX, name=name)
        self._commits = RedisCommits(
            self._committing, self.keys, self._clock, dispatcher_id=dispatcher_id
        )
        self._registry = RedisRegistry(
            self._link, self.keys, self._clock, dispatcher_id=dispatcher_id
        )
        self._reads = RedisReads(self._link, self.keys)
        self._imports = RedisImport(self._link, self.keys, dispatcher_id=dispatcher_id)
        self._lanes = RedisLanes(self._link, self.keys, consumer=dispatcher_id)
        self._signals = RedisSignals(self._link, self.keys, dispatcher_id=dispatcher_id)
        self._repairs = RedisRepairs(self._link, self.keys, dispatcher_id=dispatcher_id)
        self._flights: asyncio.TaskGroup | None = None  # commits, while the store is open

    async def open(self) -> None:
        """See Store.open. What could not be checked is in `warnings`."""
        self.warnings = await check_server(self._link, allow_eviction=self._allow_eviction)
        for warning in self.warnings:
            _log.warning(warning)
        await self._registry.read_clock()
        self._commits.is_mirrored = await read_mirrored(self._link)
        await preload(self._committing, SUBMIT, SETTLE)
        self._flights = await asyncio.TaskGroup().__aenter__()

    async def close(self) -> None:
        """See Store.close. Commits in flight are waited for; they end within 5 s."""
        flights, self._flights = self._flights, None
        if flights is not None:
            await flights.__aexit__(None, None, None)
        await self._lanes.close()
        await self._committing.close()
        await self._link.close()

    async def ping(self) -> None:
        """Return when the store answers on a fresh connection.

        Raises:
            StoreUnreachable: Nobody listens, or the server says that it does not serve yet.
            StoreUnavailable: It is connected and does not answer in time: slow, not down.
        """
        await ping_afresh(self._link.make_connection())

    async def durability(self) -> Durability:
        """See Store.durability."""
        return await read_durability(self._link)

    async def faults(self) -> list[str]:
        """See Store.faults."""
        return [] if self._allow_eviction else await read_faults(self._link)

    def now_ms(self) -> int:
        """See Store.now_ms."""
        return self._clock.now_ms()

    async def commit(
        self, transitions: Sequence[Transition], *, kind: CommitKind, live_max: int = 0
    ) -> list[Result]:
        """See Store.commit."""
        return await self._in_flight(
            self._commits.commit(transitions, kind=kind, live_max=live_max)
        )

    async def _in_flight(self, work: Coroutine[Any, Any, T]) -> T:
        """Finish the work even if the caller is cancelled; `close` waits for it."""
        if self._flights is None:
            work.close()
            raise StoreUnreachable("the store is not open")
        landed: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._flights.create_task(_fly(work, landed))
        return await landed

    # --- reading ---------------------------------------------------------------------------------

    async def records(self, task_ids: Sequence[str]) -> list[TaskRecord | None]:
        """See Store.records."""
        return await self._reads.records(task_ids)

    async def data(self, task_ids: Sequence[str]) -> list[dict[str, bytes]]:
        """See Store.data."""
        return await self._reads.data(task_ids)

    async def load(
        self, task_ids: Sequence[str]
    ) -> list[tuple[TaskRecord | None, dict[str, bytes]]]:
        """See Store.load."""
        return await self._reads.load(task_ids)

    async def settled(self, task_id: str, step: str) -> str:
        """See Store.settled."""
        return await self._reads.settled(task_id, step)

    async def traces(self, task_ids: Sequence[str]) -> list[bytes]:
        """See Store.traces."""
        return await self._reads.traces(task_ids)

    async def labels(self, task_ids: Sequence[str]) -> list[bytes]:
        """See Store.labels."""
        return await self._reads.labels(task_ids)

    async def keep_pipelines(self, definitions: Mapping[str, bytes]) -> None:
        """See Store.keep_pipelines."""
        pairs = [part for pair in definitions.items() for part in pair]
        if pairs:
            key = self.keys.pipelines
            await keep(self._link, [key], ("HSET", key, *pairs))

    async def pipelines(self) -> dict[str, bytes]:
        """See Store.pipelines."""
        return await self._reads.pipelines()

    async def history(self, task_id: str, *, after: int) -> list[Event]:
        """See Store.history."""
        return await self._reads.history(task_id, after=after)

    async def index(self, *, cursor: str, count: int) -> IndexPage:
        """See Store.index."""
        return await self._reads.index(cursor=cursor, count=count)

    async def waiting(self, state: str, *, cursor: str, count: int) -> IndexPage:
        """See Store.waiting."""
        return await self._reads.waiting(state, cursor=cursor, count=count)

    async def counts(self) -> dict[str, int]:
        """See Store.counts."""
        return await self._reads.counts()

    async def ended_in(self, minute: int) -> int:
        """See Store.ended_in."""
        return await self._reads.ended_in(minute)

    async def oldest_ms(self, state: str) -> int | None:
        """See Store.oldest_ms."""
        return await self._reads.oldest_ms(state)

    async def due(self, *, limit: int) -> tuple[list[str], int | None]:
        """See Store.due."""
        return await self._reads.due(limit=limit)

    async def drop_timers(self, task_ids: Sequence[str]) -> int:
        """See Store.drop_timers."""
        dropped = 0
        for start in range(0, len(task_ids), TIMERS_MAX):
            part = task_ids[start : start + TIMERS_MAX]
            names = [self.keys.delayed, self.keys.count, *map(self.keys.record, part)]
            dropped += int(await DROP_TIMERS.run(self._link, names, part))
        return dropped

    # --- lanes -----------------------------------------------------------------------------------

    async def ensure_lanes(self, queues: Sequence[str]) -> None:
        """See Store.ensure_lanes."""
        await self._lanes.ensure(queues)

    async def read(self, queue: str, count: int) -> list[Entry]:
        """See Store.read."""
        return await self._lanes.read(queue, count)

    async def wait(self, queues: Sequence[str], *, count: int, timeout_s: float) -> list[Entry]:
        """See Store.wait."""
        return await self._lanes.wait(queues, count=count, timeout_s=timeout_s)

    async def wake(self) -> None:
        """See Store.wake."""
        await self._lanes.wake()

    async def pending(self, queue: str, *, consumer: str, after: str, count: int) -> list[Entry]:
        """See Store.pending."""
        return await self._lanes.pending(queue, consumer=consumer, after=after, count=count)

    async def discard(self, queue: str, entry_ids: Sequence[str]) -> None:
        """See Store.discard."""
        await self._lanes.discard(queue, entry_ids)

    # --- processes -------------------------------------------------------------------------------

    async def beat(self) -> None:
        """See Store.beat."""
        await self._registry.beat()
        self._commits.is_mirrored = await read_mirrored(self._link)

    async def dispatchers(self) -> dict[str, int]:
        """See Store.dispatchers."""
        return await self._registry.dispatchers()

    async def forget_dispatcher(self, dispatcher_id: str) -> None:
        """See Store.forget_dispatcher. Lanes are those that this process has ensured."""
        await self._registry.forget_dispatcher(dispatcher_id, lanes=self._lanes.lanes)

    async def save_worker(self, name: str, fields: Mapping[str, str | int]) -> None:
        """See Store.save_worker."""
        await self._registry.save_worker(name, fields)

    async def mark_left(self, names: Sequence[str]) -> None:
        """See Store.mark_left."""
        await self._registry.mark_left(names)

    async def workers(self) -> dict[str, dict[str, str]]:
        """See Store.workers."""
        return await self._registry.workers()

    async def pause(self, queue: str) -> None:
        """See Store.pause."""
        await self._registry.pause(queue)

    async def resume(self, queue: str) -> None:
        """See Store.resume."""
        await self._registry.resume(queue)

    async def dismiss(self, instance_id: str) -> None:
        """See Store.dismiss."""
        await self._registry.dismiss(instance_id)

    async def intents(self) -> Intents:
        """See Store.intents."""
        return await self._registry.intents()

    async def notify(self, dispatcher_id: str, payload: bytes) -> None:
        """See Store.notify."""
        await self._link.ask(("PUBLISH", self.keys.dispatcher(dispatcher_id), payload))

    def signals(self, *, events: bool) -> AsyncGenerator[Signal, None]:
        """See Store.signals."""
        return self._signals.listen(events=events)

    # --- housekeeping ----------------------------------------------------------------------------

    async def take_in(self, task: Journaled) -> Imported:
        """See ImportingStore.take_in."""
        return await self._imports.take_in(task)

    async def trim(self, *, results_max: int, limit: int) -> int:
        """See Store.trim."""
        limit = min(limit, TRIM_TASKS_MAX)
        ended = self.keys.ended
        expired, kept = await self._link.ask(
            ("ZRANGE", ended, "-inf", str(self.now_ms()), "BYSCORE", "LIMIT", "0", str(limit)),
            ("ZCARD", ended),
        )
        dropped = await self._drop("expired", expired)
        surplus = min(kept - dropped - results_max, limit - dropped)
        if surplus > 0:
            (oldest,) = await self._link.ask(("ZRANGE", ended, "0", str(surplus - 1)))
            dropped += await self._drop("surplus", oldest)
        return dropped

    # --- repairs ---------------------------------------------------------------------------------

    @property
    def lanes_made(self) -> int:
        """See RepairableStore.lanes_made."""
        return self._lanes.made

    def all_signals(self) -> AsyncGenerator[Signal, None]:
        """See RepairableStore.all_signals."""
        return self._signals.listen(events=True, own=True)

    async def tally(self, queues: Sequence[str], *, marker: bytes = b"") -> Tally:
        """See RepairableStore.tally."""
        return await self._repairs.tally(queues, marker=marker)

    async def claim_sweep(self, *, ttl_s: float) -> bool:
        """See RepairableStore.claim_sweep."""
        return await self._repairs.claim_sweep(ttl_s=ttl_s)

    async def enlist(self, dispatcher_ids: Sequence[str]) -> None:
        """See RepairableStore.enlist."""
        await self._registry.enlist(dispatcher_ids)

    async def sweep_is_due(self) -> bool:
        """See RepairableStore.sweep_is_due."""
        return await self._repairs.sweep_is_due()

    async def end_sweep(self, *, quiet_s: float) -> None:
        """See RepairableStore.end_sweep."""
        await self._repairs.end_sweep(quiet_s=quiet_s)

    async def hold_trims(self, *, ttl_s: float) -> None:
        """See RepairableStore.hold_trims."""
        await self._repairs.hold_trims(ttl_s=ttl_s)

    async def record_page(self, cursor: str, *, count: int) -> Page:
        """See RepairableStore.record_page."""
        return await self._repairs.record_page(cursor, count=count)

    async def member_page(self, place: str, cursor: str, *, count: int) -> Page:
        """See RepairableStore.member_page."""
        return await self._repairs.member_page(place, cursor, count=count)

    async def lane_page(
        self, queue: str, after: str, *, count: int, delivered: bool = True
    ) -> list[Entry]:
        """See RepairableStore.lane_page."""
        return await self._lanes.page(queue, after=after, count=count, delivered=delivered)

    async def survey(
        self, task_ids: Sequence[str], queues: Sequence[str], *, how: SurveyMode = "whole"
    ) -> Survey:
        """See RepairableStore.survey."""
        return await self._repairs.survey(task_ids, queues, how=how)

    async def mend(self, mends: Sequence[Mend]) -> tuple[int, list[Mend]]:
        """See RepairableStore.mend."""
        return await self._repairs.mend(mends)

    async def recount(self, corrections: Mapping[str, int]) -> bool:
        """See RepairableStore.recount."""
        return await self._repairs.recount(corrections)

    # --- trimming --------------------------------------------------------------------------------

    async def _drop(self, why: str, members: Sequence[bytes]) -> int:
        if not members:
            return 0
        keys, arguments = self.keys, [why]
        names = [keys.ended, keys.index, keys.count, keys.state("failed"), keys.recount]
        for member in members:
            state, _, task_id = member.decode().partition(" ")
            names += keys.of_task(task_id)
            arguments += (member.decode(), state, task_id)
        return int(await TRIM.run(self._link, names, arguments))


async def _fly(work: Coroutine[Any, Any, T], landed: asyncio.Future[T]) -> None:
    """Do the work for whoever waits for its landing, or for nobody any more."""
    try:
        result = await work
    except (StepstreamError, redis_errors.RedisError, OSError) as error:
        if not landed.done():
            landed.set_exception(error)
    else:
        if not landed.done():
            landed.set_result(result)
    finally:
        landed.cancel()  # changes nothing unless the work broke off
