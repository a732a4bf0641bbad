"""A dispatcher on a switch: a Redis that is down when told to, played by a store in memory."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, cast

import msgspec

from stepstream_dispatcher.core.admission import Submission
from stepstream_dispatcher.core.record import TaskRecord, Transition
from stepstream_dispatcher.engine.desk import Accepted
from stepstream_dispatcher.engine.switch import SwitchStore
from stepstream_dispatcher.store.local import LocalStore
from stepstream_dispatcher.store.local_commit import entry_number
from stepstream_dispatcher.store.local_database import LocalDatabase
from stepstream_dispatcher.store.port import (
    Imported,
    Journaled,
    Signal,
    Store,
    StoreUnreachable,
)
from tests.support.engine import Dispatcher, FaultyStore, database
from tests.support.records import NOW_MS
from tests.support.transitions import build
from tests.support.virtual_time import pass_time

__all__ = ["LOOPS", "RUNNING_MAX", "Remote", "Switched", "created", "creation", "switched"]

RUNNING_MAX = 3
LOOPS = ("committer", "feeder", "settling", "leases", "recovery", "timers")
FIRST_ENTRY = 1_000_000  # of the journal


class Remote:
    """Stands where Redis would: hands calls on and counts them, or fails them all.

    Args:
        store: What answers. It has no imports; `take_in` answers what it was told to.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.trouble: Exception | None = None  # of every call
        self.calls: deque[str] = deque()
        self.taken: list[Journaled] = []
        self.words: deque[Imported | Exception] = deque()  # of the imports to come
        self.taking = asyncio.Event()  # imports wait while it is clear
        self.taking.set()

    def now_ms(self) -> int:
        return self.store.now_ms()

    async def close(self) -> None:
        await self.store.close()

    def signals(self, *, events: bool) -> AsyncGenerator[Signal, None]:
        self.calls.append("signals")
        return self.store.signals(events=events)

    async def take_in(self, task: Journaled) -> Imported:
        self.calls.append("take_in")
        self.taken.append(task)
        await self.taking.wait()
        self._check()
        word = self.words.popleft() if self.words else Imported.CREATED
        if isinstance(word, Exception):
            raise word
        return word

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        real = getattr(self.store, name)

        async def call(*args: Any, **options: Any) -> Any:
            self.calls.append(name)
            self._check()
            return await real(*args, **options)

        return call

    def down(self) -> None:
        """Nobody listens there."""
        self.trouble = StoreUnreachable("nobody listens")

    def _check(self) -> None:
        if self.trouble is not None:
            raise self.trouble


class _Journal(LocalStore):
    """Both stores are of one kind here, so its entries are told by their numbers."""

    async def open(self) -> None:
        await super().open()
        statement = "INSERT INTO sqlite_sequence (name, seq) VALUES ('entries', ?)"
        await self._database.run(lambda c: c.execute(statement, (FIRST_ENTRY,)))

    def is_own_entry(self, entry_id: str) -> bool:
        return entry_number(entry_id) > FIRST_ENTRY


class Switched(Dispatcher):
    """A dispatcher with a fallback; `store` is what answers for Redis."""

    store: FaultyStore

    def _engine_store(self) -> Store:
        self.remote = Remote(self.store)
        now_ms = database().now_ms
        self.journal = _Journal(LocalDatabase(now_ms=now_ms), dispatcher_id="dispatcher-1")
        self.switch = SwitchStore(cast("Any", self.remote), self.journal, running_max=RUNNING_MAX)
        return self.switch

    def divert(self) -> None:
        """Redis is down, and that is known."""
        self.remote.down()
        self.switch.divert()

    def rejoin(self) -> None:
        """Redis is back, and that is known."""
        self.remote.trouble = None
        self.switch.rejoin()

    async def record(self, task_id: str) -> TaskRecord:
        """The task's record, where it is."""
        store = self.journal if task_id in self.switch else self.store
        (record,) = await LocalStore.records(store, [task_id])
        assert record is not None
        return record

    async def submitting(self, text: bytes = b"text", **options: Any) -> asyncio.Task[Accepted]:
        """Submit without waiting for the end; the task is accepted when this returns."""
        submission = Submission(pipeline="translation", input=text, **options)
        task = self._group.create_task(self.engine.desk.submit(submission))
        await pass_time(0.01)
        return task


@contextlib.asynccontextmanager
async def switched(*loops: str, **options: Any) -> Any:
    """A dispatcher on a switch, in virtual time."""
    async with Switched(database(), *loops, **options) as dispatcher:
        dispatcher.remote.calls.clear()
        yield dispatcher


def creation(task_id: str, **changes: Any) -> Transition:
    """A transition that makes a task."""
    return msgspec.structs.replace(build("create", task_id, None, now_ms=NOW_MS), **changes)


async def created(switch: SwitchStore, *task_ids: str, **changes: Any) -> list[str]:
    """Makes tasks; returns the verdicts."""
    results = await switch.commit([creation(one, **changes) for one in task_ids], kind="submit")
    return [result.verdict.value for result in results]
