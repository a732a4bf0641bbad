"""Both stores behind one face, so that one suite holds them to the port."""

import sqlite3
from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from pathlib import Path

from redis.asyncio import Redis

from stepstream_dispatcher.store.keys import Keys
from stepstream_dispatcher.store.local import LocalStore
from stepstream_dispatcher.store.local_database import MEMORY, LocalDatabase
from stepstream_dispatcher.store.port import Store
from stepstream_dispatcher.store.redis import RedisStore

__all__ = ["Backend", "LocalBackend", "RedisBackend", "opened"]

LOCAL_START_MS = 1_800_000_000_000


class Backend(ABC):
    """One storage that several dispatchers share."""

    @abstractmethod
    def make(self, dispatcher_id: str) -> Store:
        """A store, not yet open, for one dispatcher."""

    @abstractmethod
    async def expire(self, task_id: str) -> None:
        """Make an ended task as gone as when its time is over and nothing was trimmed yet."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of the storage."""


class RedisBackend(Backend):
    """A key prefix of a Redis server; `client` looks behind the port."""

    def __init__(self, url: str, prefix: str) -> None:
        self.url = url
        self.prefix = prefix
        self.keys = Keys(prefix)
        self.client = Redis.from_url(url, protocol=2)

    def make(self, dispatcher_id: str) -> RedisStore:
        return RedisStore(self.url, dispatcher_id=dispatcher_id, prefix=self.prefix)

    async def expire(self, task_id: str) -> None:
        await self.client.delete(self.keys.record(task_id))

    async def close(self) -> None:
        await self.client.aclose()


class LocalBackend(Backend):
    """A SQLite database whose clock stands still unless it is moved."""

    def __init__(self, path: Path | str = MEMORY) -> None:
        self.clock_ms = LOCAL_START_MS
        self.database = LocalDatabase(path, now_ms=lambda: self.clock_ms, outlives_stores=True)

    def make(self, dispatcher_id: str) -> LocalStore:
        return LocalStore(self.database, dispatcher_id=dispatcher_id)

    async def expire(self, task_id: str) -> None:
        def expire(connection: sqlite3.Connection) -> None:
            statement = "UPDATE tasks SET expires_ms = ? WHERE task_id = ?"
            connection.execute(statement, (self.clock_ms, task_id))

        await self.database.run(expire)

    async def close(self) -> None:
        self.database.close()


async def opened(stack: AsyncExitStack, store: Store) -> Store:
    """Open a store that the stack closes."""
    await store.open()
    stack.push_async_callback(store.close)
    return store
