"""One store out of two: Redis, and a journal on this host for what comes while Redis is down.

Theory of operation. A task is either in the journal or in Redis; while it is in the journal, the
journal is the truth about it, whatever Redis may say. New tasks go to the journal only while the
switch is *diverted*, which `fallback.py` decides by its probes, and only if they never reached a
socket. The journal keeps serving its tasks after Redis is back, until they are at rest and were
imported. Entries that Redis has for a task of the journal are not handed out; they stay pending,
and recovery looks at them again once the task has been imported. An import whose fate is unknown
may have happened: from then on the task is read from the journal and not changed there, until Redis
has told; a mark in the journal says so after a crash too.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

import msgspec

from stepstream.errors import StoreUnavailable
from stepstream_dispatcher.core.record import Event, Stage, TaskRecord, Transition
from stepstream_dispatcher.store.port import (
    JOURNAL_FIELD,
    CommitFailed,
    CommitKind,
    CommitPartly,
    Durability,
    Entry,
    Imported,
    ImportingStore,
    IndexPage,
    Intents,
    Journal,
    Result,
    Signal,
    Store,
    StoreUnreachable,
    Verdict,
)

__all__ = ["SwitchStore"]

VERDICT_S: Final = 2.0  # a call that could not reach Redis waits this long for the probes

T = TypeVar("T")

_AWAY: Final = "redis is away; only tasks that were accepted since are served"


class SwitchStore:
    """Serves each task from where it is.

    Args:
        remote: Redis.
        journal: The journal; its clock should be that of `remote`.
        running_max: Tasks of the journal that are not at rest; more are FULL.
    """

    def __init__(self, remote: ImportingStore, journal: Journal, *, running_max: int) -> None:
        self._remote = remote
        self._journal = journal
        self._running_max = running_max
        self.diverted = False
        self._remote_open = False
        self._journal_open = False
        self.doubted = asyncio.Event()  # a call could not reach Redis: probe now
        self.rested = asyncio.Event()  # the journal may have tasks to import
        self._told = asyncio.Event()  # the probes know: it is down, or it is not
        self._joined = asyncio.Event()  # set while not
        self._joined.set()
        self._at_rest: dict[str, bool] = {}  # the tasks of the journal
        self._committing: Counter[str] = Counter()  # calls that write a task of the journal
        self._departed: set[str] = set()  # tasks that are, or may have been, imported
        self._waits: set[asyncio.Timeout] = set()  # blocks of readers, which a turn ends

    def __contains__(self, task_id: object) -> bool:
        """Whether a task is in the journal."""
        return task_id in self._at_rest

    @property
    def journaled(self) -> int:
        """How many tasks are in the journal."""
        return len(self._at_rest)

    @property
    def running(self) -> int:
        """Tasks of the journal that are not at rest."""
        return sum(not rests for rests in self._at_rest.values())

    def reaches(self, task_id: str) -> bool:
        """Whether a task can be read and changed now, as far as is known."""
        return not self.diverted or task_id in self._at_rest

    # --- turning ---------------------------------------------------------------------------------

    def divert(self) -> None:
        """New tasks go to the journal from now on."""
        self.diverted = True
        self._joined.clear()
        self._told.set()
        while self._waits:
            self._waits.pop().reschedule(0)

    def rejoin(self) -> None:
        """New tasks go to Redis again, and those of the journal follow."""
        self.diverted = False
        self._joined.set()
        self.rested.set()

    def vouch(self) -> None:
        """Redis has answered a probe; that says nothing about a doubt that is younger."""
        if not self.doubted.is_set():
            self._told.set()

    def resting(self) -> list[str]:
        """The tasks of the journal that can be imported, oldest first."""
        return [task_id for task_id, rests in self._at_rest.items() if rests]

    async def bring_home(self, task_id: str) -> Imported | None:
        """Import one task; None if it is being changed, or gone.

        Raises:
            StoreUnavailable: Redis is away; the task stays in the journal.
            InternalError: Redis could not take it in; the task stays in the journal.
        """
        if self._committing[task_id] or not self._at_rest.get(task_id):
            return None
        known = task_id in self._departed
        self._departed.add(task_id)
        try:
            word = await self._move(task_id)
        except StoreUnavailable as error:
            if isinstance(error, StoreUnreachable) and not known:
                self._departed.discard(task_id)
            raise
        del self._at_rest[task_id]
        self._departed.discard(task_id)
        await self._journal.drop(task_id)
        return word

    async def _move(self, task_id: str) -> Imported | None:
        task = await self._journal.journaled(task_id)
        if task is None:
            return None
        await self._journal.depart(task_id)
        return await self._remote.take_in(task)

    async def _hears_down(self) -> bool:
        """Whether Redis is down; the probes may still be about to find out."""
        if not self.diverted:
            self._told.clear()
            self.doubted.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(VERDICT_S):
                    await self._told.wait()
        return self.diverted

    async def _ask(self, ask: Callable[[], Awaitable[T]], instead: Callable[[], Awaitable[T]]) -> T:
        """Ask Redis; the journal while diverted."""
        if not self.diverted:
            try:
                return await ask()
            except StoreUnreachable:
                if not await self._hears_down():
                    raise
        return await instead()

    # --- opening ---------------------------------------------------------------------------------

    async def open(self) -> None:
        """See Store.open. Redis may be down: then the switch begins diverted."""
        if not self._journal_open:
            await self._journal.open()
            self._journal_open = True
        for task_id in await self._journal.journaled_ids():
            task = await self._journal.journaled(task_id)
            if task is not None:
                self._at_rest[task_id] = _rests(task.fields)
        self._departed.update(await self._journal.departed())
        self.rested.set()
        try:
            await self.open_remote()
        except StoreUnreachable:
            self.divert()

    async def open_remote(self) -> None:
        """Open Redis, if nobody has yet.

        Raises:
            StoreUnreachable: It is down.
        """
        if not self._remote_open:
            await self._remote.open()
            self._remote_open = True

    async def close(self) -> None:
        """See Store.close."""
        await self._remote.close()
        await self._journal.close()

    async def ping(self) -> None:
        """See Store.ping."""
        await self._remote.ping()

    async def durability(self) -> Durability:
        """See Store.durability."""
        return await self._ask(self._remote.durability, self._journal.durability)

    def now_ms(self) -> int:
        """See Store.now_ms."""
        return self._remote.now_ms()

    # --- committing ------------------------------------------------------------------------------

    async def commit(
        self, transitions: Sequence[Transition], *, kind: CommitKind, live_max: int = 0
    ) -> list[Result]:
        """See Store.commit. Each transition goes where its task is."""
        if not self._at_rest and not self.diverted:
            return await self._commit_away(transitions, kind, live_max)
        here = [at for at, one in enumerate(transitions) if one.task_id in self._at_rest]
        there = [at for at, one in enumerate(transitions) if one.task_id not in self._at_rest]
        results: list[Result | None] = [None] * len(transitions)
        if here:
            known = [transitions[at] for at in here]
            _fill(results, here, await self._write(known, kind, live_max))
        if there:
            try:
                answers = await self._commit_away([transitions[at] for at in there], kind, live_max)
            except CommitFailed as failed:
                _fill(results, there, failed.results)
                raise CommitFailed(failed.message, results) from failed
            except StoreUnavailable as error:
                partial = error.results if isinstance(error, CommitPartly) else ()
                _fill(results, there[: len(partial)], partial)
                raise CommitPartly(error.message, results) from error
            _fill(results, there, answers)
        return _whole(results)

    async def _commit_away(
        self, transitions: Sequence[Transition], kind: CommitKind, live_max: int
    ) -> list[Result]:
        if not self.diverted:
            try:
                return await self._remote.commit(transitions, kind=kind, live_max=live_max)
            except StoreUnreachable:
                if kind == "settle" or not await self._hears_down():
                    self.doubted.set()
                    raise
        if kind == "settle":
            raise StoreUnreachable(_AWAY)
        return await self._divert(transitions, live_max)

    async def _divert(self, transitions: Sequence[Transition], live_max: int) -> list[Result]:
        """Create tasks in the journal, as many as may run at once."""
        results: list[Result | None] = [None] * len(transitions)
        room = max(0, self._running_max - self.running)
        willing = [at for at, one in enumerate(transitions) if not one.durable]
        taken, surplus = willing[:room], willing[room:]
        _fill(results, surplus, [Result(Verdict.FULL)] * len(surplus))
        if taken:
            marked = [_marked(transitions[at]) for at in taken]
            _fill(results, taken, await self._write(marked, "submit", live_max))
        if None in results:
            raise CommitPartly("redis is away, and durability is required", results)
        return _whole(results)

    async def _write(
        self, transitions: Sequence[Transition], kind: CommitKind, live_max: int
    ) -> list[Result | None]:
        """Commit to the journal, except what is being imported."""
        results: list[Result | None] = [None] * len(transitions)
        staying = [at for at, one in enumerate(transitions) if one.task_id not in self._departed]
        if staying:
            written = [transitions[at] for at in staying]
            _fill(results, staying, await self._write_all(written, kind, live_max))
        return results

    async def _write_all(
        self, transitions: Sequence[Transition], kind: CommitKind, live_max: int
    ) -> list[Result]:
        task_ids = [one.task_id for one in transitions]
        new = {task_id for task_id in task_ids if task_id not in self._at_rest}
        self._at_rest.update(dict.fromkeys(new, False))  # nobody asks Redis about them now
        self._committing.update(task_ids)
        try:
            results = await self._journal.commit(transitions, kind=kind, live_max=live_max)
        except StoreUnavailable:
            for task_id in new:
                del self._at_rest[task_id]
            raise
        finally:
            self._committing -= Counter(task_ids)
        for transition, result in zip(transitions, results, strict=True):
            if result.verdict is not Verdict.FULL:
                self._note(transition, result)
            elif transition.task_id in new:
                del self._at_rest[transition.task_id]
        return results

    def _note(self, transition: Transition, result: Result) -> None:
        task_id = transition.task_id
        if result.verdict is Verdict.APPLIED and "stage" in transition.fields:
            rests = _rests(transition.fields | {"state": transition.event.state})
            self._at_rest[task_id] = rests
            if rests:
                self.rested.set()

    # --- reading tasks ---------------------------------------------------------------------------

    async def _read(
        self, task_ids: Sequence[str], read: Callable[[Store, list[str]], Awaitable[list[T]]]
    ) -> list[T]:
        """Read each task where it is, in order."""
        here = [task_id for task_id in task_ids if task_id in self._at_rest]
        there = [task_id for task_id in task_ids if task_id not in self._at_rest]
        found: dict[str, T] = {}
        if here:
            found.update(zip(here, await read(self._journal, here), strict=True))
            there += [task_id for task_id in here if task_id not in self._at_rest]  # left meanwhile
        if there:
            self._refuse_diverted()
            found.update(zip(there, await read(self._remote, there), strict=True))
        return [found[task_id] for task_id in task_ids]

    async def _read_one(self, task_id: str, read: Callable[[Store], Awaitable[T]]) -> T:
        if task_id in self._at_rest:
            found = await read(self._journal)
            if task_id in self._at_rest:  # else it may have left before it was read
                return found
        self._refuse_diverted()
        return await read(self._remote)

    def _refuse_diverted(self) -> None:
        if self.diverted:
            raise StoreUnreachable(_AWAY)

    async def records(self, task_ids: Sequence[str]) -> list[TaskRecord | None]:
        """See Store.records."""
        return await self._read(task_ids, lambda store, ids: store.records(ids))

    async def data(self, task_ids: Sequence[str]) -> list[dict[str, bytes]]:
        """See Store.data."""
        return await self._read(task_ids, lambda store, ids: store.data(ids))

    async def load(
        self, task_ids: Sequence[str]
    ) -> list[tuple[TaskRecord | None, dict[str, bytes]]]:
        """See Store.load."""
        return await self._read(task_ids, lambda store, ids: store.load(ids))

    async def traces(self, task_ids: Sequence[str]) -> list[bytes]:
        """See Store.traces."""
        return await self._read(task_ids, lambda store, ids: store.traces(ids))

    async def labels(self, task_ids: Sequence[str]) -> list[bytes]:
        """See Store.labels."""
        return await self._read(task_ids, lambda store, ids: store.labels(ids))

    async def settled(self, task_id: str, step: str) -> str:
        """See Store.settled."""
        return await self._read_one(task_id, lambda store: store.settled(task_id, step))

    async def history(self, task_id: str, *, after: int) -> list[Event]:
        """See Store.history."""
        return await self._read_one(task_id, lambda store: store.history(task_id, after=after))

    async def index(self, *, cursor: str, count: int) -> IndexPage:
        """See Store.index. A list of the journal alone would look like all there is."""
        self._refuse_diverted()
        return await self._remote.index(cursor=cursor, count=count)

    async def waiting(self, state: str, *, cursor: str, count: int) -> IndexPage:
        """See Store.waiting."""
        self._refuse_diverted()
        return await self._remote.waiting(state, cursor=cursor, count=count)

    async def counts(self) -> dict[str, int]:
        """See Store.counts. While diverted those of the journal."""
        return await self._ask(self._remote.counts, self._journal.counts)

    async def ended_in(self, minute: int) -> int:
        """See Store.ended_in. While diverted those of the journal."""
        return await self._ask(
            lambda: self._remote.ended_in(minute), lambda: self._journal.ended_in(minute)
        )

    async def oldest_ms(self, state: str) -> int | None:
        """See Store.oldest_ms. While diverted that of the journal."""
        return await self._ask(
            lambda: self._remote.oldest_ms(state), lambda: self._journal.oldest_ms(state)
        )

    async def keep_pipelines(self, definitions: Mapping[str, bytes]) -> None:
        """See Store.keep_pipelines. Both keep them."""
        await self._journal.keep_pipelines(definitions)
        if not self.diverted:
            await self._remote.keep_pipelines(definitions)

    async def pipelines(self) -> dict[str, bytes]:
        """See Store.pipelines."""
        here = await self._journal.pipelines()
        return here | await self._ask(self._remote.pipelines, self._journal.pipelines)

    # --- lanes -----------------------------------------------------------------------------------

    async def ensure_lanes(self, queues: Sequence[str]) -> None:
        """See Store.ensure_lanes."""
        if not self.diverted:
            await self._remote.ensure_lanes(queues)

    async def read(self, queue: str, count: int) -> list[Entry]:
        """See Store.read. The journal's come first: somebody waits for them."""
        entries = await self._journal.read(queue, count) if self._at_rest else []
        if len(entries) < count:
            room = count - len(entries)
            entries += self._handed_out(
                await self._ask(lambda: self._remote.read(queue, room), _nothing)
            )
        return entries

    async def wait(self, queues: Sequence[str], *, timeout_s: float) -> list[Entry]:
        """See Store.wait. May answer with an entry of each."""
        if self.diverted:
            return await self._journal.wait(queues, timeout_s=timeout_s)
        if self._at_rest:
            return await self._wait_for_both(queues, timeout_s)
        return self._handed_out(
            await self._ask(lambda: self._wait_remotely(queues, timeout_s), _nothing)
        )

    async def _wait_remotely(self, queues: Sequence[str], timeout_s: float) -> list[Entry]:
        """Wait at Redis, until it is down; one that vanished would hold the reader for seconds."""
        try:
            async with asyncio.timeout(None) as turn:
                self._waits.add(turn)
                try:
                    return await self._remote.wait(queues, timeout_s=timeout_s)
                finally:
                    self._waits.discard(turn)
        except TimeoutError:
            return []
        except StoreUnavailable:
            if not await self._hears_down():
                raise
            return []

    async def _wait_for_both(self, queues: Sequence[str], timeout_s: float) -> list[Entry]:
        found: list[Entry] = []

        async def wait_here() -> None:
            found.extend(await self._journal.wait(queues, timeout_s=timeout_s))
            await self._remote.wake()

        async def wait_there() -> None:
            entries = await self._ask(lambda: self._wait_remotely(queues, timeout_s), _nothing)
            found.extend(self._handed_out(entries))
            await self._journal.wake()

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(wait_here())
                group.create_task(wait_there())
        except* StoreUnavailable:
            if not found:
                raise
        return found

    def _handed_out(self, entries: Sequence[Entry]) -> list[Entry]:
        """Without those that Redis has for tasks of the journal."""
        return [
            entry
            for entry in entries
            if entry.task_id not in self._at_rest or self._journal.is_own_entry(entry.entry_id)
        ]

    async def wake(self) -> None:
        """See Store.wake."""
        await self._journal.wake()
        await self._ask(self._remote.wake, _idle)

    async def pending(self, queue: str, *, consumer: str, after: str, count: int) -> list[Entry]:
        """See Store.pending. The journal's come first."""
        page: list[Entry] = []
        if not after or self._journal.is_own_entry(after):
            page = await self._journal.pending(queue, consumer=consumer, after=after, count=count)
            after = ""
        if len(page) < count:
            room = count - len(page)
            page += self._handed_out(
                await self._ask(
                    lambda: self._remote.pending(queue, consumer=consumer, after=after, count=room),
                    _nothing,
                )
            )
        return page

    async def discard(self, queue: str, entry_ids: Sequence[str]) -> None:
        """See Store.discard. What Redis has stays pending while diverted, for recovery to find."""
        here = [entry_id for entry_id in entry_ids if self._journal.is_own_entry(entry_id)]
        there = [entry_id for entry_id in entry_ids if not self._journal.is_own_entry(entry_id)]
        if here:
            await self._journal.discard(queue, here)
        if there:
            await self._ask(lambda: self._remote.discard(queue, there), _idle)

    # --- time ------------------------------------------------------------------------------------

    async def due(self, *, limit: int) -> tuple[list[str], int | None]:
        """See Store.due."""
        here, next_here = await self._journal.due(limit=limit) if self._at_rest else ([], None)
        there, next_there = await self._ask(lambda: self._remote.due(limit=limit), _nothing_due)
        later = [at_ms for at_ms in (next_here, next_there) if at_ms is not None]
        elsewhere = [task_id for task_id in there if task_id not in self._at_rest]
        return [*here, *elsewhere], min(later, default=None)

    async def drop_timers(self, task_ids: Sequence[str]) -> int:
        """See Store.drop_timers. While diverted only those of the journal."""
        here = [task_id for task_id in task_ids if task_id in self._at_rest]
        there = [task_id for task_id in task_ids if task_id not in self._at_rest]
        dropped = await self._journal.drop_timers(here) if here else 0
        if there and not self.diverted:
            dropped += await self._remote.drop_timers(there)
        return dropped

    # --- processes -------------------------------------------------------------------------------

    async def beat(self) -> None:
        """See Store.beat."""
        await self._ask(self._remote.beat, _idle)

    async def dispatchers(self) -> dict[str, int]:
        """See Store.dispatchers. Nobody is known while diverted."""
        return await self._ask(self._remote.dispatchers, _nobody)

    async def forget_dispatcher(self, dispatcher_id: str) -> None:
        """See Store.forget_dispatcher."""
        self._refuse_diverted()
        await self._remote.forget_dispatcher(dispatcher_id)

    async def save_worker(self, name: str, fields: Mapping[str, str | int]) -> None:
        """See Store.save_worker."""
        await self._ask(
            lambda: self._remote.save_worker(name, fields),
            lambda: self._journal.save_worker(name, fields),
        )

    async def workers(self) -> dict[str, dict[str, str]]:
        """See Store.workers. While diverted those of this dispatcher."""
        return await self._ask(self._remote.workers, self._journal.workers)

    async def pause(self, queue: str) -> None:
        """See Store.pause."""
        self._refuse_diverted()
        await self._remote.pause(queue)

    async def resume(self, queue: str) -> None:
        """See Store.resume."""
        self._refuse_diverted()
        await self._remote.resume(queue)

    async def dismiss(self, instance_id: str) -> None:
        """See Store.dismiss."""
        self._refuse_diverted()
        await self._remote.dismiss(instance_id)

    async def forget_dismissal(self, instance_id: str) -> None:
        """See Store.forget_dismissal."""
        self._refuse_diverted()
        await self._remote.forget_dismissal(instance_id)

    async def intents(self) -> Intents:
        """See Store.intents. What was known before Redis went down is for the reader to keep."""
        self._refuse_diverted()
        return await self._remote.intents()

    async def notify(self, dispatcher_id: str, payload: bytes) -> None:
        """See Store.notify."""
        await self._ask(lambda: self._remote.notify(dispatcher_id, payload), _idle)

    async def signals(self, *, events: bool) -> AsyncGenerator[Signal, None]:
        """See Store.signals. Nobody else speaks while Redis is down."""
        while True:
            await self._joined.wait()
            try:
                async with contextlib.aclosing(self._remote.signals(events=events)) as signals:
                    async for signal in signals:
                        yield signal
            except StoreUnavailable:
                if not await self._hears_down():
                    raise

    # --- housekeeping ----------------------------------------------------------------------------

    async def trim(self, *, results_max: int, limit: int) -> int:
        """See Store.trim."""

        async def ask() -> int:
            return await self._remote.trim(results_max=results_max, limit=limit)

        return await self._ask(ask, _zero)


def _marked(transition: Transition) -> Transition:
    """A creation that says that it was made in the journal: an import is known by that."""
    fields = transition.fields | {JOURNAL_FIELD: transition.op_id}
    return msgspec.structs.replace(transition, fields=fields)


def _rests(fields: Mapping[str, str | int | float]) -> bool:
    """Whether nothing will happen to a task until a person or a clock says so."""
    stage = fields.get("stage")
    return stage in (Stage.ENDED, Stage.WAITING) or fields.get("state") == "scheduled"


def _fill(
    results: list[Result | None], places: Sequence[int], answers: Sequence[Result | None]
) -> None:
    for at, answer in zip(places, answers, strict=True):
        results[at] = answer


def _whole(results: Sequence[Result | None]) -> list[Result]:
    """All results, where there are all.

    Raises:
        CommitPartly: Some were left out because their task is being imported.
    """
    if None in results:
        raise CommitPartly("the task is on its way to redis", results)
    return [result for result in results if result is not None]


async def _nothing() -> list[Entry]:
    return []


async def _nothing_due() -> tuple[list[str], int | None]:
    return [], None


async def _nobody() -> dict[str, int]:
    return {}


async def _idle() -> None:
    return


async def _zero() -> int:
    return 0
