"""What the sections of `make bench` share: a system with workers, work for it, and its costs."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.load import BATCH, PAYLOAD, SUBMITTERS
from bench.system import System
from stepstream import AsyncClient, SubmitItem
from stepstream_dispatcher.store.keys import Keys

__all__ = ["Options", "Stage", "staged"]

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
CALL_TIMEOUT_S: Final = 60.0
START_LIMIT_S: Final = 30.0
WORK_LIMIT_S: Final = 120.0  # of one timed piece of work
LOOK_S: Final = 0.01  # between two looks at the count: the error of a run of a second is 1 %
QUICK: Final = 20  # times less work for a look at whether everything runs
SLOTS: Final = 256


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How much is measured."""

    full: bool = False  # the sizes that take minutes, too
    quick: bool = False  # a twentieth of the work; the figures mean nothing

    def amount(self, usual: int) -> int:
        """So many tasks, calls or connections of what is usual."""
        return max(usual // QUICK, 1) if self.quick else usual

    def seconds(self, usual: float) -> float:
        """How long something goes on."""
        return usual / 4 if self.quick else usual


class Stage:
    """A running system with its clients and workers.

    Args:
        system: Entered.
        clients: One for each dispatcher.
        worker_pids: Processes of the workers.
    """

    def __init__(
        self, system: System, clients: Sequence[AsyncClient], worker_pids: Sequence[int]
    ) -> None:
        self.system = system
        self.clients = clients
        self.client = clients[0]
        self.redis: Any = system.redis()
        self._pids = {
            "dispatcher": list(system.dispatcher_pids),
            "workers": list(worker_pids),
            "redis": [system.valkey_pid],
            "client": [os.getpid()],
        }

    async def timed(self, pipeline: str, amount: int) -> float:
        """Seconds from the first submit until Redis counts `amount` more tasks as done.

        Redis is asked, 100 times a second: the dispatcher would work for each look as for a step.
        """
        wanted = await self.done() + amount
        began = time.perf_counter()
        await self.submit(pipeline, amount)
        async with asyncio.timeout(WORK_LIMIT_S):
            while await self.done() < wanted:  # noqa: ASYNC110 - Redis does not announce it
                await asyncio.sleep(LOOK_S)
        return time.perf_counter() - began

    async def submit(self, pipeline: str, amount: int) -> None:
        """Submit tasks in batches, a few at once, to all dispatchers in turn."""
        sizes = iter([min(BATCH, amount - start) for start in range(0, amount, BATCH)])

        async def submitter(client: AsyncClient) -> None:
            for size in sizes:
                items = [SubmitItem(pipeline=pipeline, input=PAYLOAD) for _ in range(size)]
                for answer in await client.submit_batch(items):
                    if isinstance(answer, Exception):
                        raise answer

        async with asyncio.TaskGroup() as group:
            for number in range(SUBMITTERS):
                group.create_task(submitter(self.clients[number % len(self.clients)]))

    async def done(self) -> int:
        """Tasks that have ended well, as Redis counts them."""
        return int(await self.redis.hget(Keys().count, "done") or 0)

    async def script_us(self) -> float:
        """Microseconds that Redis has spent in scripts so far; nearly all are commits."""
        stats = await self.redis.info("commandstats")
        return float(stats["cmdstat_evalsha"]["usec"])

    async def written_bytes(self) -> int:
        """The size of the append-only file."""
        return int((await self.redis.info("persistence"))["aof_current_size"])

    def spent_s(self) -> Mapping[str, float]:
        """Seconds of processor time so far: of dispatchers, workers, Redis and this process."""
        return {role: sum(map(_cpu_s, pids)) for role, pids in self._pids.items()}


@asynccontextmanager
async def staged(
    *,
    workers: int,
    slots: int = SLOTS,
    module: str = "bench.worker",
    dispatchers: int = 1,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Stage]:
    """Run a system with workers for the length of the block."""
    async with AsyncExitStack() as stack:
        system = stack.enter_context(System(dispatchers=dispatchers, environment=environment))
        clients = [
            await stack.enter_async_context(AsyncClient(address, timeout_s=CALL_TIMEOUT_S))
            for address in system.addresses
        ]
        async with asyncio.timeout(START_LIMIT_S):
            for client in clients:
                await client.stats()
        pids = await stack.enter_async_context(
            system.workers(clients[0], workers, slots, module=module)
        )
        stage = Stage(system, clients, pids)
        stack.push_async_callback(stage.redis.aclose)
        yield stage


def _cpu_s(pid: int) -> float:
    """Processor time of a process and its threads (Linux), in steps of a clock tick."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S
