"""A whole system for measurements: embedded Valkey, dispatchers, workers; all on this host."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Self

import redis.asyncio

from stepstream import AsyncClient
from stepstream.cli.valkey import EmbeddedValkey

__all__ = ["System"]

PIPELINES = Path(__file__).with_name("pipelines.toml")
READY_S = 30.0
STOP_S = 40.0
LOOK_S = 0.02  # how often it is looked whether the workers have come or gone


class System:
    """Processes of one measurement; a context manager that ends what it started.

    Args:
        dispatchers: How many share the one Valkey.
        environment: Settings of the dispatchers beside their addresses.
    """

    def __init__(
        self, *, dispatchers: int = 1, environment: Mapping[str, str] | None = None
    ) -> None:
        self._stack = ExitStack()
        self._dispatchers = dispatchers
        self._environment = dict(environment or {})
        self.address = ""  # of the first dispatcher
        self.addresses: list[str] = []
        self.dispatcher_pids: list[int] = []
        self.valkey: EmbeddedValkey | None = None

    def __enter__(self) -> Self:
        data = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="stepstream-")))
        self.valkey = self._stack.enter_context(EmbeddedValkey(data))
        self.addresses = [f"127.0.0.1:{_free_port()}" for _ in range(self._dispatchers)]
        self.address = self.addresses[0]
        self.dispatcher_pids = [self._dispatcher(address).pid for address in self.addresses]
        return self

    @property
    def valkey_pid(self) -> int:
        """The process of the server."""
        assert self.valkey is not None
        assert self.valkey.process is not None
        return self.valkey.process.pid

    def redis(self) -> redis.asyncio.Redis:
        """A client of the server, for what the system itself does not tell."""
        assert self.valkey is not None
        return redis.asyncio.Redis.from_url(self.valkey.url)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _dispatcher(self, address: str) -> subprocess.Popen[bytes]:
        assert self.valkey is not None
        return self._spawn(
            "stepstream_dispatcher",
            REDIS_URL=self.valkey.url,
            STEPSTREAM_GRPC_ADDRESS=address,
            STEPSTREAM_HTTP_ADDRESS="127.0.0.1:0",
            STEPSTREAM_PIPELINES=str(PIPELINES),
            ENABLE_METRICS="false",
            **self._environment,
        )

    def _spawn(self, module: str, **environment: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._stack.callback(_end, process)
        return process

    @asynccontextmanager
    async def workers(
        self, client: AsyncClient, amount: int, slots: int, *, module: str = "bench.worker"
    ) -> AsyncIterator[list[int]]:
        """Run workers for the length of the block; they have registered when it begins.

        They are dealt out to the dispatchers in turn.

        Yields:
            Their process ids.
        """
        names = [f"worker-{index}" for index in range(amount)]
        processes = [
            self._spawn(
                module,
                STEPSTREAM_ADDRESS=self.addresses[index % self._dispatchers],
                STEPSTREAM_WORKER_NAME=name,
                MAX_CONCURRENT_TASKS=str(slots),
            )
            for index, name in enumerate(names)
        ]
        await self._until_running(client, set(names))
        yield [process.pid for process in processes]
        for process in processes:
            process.terminate()
        for process in processes:
            await asyncio.to_thread(process.wait, STOP_S)
        await self._until_running(client, set())

    async def _until_running(self, client: AsyncClient, names: set[str]) -> None:
        async with asyncio.timeout(READY_S):
            while True:
                workers = (await client.stats()).workers
                if {name for name, worker in workers.items() if worker.is_running} == names:
                    return
                await asyncio.sleep(LOOK_S)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process; one that does not end by itself is killed, and named."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        print(f"killed {process.args!r}: it had not ended {STOP_S:g} s after SIGTERM")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
