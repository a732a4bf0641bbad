"""The system under test: a cluster of real processes whose every link can be cut."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import redis.asyncio

from stepstream import AsyncClient
from tests.chaos.history import Session
from tests.chaos.links import Links
from tests.chaos.plan import Size
from tests.support.child import Child
from tests.support.cluster import Cluster

__all__ = ["World", "running_world"]


class World:
    """The processes of a run, by name, and the links between them.

    Args:
        folder: Where logs, journals and data are kept.
        links: Where links are made.
        size: How many workers and dispatchers.
        slots: Of each worker.
    """

    def __init__(self, folder: Path, links: Links, size: Size, *, slots: int) -> None:
        self.links, self.size, self.slots = links, size, slots
        self.cluster = Cluster(folder)
        self.workers = [f"w-{number}" for number in range(size.workers)]
        self.dispatchers = [f"d-{number}" for number in range(size.dispatchers)]
        self.client_addresses: list[str] = []
        self.pids: dict[int, str] = {}  # of every worker process that there was
        self._logs: dict[str, list[Child]] = {name: [] for name in self.dispatchers}
        self._redis_urls: dict[str, str] = {}
        self._addresses: dict[str, list[str]] = {name: [] for name in self.workers}

    async def start(self) -> None:
        """Start everything; returns when all workers are registered."""
        await self.cluster.start_redis()
        server = urlsplit(self.cluster.redis_url).path
        for name in self.dispatchers:
            self._redis_urls[name] = "redis://" + await self.links.open(
                f"link:{name}:redis", server
            )
        async with asyncio.TaskGroup() as group:
            for name in self.dispatchers:
                group.create_task(self.start_dispatcher(name))
        for name in self.dispatchers:
            address = self.cluster.dispatchers[name].address
            self.client_addresses.append(await self.links.open(f"link:client:{name}", address))
            for worker in self.workers:
                link = await self.links.open(f"link:{worker}:{name}", address)
                self._addresses[worker].append(link)
        async with asyncio.TaskGroup() as group:
            for worker in self.workers:
                group.create_task(self.start_worker(worker))

    async def start_dispatcher(self, name: str) -> None:
        """Start a dispatcher, or start it again with its id, address and data directory."""
        dispatcher = await self.cluster.start_dispatcher(name, REDIS_URL=self._redis_urls[name])
        self._logs[name].append(dispatcher.child)

    async def start_worker(self, name: str) -> None:
        """Start a worker, or start it again under its name; each prefers another dispatcher."""
        first = self.workers.index(name) % len(self.dispatchers)
        addresses = self._addresses[name][first:] + self._addresses[name][:first]
        child = await self.cluster.start_worker(
            name, slots=self.slots, STEPSTREAM_ADDRESS=",".join(addresses)
        )
        self.pids[child.pid] = name

    def client(self, first: int = 0, *, retry_s: float | None = None) -> AsyncClient:
        """A client of all dispatchers, which begins with a given one."""
        addresses = self.client_addresses[first:] + self.client_addresses[:first]
        client = AsyncClient(addresses, retry_s=retry_s)
        self.cluster._clients.append(client)
        return client

    def process(self, name: str) -> Child:
        """The latest process of a name."""
        if name == "redis":
            assert self.cluster.redis_process is not None
            return self.cluster.redis_process
        if name in self.cluster.workers:
            return self.cluster.workers[name]
        return self.cluster.dispatchers[name].child

    @asynccontextmanager
    async def redis(self) -> AsyncIterator[redis.asyncio.Redis]:
        """A connection to the server itself, past all links."""
        async with self.cluster.redis() as connection:
            yield connection

    def crashed(self) -> list[str]:
        """Processes that should run and do not."""
        names = ["redis", *self.dispatchers, *self.workers]
        ended = {name: self.process(name).exit_code for name in names}
        return [f"{name} ended with {code}" for name, code in ended.items() if code is not None]

    def sessions(self) -> list[Session]:
        """Every registration of a worker that a dispatcher has logged, in order."""
        found = [
            Session(at=at_of(line), dispatcher=name, worker=line["worker"])
            for name, lines in self.logged("worker registered").items()
            for line in lines
        ]
        return sorted(found, key=lambda one: one.at)

    def logged(self, event: str) -> dict[str, list[dict[str, str]]]:
        """The lines with an event that each dispatcher has logged."""
        mark = f'"event": "{event}"'
        return {
            name: [json.loads(line) for child in children for line in child.lines if mark in line]
            for name, children in self._logs.items()
        }


def at_of(line: dict[str, str]) -> float:
    """When a line was logged, in Unix seconds."""
    return datetime.fromisoformat(line["timestamp"]).timestamp()


@asynccontextmanager
async def running_world(world: World) -> AsyncIterator[World]:
    """The world for as long as the block lasts; every process is ended by its pid."""
    try:
        await world.start()
        yield world
    finally:
        await world.cluster.stop()
        await world.links.close()
