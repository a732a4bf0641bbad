"""A whole system for measurements: embedded Valkey, one dispatcher, workers; all on this host."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
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
    """Processes of one measurement; a context manager that ends what it started."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.address = ""
        self.valkey: EmbeddedValkey | None = None

    def __enter__(self) -> Self:
        data = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="stepstream-")))
        self.valkey = self._stack.enter_context(EmbeddedValkey(data))
        self.address = f"127.0.0.1:{_free_port()}"
        self._spawn(
            "stepstream_dispatcher",
            REDIS_URL=self.valkey.url,
            STEPSTREAM_GRPC_ADDRESS=self.address,
            STEPSTREAM_HTTP_ADDRESS="127.0.0.1:0",
            STEPSTREAM_PIPELINES=str(PIPELINES),
            ENABLE_METRICS="false",
        )
        return self

    def redis(self) -> redis.asyncio.Redis:
        """A client of the server, for what the system itself does not tell."""
        assert self.valkey is not None
        return redis.asyncio.Redis.from_url(self.valkey.url)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

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
    async def workers(self, client: AsyncClient, amount: int, slots: int) -> AsyncIterator[None]:
        """Run workers for the length of the block; they have registered when it begins."""
        names = [f"worker-{index}" for index in range(amount)]
        processes = [
            self._spawn(
                "bench.worker",
                STEPSTREAM_ADDRESS=self.address,
                STEPSTREAM_WORKER_NAME=name,
                MAX_CONCURRENT_TASKS=str(slots),
            )
            for name in names
        ]
        await self._until_running(client, set(names))
        yield
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
    process.terminate()
    process.wait(STOP_S)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
