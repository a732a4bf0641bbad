"""The switch's reads of tasks, and what it says of processes and queues."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from stepstream.errors import StoreUnavailable
from stepstream_dispatcher.core.record import Event, TaskRecord
from stepstream_dispatcher.engine.turn import Turn
from stepstream_dispatcher.store.port import (
    IndexPage,
    Intents,
    Signal,
    Store,
)

__all__ = ["SwitchedReads"]

T = TypeVar("T")


class SwitchedReads(Turn):
    """Reads each task where it is; asks Redis for the rest, the journal while diverted."""

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

    async def mark_left(self, names: Sequence[str]) -> None:
        """See Store.mark_left."""
        await self._ask(
            lambda: self._remote.mark_left(names),
            lambda: self._journal.mark_left(names),
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

    async def intents(self) -> Intents:
        """See Store.intents. While diverted what was known before."""

        async def ask() -> Intents:
            self._intents = await self._remote.intents()
            return self._intents

        async def known() -> Intents:
            return self._intents

        return await self._ask(ask, known)

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


async def _nobody() -> dict[str, int]:
    return {}


async def _idle() -> None:
    return


async def _zero() -> int:
    return 0
