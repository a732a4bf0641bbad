"""The store on SQLite: synchronous mode, the fallback's journal, and the proven fake of the tests.

Several stores may share one LocalDatabase, as dispatchers share a Redis; each hears the others.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial
from typing import Final

from stepstream.errors import StoreUnavailable
from stepstream_dispatcher.core.record import Event, TaskRecord, Transition
from stepstream_dispatcher.store import local_journal as journal
from stepstream_dispatcher.store import local_reads as reads
from stepstream_dispatcher.store.codec import field_text
from stepstream_dispatcher.store.local_commit import (
    commit_transitions,
    drop_timers,
    entry_id,
    entry_number,
    is_local_entry,
)
from stepstream_dispatcher.store.local_database import LocalDatabase
from stepstream_dispatcher.store.port import (
    CommitKind,
    Durability,
    Entry,
    IndexPage,
    Intents,
    Journaled,
    Result,
    Signal,
    Verdict,
)

__all__ = ["LocalStore"]

WORKER_KEPT_MS: Final = 600_000  # a worker stays listed for 10 min after it was last saved
DISMISSAL_KEPT_MS: Final = 25 * 3_600_000  # the longest attempt takes 24 h


class LocalStore:
    """Everything that is kept outside the engine, in a SQLite database.

    Args:
        database: Shared by the stores of this process.
        dispatcher_id: Who takes entries, beats and publishes.
    """

    def __init__(self, database: LocalDatabase, *, dispatcher_id: str) -> None:
        self._database = database
        self._dispatcher_id = dispatcher_id
        self._opened = False
        self._wake_asked = False
        self._waiter: asyncio.Event | None = None

    async def open(self) -> None:
        """See Store.open. Counts once, however often it is opened."""
        if not self._opened:
            await self._database.open()
            self._opened = True

    async def close(self) -> None:
        """See Store.close."""
        if self._opened:
            self._opened = False
            self._database.release()

    async def ping(self) -> None:
        """See Store.ping."""
        await self._database.run(lambda connection: connection.execute("SELECT 1"))

    async def durability(self) -> Durability:
        """See Store.durability."""
        return "VOLATILE" if self._database.in_memory else "LOCAL"

    async def faults(self) -> list[str]:
        """See Store.faults. There is no server."""
        return []

    def now_ms(self) -> int:
        """See Store.now_ms."""
        return self._database.now_ms()

    async def commit(
        self, transitions: Sequence[Transition], *, kind: CommitKind, live_max: int = 0
    ) -> list[Result]:
        """See Store.commit. All transitions of a call are one transaction of SQLite."""
        work = partial(
            commit_transitions, transitions=transitions, now_ms=self.now_ms(), live_max=live_max
        )
        try:
            results = await self._database.run(work)
        except StoreUnavailable as error:
            if kind == "submit" and _is_full(error.__cause__):
                return [Result(Verdict.FULL)] * len(transitions)
            raise
        for transition, result in zip(transitions, results, strict=True):
            if result.verdict is Verdict.APPLIED:
                self._tell(transition)
        return results

    def _tell(self, transition: Transition) -> None:
        if transition.enqueue is not None:
            for waiter in self._database.waiters:
                waiter.set()
        signal = Signal("event", task_id=transition.task_id, event=transition.event)
        for queue in self._database.event_listeners:
            if self._database.listeners[queue] != self._dispatcher_id:
                self._database.announce(signal, queue)

    # --- reading ---------------------------------------------------------------------------------

    async def records(self, task_ids: Sequence[str]) -> list[TaskRecord | None]:
        """See Store.records."""
        work = partial(reads.records, task_ids=task_ids, now_ms=self.now_ms())
        return await self._database.run(work)

    async def data(self, task_ids: Sequence[str]) -> list[dict[str, bytes]]:
        """See Store.data."""
        work = partial(reads.data, task_ids=task_ids, now_ms=self.now_ms())
        return await self._database.run(work)

    async def load(
        self, task_ids: Sequence[str]
    ) -> list[tuple[TaskRecord | None, dict[str, bytes]]]:
        """See Store.load."""
        work = partial(reads.load, task_ids=task_ids, now_ms=self.now_ms())
        return await self._database.run(work)

    async def settled(self, task_id: str, step: str) -> str:
        """See Store.settled."""
        work = partial(reads.settled, task_id=task_id, step=step, now_ms=self.now_ms())
        return await self._database.run(work)

    async def traces(self, task_ids: Sequence[str]) -> list[bytes]:
        """See Store.traces."""
        work = partial(reads.traces, task_ids=task_ids, now_ms=self.now_ms())
        return await self._database.run(work)

    async def labels(self, task_ids: Sequence[str]) -> list[bytes]:
        """See Store.labels."""
        work = partial(reads.labels, task_ids=task_ids, now_ms=self.now_ms())
        return await self._database.run(work)

    async def keep_pipelines(self, definitions: Mapping[str, bytes]) -> None:
        """See Store.keep_pipelines."""
        statement = "REPLACE INTO pipelines (version, definition) VALUES (?, ?)"
        rows = list(definitions.items())
        await self._database.run(lambda connection: connection.executemany(statement, rows))

    async def pipelines(self) -> dict[str, bytes]:
        """See Store.pipelines."""
        query = "SELECT version, definition FROM pipelines"
        return await self._database.run(lambda connection: dict(connection.execute(query)))

    async def history(self, task_id: str, *, after: int) -> list[Event]:
        """See Store.history."""
        work = partial(reads.history, task_id=task_id, after=after, now_ms=self.now_ms())
        return await self._database.run(work)

    async def index(self, *, cursor: str, count: int) -> IndexPage:
        """See Store.index."""
        return await self._database.run(partial(reads.index, cursor=cursor, count=count))

    async def waiting(self, state: str, *, cursor: str, count: int) -> IndexPage:
        """See Store.waiting."""
        work = partial(reads.waiting, state=state, cursor=cursor, count=count)
        return await self._database.run(work)

    async def counts(self) -> dict[str, int]:
        """See Store.counts."""
        return await self._database.run(reads.counts)

    async def ended_in(self, minute: int) -> int:
        """See Store.ended_in."""
        return await self._database.run(partial(reads.ended_in, minute=minute))

    async def oldest_ms(self, state: str) -> int | None:
        """See Store.oldest_ms."""
        return await self._database.run(partial(reads.oldest_ms, state=state))

    async def due(self, *, limit: int) -> tuple[list[str], int | None]:
        """See Store.due."""
        return await self._database.run(partial(reads.due, limit=limit, now_ms=self.now_ms()))

    async def drop_timers(self, task_ids: Sequence[str]) -> int:
        """See Store.drop_timers."""
        work = partial(drop_timers, task_ids=task_ids, now_ms=self.now_ms())
        return await self._database.run(work)

    # --- lanes -----------------------------------------------------------------------------------

    async def ensure_lanes(self, queues: Sequence[str]) -> None:
        """See Store.ensure_lanes. A lane is a column here; there is nothing to create."""

    async def read(self, queue: str, count: int) -> list[Entry]:
        """See Store.read."""
        return await self._database.run(partial(self._take, queues=[queue], count=count))

    async def wait(self, queues: Sequence[str], *, count: int, timeout_s: float) -> list[Entry]:
        """See Store.wait."""
        waiter = self._waiter = asyncio.Event()
        self._database.waiters.add(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                while not self._wake_asked:
                    if entries := await self._database.run(
                        partial(self._take, queues=queues, count=count)
                    ):
                        return entries
                    await waiter.wait()
                    waiter.clear()
        except TimeoutError:
            return []
        finally:
            self._database.waiters.discard(waiter)
            self._waiter, self._wake_asked = None, False
        return []

    async def wake(self) -> None:
        """See Store.wake."""
        self._wake_asked = True
        if self._waiter is not None:
            self._waiter.set()

    async def pending(self, queue: str, *, consumer: str, after: str, count: int) -> list[Entry]:
        """See Store.pending."""
        query = (
            "SELECT queue, number, task_id, step FROM entries "
            "WHERE queue = ? AND consumer = ? AND number > ? ORDER BY number LIMIT ?"
        )
        arguments = (queue, consumer, entry_number(after), count)
        rows = await self._database.run(lambda c: c.execute(query, arguments).fetchall())
        return [_entry(*row) for row in rows]

    async def discard(self, queue: str, entry_ids: Sequence[str]) -> None:
        """See Store.discard."""
        rows = [(queue, entry_number(entry_id)) for entry_id in entry_ids]
        statement = "DELETE FROM entries WHERE queue = ? AND number = ?"
        await self._database.run(lambda connection: connection.executemany(statement, rows))

    def _take(
        self, connection: sqlite3.Connection, queues: Sequence[str], count: int
    ) -> list[Entry]:
        marks = ", ".join("?" * len(queues))
        query = (
            "SELECT queue, number, task_id, step FROM entries "  # noqa: S608 - only marks go in
            f"WHERE consumer IS NULL AND queue IN ({marks}) ORDER BY number LIMIT ?"
        )
        rows = connection.execute(query, (*queues, count)).fetchall()
        connection.executemany(
            "UPDATE entries SET consumer = ? WHERE number = ?",
            [(self._dispatcher_id, row[1]) for row in rows],
        )
        return [_entry(*row) for row in rows]

    # --- processes -------------------------------------------------------------------------------

    async def beat(self) -> None:
        """See Store.beat."""
        row = (self._dispatcher_id, self.now_ms())
        statement = "REPLACE INTO dispatchers (dispatcher_id, beat_ms) VALUES (?, ?)"
        await self._database.run(lambda connection: connection.execute(statement, row))

    async def dispatchers(self) -> dict[str, int]:
        """See Store.dispatchers."""
        query = "SELECT dispatcher_id, beat_ms FROM dispatchers ORDER BY beat_ms"
        rows = await self._database.run(lambda connection: connection.execute(query).fetchall())
        return {name: max(0, self.now_ms() - beat_ms) for name, beat_ms in rows}

    async def forget_dispatcher(self, dispatcher_id: str) -> None:
        """See Store.forget_dispatcher."""
        statement = (
            "DELETE FROM dispatchers WHERE dispatcher_id = :id "
            "AND NOT EXISTS (SELECT 1 FROM entries WHERE consumer = :id)"
        )
        await self._database.run(lambda c: c.execute(statement, {"id": dispatcher_id}))

    async def save_worker(self, name: str, fields: Mapping[str, str | int]) -> None:
        """See Store.save_worker."""
        texts = {field: field_text(value) for field, value in fields.items()}
        now_ms = self.now_ms()

        def save(connection: sqlite3.Connection) -> None:
            _drop_workers(connection, now_ms=now_ms)
            _save_worker(connection, name, _worker(connection, name) | texts, now_ms=now_ms)

        await self._database.run(save)

    async def mark_left(self, names: Sequence[str]) -> None:
        """See Store.mark_left."""
        now_ms = self.now_ms()
        gone = {"is_running": "0", "current_tasks": "0", "draining": "0", "seen_ms": str(now_ms)}

        def mark(connection: sqlite3.Connection) -> None:
            _drop_workers(connection, now_ms=now_ms)
            for name in names:
                known = _worker(connection, name)
                if known.get("dispatcher") != self._dispatcher_id:
                    continue
                _save_worker(connection, name, known | gone, now_ms=now_ms)
                if known.get("draining") == "1":
                    statement = "DELETE FROM draining WHERE instance_id = ?"
                    connection.execute(statement, (known.get("instance"),))

        await self._database.run(mark)

    async def workers(self) -> dict[str, dict[str, str]]:
        """See Store.workers."""
        now_ms = self.now_ms()

        def load(connection: sqlite3.Connection) -> dict[str, dict[str, str]]:
            _drop_workers(connection, now_ms=now_ms)
            query = "SELECT name, fields FROM workers ORDER BY saved_ms, name"
            known = {name: json.loads(fields) for name, fields in connection.execute(query)}
            for name, tally, value in connection.execute("SELECT * FROM tallies"):
                if name in known:
                    known[name][tally] = str(value)
            return known

        return await self._database.run(load)

    async def pause(self, queue: str) -> None:
        """See Store.pause."""
        await self._write("INSERT OR IGNORE INTO paused VALUES (?, ?)", queue, self.now_ms())

    async def resume(self, queue: str) -> None:
        """See Store.resume."""
        await self._write("DELETE FROM paused WHERE queue = ?", queue)

    async def dismiss(self, instance_id: str) -> None:
        """See Store.dismiss."""
        now_ms = self.now_ms()
        await self._write("INSERT OR IGNORE INTO draining VALUES (?, ?)", instance_id, now_ms)
        oldest_ms = now_ms - DISMISSAL_KEPT_MS
        await self._write("DELETE FROM draining WHERE since_ms <= ?", oldest_ms)

    async def intents(self) -> Intents:
        """See Store.intents."""
        return await self._database.run(reads.intents)

    async def _write(self, statement: str, *arguments: str | int) -> None:
        await self._database.run(lambda connection: connection.execute(statement, arguments))

    async def notify(self, dispatcher_id: str, payload: bytes) -> None:
        """See Store.notify."""
        for queue, listener in self._database.listeners.items():
            if listener == dispatcher_id:
                self._database.announce(Signal("intent", payload=payload), queue)

    def signals(self, *, events: bool) -> AsyncGenerator[Signal, None]:
        """See Store.signals."""
        return self._listen(events=events)

    async def _listen(self, *, events: bool) -> AsyncGenerator[Signal, None]:
        queue: asyncio.Queue[Signal] = asyncio.Queue()
        self._database.listeners[queue] = self._dispatcher_id
        if events:
            self._database.event_listeners.add(queue)
        try:
            yield Signal("resync")
            while True:
                yield await queue.get()
        finally:
            self._database.event_listeners.discard(queue)
            del self._database.listeners[queue]

    # --- as a journal ----------------------------------------------------------------------------

    async def journaled_ids(self) -> list[str]:
        """See Journal.journaled_ids."""
        return await self._database.run(journal.task_ids)

    async def journaled(self, task_id: str) -> Journaled | None:
        """See Journal.journaled."""
        return await self._database.run(partial(journal.task, task_id=task_id))

    async def depart(self, task_id: str) -> None:
        """See Journal.depart."""
        await self._database.run(partial(journal.depart, task_id=task_id))

    async def departed(self) -> list[str]:
        """See Journal.departed."""
        return await self._database.run(journal.departed)

    async def drop(self, task_id: str) -> None:
        """See Journal.drop."""
        await self._database.run(partial(journal.drop, task_id=task_id))

    def is_own_entry(self, entry_id: str) -> bool:
        """See Journal.is_own_entry."""
        return is_local_entry(entry_id)

    # --- housekeeping ----------------------------------------------------------------------------

    async def trim(self, *, results_max: int, limit: int) -> int:
        """See Store.trim."""
        work = partial(_trim, now_ms=self.now_ms(), results_max=results_max, limit=limit)
        return await self._database.run(work)


def _entry(queue: str, number: int, task_id: str, step: str) -> Entry:
    return Entry(queue, entry_id(number), task_id, step)


def _is_full(error: BaseException | None) -> bool:
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def _drop_workers(connection: sqlite3.Connection, *, now_ms: int) -> None:
    query = "SELECT name FROM workers WHERE saved_ms <= ?"
    gone = connection.execute(query, (now_ms - WORKER_KEPT_MS,)).fetchall()
    connection.executemany("DELETE FROM tallies WHERE name = ?", gone)
    connection.executemany("DELETE FROM workers WHERE name = ?", gone)


def _worker(connection: sqlite3.Connection, name: str) -> dict[str, str]:
    query = "SELECT fields FROM workers WHERE name = ?"
    row = connection.execute(query, (name,)).fetchone()
    return dict(json.loads(row[0])) if row else {}


def _save_worker(
    connection: sqlite3.Connection, name: str, fields: Mapping[str, str], *, now_ms: int
) -> None:
    statement = "REPLACE INTO workers (name, fields, saved_ms) VALUES (?, ?, ?)"
    connection.execute(statement, (name, json.dumps(fields), now_ms))


def _trim(connection: sqlite3.Connection, *, now_ms: int, results_max: int, limit: int) -> int:
    query = "SELECT count(*) FROM tasks WHERE expires_ms IS NOT NULL AND expires_ms <= ?"
    (expired,) = connection.execute(query, (now_ms,)).fetchone()
    query = "SELECT count(*) FROM tasks WHERE expires_ms IS NOT NULL"
    (ended,) = connection.execute(query).fetchone()
    query = (
        "SELECT task_id FROM tasks WHERE expires_ms IS NOT NULL "
        "ORDER BY expires_ms, task_id LIMIT ?"
    )
    surplus = min(limit, max(expired, ended - results_max))
    gone = connection.execute(query, (surplus,)).fetchall()
    for table in ("tasks", "data", "history", "task_tallies"):
        statement = f"DELETE FROM {table} WHERE task_id = ?"  # noqa: S608 - a name of ours
        connection.executemany(statement, gone)
    return len(gone)
