"""One dispatcher engine on a store in memory that fails when told to, with hand-made workers."""

import asyncio
import functools
import inspect
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import msgspec

from stepstream.errors import StoreBusy, StoreUnavailable
from stepstream.session import PROTOCOL_VERSION
from stepstream_dispatcher.core.admission import Submission
from stepstream_dispatcher.core.facts import Fact
from stepstream_dispatcher.core.record import Event, EventType, TaskRecord, Transition
from stepstream_dispatcher.engine.engine import Engine, EngineOptions
from stepstream_dispatcher.engine.reception import Opened
from stepstream_dispatcher.engine.sessions import Handout, Hello, Inventory, ReceiptWord, Session
from stepstream_dispatcher.engine.settling import Settlement
from stepstream_dispatcher.engine.supervise import supervise
from stepstream_dispatcher.engine.traces import SpanSink
from stepstream_dispatcher.store.local import LocalStore
from stepstream_dispatcher.store.local_database import LocalDatabase
from stepstream_dispatcher.store.port import (
    CommitFailed,
    CommitKind,
    Entry,
    Result,
    Signal,
    Store,
    StoreUnreachable,
)
from tests.support.records import NOW_MS, TRANSLATION
from tests.support.virtual_time import in_virtual_time

__all__ = [
    "Dispatcher",
    "FaultyStore",
    "Trouble",
    "brought",
    "database",
    "hello",
    "make_dangerous",
    "settlement",
    "with_dispatcher",
]

Trouble = Literal["unreachable", "answer lost", "sent twice"]
WAIT_S = 60.0  # virtual: longer than every limit of the engine


_databases: list[LocalDatabase] = []


def database() -> LocalDatabase:
    """A store in memory whose clock is the loop's."""
    made = LocalDatabase(
        now_ms=lambda: NOW_MS + round(asyncio.get_running_loop().time() * 1000),
        outlives_stores=True,
    )
    _databases.append(made)
    return made


def close_databases() -> None:
    """Close what `database` has made; after each test."""
    while _databases:
        _databases.pop().close()


class FaultyStore(LocalStore):
    """A store in memory that keeps what it was sent, and fails when told to."""

    def __init__(self, shared: LocalDatabase, *, dispatcher_id: str) -> None:
        super().__init__(shared, dispatcher_id=dispatcher_id)
        self.commits: list[Sequence[Transition]] = []
        self.loaded: list[str] = []  # tasks that were read whole
        self.troubles: deque[Trouble] = deque()  # of the commits to come
        self.broken: set[str] = set()  # tasks of which it can carry out no transition
        self.down = False
        self.busy = False  # it answers, and has no room for a call
        self.workers_fail = False  # what is known about workers cannot be written
        self.slow = asyncio.Event()  # commits wait while it is clear
        self.slow.set()
        self.heard: asyncio.Queue[Signal] = asyncio.Queue()

    async def commit(
        self, transitions: Sequence[Transition], *, kind: CommitKind, live_max: int = 0
    ) -> list[Result]:
        self.commits.append(transitions)
        await self.slow.wait()
        trouble = self.troubles.popleft() if self.troubles else ""
        if trouble == "unreachable":
            raise StoreUnreachable("nothing was sent")
        self._check()
        whole = [one for one in transitions if one.task_id not in self.broken]
        results = await super().commit(whole, kind=kind, live_max=live_max)
        if trouble == "answer lost":
            raise StoreUnavailable("the answer was lost")
        if trouble == "sent twice":
            results = await super().commit(transitions, kind=kind, live_max=live_max)
        if len(whole) < len(transitions):
            answers = dict(zip((one.task_id for one in whole), results, strict=True))
            beside = [answers.get(one.task_id) for one in transitions]
            raise CommitFailed("a script error", beside)
        return results

    def _check(self) -> None:
        if self.down:
            raise StoreUnavailable("it is down")
        if self.busy:
            raise StoreBusy("no connection became free")

    async def load(
        self, task_ids: Sequence[str]
    ) -> list[tuple[TaskRecord | None, dict[str, bytes]]]:
        self.loaded.extend(task_ids)
        return await super().load(task_ids)

    async def records(self, task_ids: Sequence[str]) -> list[TaskRecord | None]:
        self._check()
        await asyncio.sleep(0)
        return await super().records(task_ids)

    async def traces(self, task_ids: Sequence[str]) -> list[bytes]:
        self._check()
        return await super().traces(task_ids)

    async def read(self, queue: str, count: int) -> list[Entry]:
        self._check()
        await asyncio.sleep(0)  # a real store takes its time: others run in between
        return await super().read(queue, count)

    async def discard(self, queue: str, entry_ids: Sequence[str]) -> None:
        self._check()
        await super().discard(queue, entry_ids)

    async def dispatchers(self) -> dict[str, int]:
        self._check()
        return await super().dispatchers()

    async def save_worker(self, name: str, fields: Mapping[str, str | int]) -> None:
        await asyncio.sleep(0)
        if self.workers_fail:
            raise StoreUnavailable("nothing is known about workers")
        await super().save_worker(name, fields)

    async def mark_left(self, names: Sequence[str]) -> None:
        await asyncio.sleep(0)
        await super().mark_left(names)

    async def workers(self) -> dict[str, dict[str, str]]:
        await asyncio.sleep(0)
        return await super().workers()

    async def beat(self) -> None:
        self._check()
        await super().beat()

    def signals(self, *, events: bool) -> AsyncGenerator[Signal, None]:
        return self._hear()

    async def _hear(self) -> AsyncGenerator[Signal, None]:
        while True:
            yield await self.heard.get()


def hello(name: str = "worker-1", *, slots: int = 2, **changes: Any) -> Hello:
    """A worker that serves all steps of the translation pipeline."""
    word = Hello(
        worker_name=name,
        instance_id=f"{name}-instance",
        sdk="test",
        queues=frozenset({"default", "checks"}),
        step_types=frozenset({"translate", "verify"}),
        max_in_flight=slots,
        max_message_bytes=1 << 20,
    )
    return msgspec.structs.replace(word, **changes)


class Dispatcher:
    """An engine, the loops of it that a test wants to run, and what a test does to it.

    Args:
        loops: Names of the parts whose `run` runs while the block lasts.
        supervised: Whether a loop that fails is run again, as in the product.
        spans: Where spans go.
    """

    def __init__(
        self,
        shared: LocalDatabase,
        *loops: str,
        dispatcher_id: str = "dispatcher-1",
        supervised: bool = False,
        live_max: int = 0,
        spans: SpanSink | None = None,
    ) -> None:
        self.store = FaultyStore(shared, dispatcher_id=dispatcher_id)
        self.engine = Engine(
            store=self._engine_store(),
            pipelines=[TRANSLATION],
            options=EngineOptions(
                dispatcher_id=dispatcher_id,
                namespace="test",
                timeout_ms=300_000,
                heartbeat_interval_s=5.0,
                silence_limit_s=15.0,
                retain_s=3600,
                results_max=1000,
                live_max=live_max,
                payload_bytes_max=1 << 20,
            ),
            spans=spans,
        )
        self._loops = loops
        self._supervised = supervised
        self._group = asyncio.TaskGroup()
        self._tasks: list[asyncio.Task[None]] = []

    def _engine_store(self) -> Store:
        """What the engine works on."""
        return self.store

    async def __aenter__(self) -> Self:
        await self.engine.open()
        await self._group.__aenter__()
        for name in self._loops:
            part = getattr(self.engine, name)
            self.run(part.listen if name == "watch" else part.run)
        return self

    def run(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run one more loop while the block lasts."""
        body = supervise("loop", run) if self._supervised else run()
        self._tasks.append(self._group.create_task(body))

    def stop_loops(self) -> None:
        """End every loop, as a dispatcher that is gone."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        if isinstance(error, asyncio.CancelledError):  # a loop has failed
            await self._group.__aexit__(kind, error, trace)
        else:
            await self._group.__aexit__(None, None, None)
        await self.engine.store.close()

    async def submit(self, text: bytes = b"text", **options: object) -> str:
        """Accept a task; returns its id."""
        submission = Submission(pipeline="translation", input=text)
        accepted = await self.engine.desk.submit(msgspec.structs.replace(submission, **options))
        return accepted.task_id

    async def record(self, task_id: str) -> TaskRecord:
        """The task's record, whatever trouble the store is in."""
        (record,) = await LocalStore.records(self.store, [task_id])
        assert record is not None
        return record

    async def spoil(self, task_id: str) -> None:
        """Write into a task's record what is none, as another program may."""
        statement = "UPDATE tasks SET fields = json_set(fields, '$.stage', '?') WHERE task_id = ?"
        await self.store._database.run(lambda sqlite: sqlite.execute(statement, (task_id,)))

    async def history(self, task_id: str) -> list[Event]:
        """All events of a task."""
        return await self.store.history(task_id, after=0)

    async def pending(self, queue: str = "default", *, consumer: str = "dispatcher-1") -> list[str]:
        """Task ids of the entries that a dispatcher has taken."""
        found = await self.store.pending(queue, consumer=consumer, after="", count=1000)
        return [entry.task_id for entry in found]

    async def connect(
        self, name: str = "worker-1", *, slots: int = 2, **changes: object
    ) -> Session:
        """Register a worker."""
        return (await self.register(name, slots=slots, **changes)).session

    async def register(self, name: str = "worker-1", **changes: Any) -> Opened:
        """Register a worker; returns the answer too."""
        return await self.engine.reception.open(
            hello(name, **changes), protocol_version=PROTOCOL_VERSION
        )

    async def handed_out(self, session: Session, count: int = 1) -> list[Handout]:
        """Wait for assignments, and take them as the stream's writer does."""
        outbox = session.outbox
        async with asyncio.timeout(WAIT_S):
            while len(outbox.handouts) < count:
                await outbox.filled()
        session.batches += 1
        taken = outbox.take_handouts()
        outbox.written()
        for handout in taken:
            handout.attempt.batch = session.batches
        return taken

    async def receipts(self, session: Session, count: int = 1) -> list[ReceiptWord]:
        """Wait for receipts, and take them."""
        outbox = session.outbox
        async with asyncio.timeout(WAIT_S):
            while len(outbox.receipts) < count:
                await outbox.filled()
        taken, outbox.receipts = outbox.receipts, []
        return taken

    async def report(self, session: Session, handout: Handout, fact: Fact) -> str:
        """Report how an attempt ended; returns the word of its receipt."""
        self.engine.settling.receive(session, [settlement(handout, fact)])
        (receipt,) = await self.receipts(session)
        return receipt.status


def settlement(handout: Handout, fact: Fact, **changes: object) -> Settlement:
    """What a worker reports of an assignment."""
    attempt = handout.attempt
    said = Settlement(
        assignment_id=attempt.assignment_id, lease_token=attempt.record.lease, fact=fact
    )
    return msgspec.structs.replace(said, **changes)


def brought(handout: Handout, *, settled: bool = False, elapsed_s: float = 1.0) -> Inventory:
    """An assignment that a worker brings along to its next stream."""
    attempt = handout.attempt
    return Inventory(
        assignment_id=attempt.assignment_id,
        lease_token=attempt.record.lease,
        elapsed_s=elapsed_s,
        settled=settled,
    )


def with_dispatcher(
    *loops: str, supervised: bool = False, live_max: int = 0
) -> Callable[[Callable[..., Coroutine[Any, Any, None]]], Callable[..., None]]:
    """Run a test in virtual time, beside loops of a dispatcher: its first argument."""

    def decorate(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
        @in_virtual_time
        async def run(**arguments: Any) -> None:
            async with Dispatcher(
                database(), *loops, supervised=supervised, live_max=live_max
            ) as dispatcher:
                await test(dispatcher, **arguments)

        functools.update_wrapper(run, test)
        shown = inspect.signature(test)
        parameters = list(shown.parameters.values())[1:]
        run.__signature__ = shown.replace(parameters=parameters)  # type: ignore[attr-defined]
        return run

    return decorate


async def make_dangerous(dispatcher: Dispatcher, task_id: str, count: str = "losses") -> None:
    """Have a task look as if its step had taken down two workers, or vanished with them."""
    record = await dispatcher.record(task_id)
    event = Event(sequence=2, at_ms=0, type=EventType.LOST, state=record.state)
    change = Transition(
        task_id=task_id,
        op_id="op-lost-",
        expected_version=1,
        fields={count: 2, "version": 2},
        ack=(record.queue, record.entry),
        enqueue=record.queue,
        event=event,
    )
    await dispatcher.store.commit([change], kind="settle")
