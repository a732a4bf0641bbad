"""One SQLite database, in memory or in a file, that the local stores of a process share."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from stepstream.errors import StoreUnavailable
from stepstream_dispatcher.store.port import Signal

__all__ = ["MEMORY", "LocalDatabase"]

MEMORY: Final = ":memory:"
SIGNALS_MAX: Final = 10_000  # unheard by one listener; then all are dropped for one resync

T = TypeVar("T")

# `fields` is the record as Redis keeps it: a JSON object of texts, `ops` and `settled:*` included.
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS tasks (
  task_id TEXT PRIMARY KEY, fields TEXT NOT NULL, state TEXT NOT NULL, since_ms INTEGER NOT NULL,
  created_ms INTEGER NOT NULL, due_ms INTEGER, expires_ms INTEGER) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tasks_by_creation ON tasks (created_ms, task_id);
CREATE INDEX IF NOT EXISTS tasks_by_state ON tasks (state, since_ms, task_id);
CREATE INDEX IF NOT EXISTS tasks_by_due ON tasks (due_ms, task_id) WHERE due_ms IS NOT NULL;
CREATE INDEX IF NOT EXISTS tasks_by_expiry ON tasks (expires_ms, task_id)
  WHERE expires_ms IS NOT NULL;
CREATE TABLE IF NOT EXISTS data (
  task_id TEXT, name TEXT, value BLOB NOT NULL, PRIMARY KEY (task_id, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS history (
  task_id TEXT, sequence INTEGER, event BLOB NOT NULL,
  PRIMARY KEY (task_id, sequence)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS entries (
  number INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL, task_id TEXT NOT NULL,
  step TEXT NOT NULL, consumer TEXT);
CREATE INDEX IF NOT EXISTS entries_by_consumer ON entries (queue, consumer, number);
CREATE TABLE IF NOT EXISTS counts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pipelines (
  version TEXT PRIMARY KEY, definition BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dispatchers (
  dispatcher_id TEXT PRIMARY KEY, beat_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS workers (
  name TEXT PRIMARY KEY, fields TEXT NOT NULL, saved_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS paused (
  queue TEXT PRIMARY KEY, since_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS draining (
  instance_id TEXT PRIMARY KEY, since_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS minutes (
  minute INTEGER PRIMARY KEY, amount INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS tallies (
  name TEXT, tally TEXT, value INTEGER NOT NULL, PRIMARY KEY (name, tally)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS task_tallies (
  task_id TEXT, name TEXT, tally TEXT, value INTEGER NOT NULL,
  PRIMARY KEY (task_id, name, tally)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS departed (task_id TEXT PRIMARY KEY) WITHOUT ROWID;
"""


class LocalDatabase:
    """The connection, its lock, and who of this process wants to be told of changes.

    Work on a database in memory is done where it is asked for, so that it fits a simulated clock;
    on a file, in a thread.

    Args:
        path: A file, or MEMORY.
        now_ms: The store's clock, Unix milliseconds.
        outlives_stores: Stay open when the last store on it is closed; call `close`.
    """

    def __init__(
        self,
        path: Path | str = MEMORY,
        *,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        outlives_stores: bool = False,
    ) -> None:
        self.path: Final = str(path)
        self.now_ms: Final = now_ms
        self.in_memory: Final = self.path == MEMORY
        self.listeners: dict[asyncio.Queue[Signal], str] = {}  # queue -> dispatcher id
        self.event_listeners: set[asyncio.Queue[Signal]] = set()
        self.waiters: set[asyncio.Event] = set()  # set when entries were added
        self._outlives_stores = outlives_stores
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()
        self._stores = 0

    async def open(self) -> None:
        """Count one more store, and open the database for the first."""
        if self._connection is None:
            self._connection = sqlite3.connect(
                self.path, isolation_level=None, check_same_thread=False
            )
            await self.run(self._prepare)
        self._stores += 1

    def release(self) -> None:
        """Count one store less, and close the database after the last."""
        self._stores -= 1
        if self._stores <= 0 and not self._outlives_stores:
            self.close()

    def close(self) -> None:
        """Close the database; one in memory is gone. Idempotent."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do work in one transaction, all or nothing.

        Raises:
            StoreUnavailable: The database is closed or cannot be used; the cause is SQLite's error.
        """
        if self.in_memory:
            return self._run(work)
        return await asyncio.to_thread(self._run, work)

    def announce(self, signal: Signal, queue: asyncio.Queue[Signal]) -> None:
        """Hand a signal to a listener; one that does not listen is told to look for itself."""
        if queue.qsize() >= SIGNALS_MAX:
            while not queue.empty():
                queue.get_nowait()
            signal = Signal("resync")
        queue.put_nowait(signal)

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            if self._connection is None:
                raise StoreUnavailable(f"the database {self.path} is not open")
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    result = work(self._connection)
                except BaseException:
                    self._connection.rollback()
                    raise
                self._connection.commit()
            except sqlite3.Error as error:
                if self._connection.in_transaction:
                    self._connection.rollback()
                raise StoreUnavailable(f"the database {self.path} failed: {error}") from error
            return result

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.commit()  # a journal mode is chosen outside of transactions
        if not self.in_memory:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(_SCHEMA)
        connection.execute("BEGIN IMMEDIATE")
