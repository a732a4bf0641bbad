"""What sharing calls makes of submits one by one: `python -m bench.sharing`.

Callers at the same time submit no-op tasks to one dispatcher, each the next one when the last was
accepted: with a client that shares calls and with one that does not, in turns within one run, on an
embedded Valkey and without workers. One caller alone shows what a lone submit pays for it. The CPU
time of the client says the same on a machine that does other things meanwhile.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import msgspec

from bench.system import System
from stepstream import AsyncClient

ROUNDS: Final = 5
TASKS: Final = {50: 5_000, 1: 500}  # how many are submitted, by how many callers
PAYLOAD: Final = b"x" * 100
START_LIMIT_S: Final = 30.0


class Turn(msgspec.Struct, frozen=True):
    """One way, once."""

    tasks_per_s: float
    cpu_us: float  # of the client, for each task


async def main() -> None:
    """Measure in turns and print the medians and their ratios."""
    with System() as system:
        await _ready(system.address)
        for callers, tasks in TASKS.items():
            turns = [await _round(system.address, callers, tasks, at) for at in range(ROUNDS)]
            print(f"{callers} callers, {tasks:,} tasks, medians of {ROUNDS} rounds")
            for name in Turn.__struct_fields__:
                _print(name, [(getattr(a, name), getattr(b, name)) for a, b in turns])


async def _ready(address: str) -> None:
    async with asyncio.timeout(START_LIMIT_S), AsyncClient(address) as client:
        await client.stats()


async def _round(address: str, callers: int, tasks: int, number: int) -> tuple[Turn, Turn]:
    """Both ways; each is the first one in every other round."""
    ways: list[Callable[[str], AbstractAsyncContextManager[AsyncClient]]] = [_apart, AsyncClient]
    taken: dict[object, Turn] = {}
    for way in ways if number % 2 else reversed(ways):
        async with way(address) as client:
            taken[way] = await _turn(client, callers, tasks)
    return taken[_apart], taken[AsyncClient]


@asynccontextmanager
async def _apart(address: str) -> AsyncIterator[AsyncClient]:
    """A client that shares no calls, because it is not entered."""
    client = AsyncClient(address)
    try:
        yield client
    finally:
        await client.close()


async def _turn(client: AsyncClient, callers: int, tasks: int) -> Turn:
    await client.submit("noop", PAYLOAD)  # it is connected by then
    began_mono, began_cpu = time.monotonic(), time.process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(_submit(client, tasks // callers))
    took_s, cpu_s = time.monotonic() - began_mono, time.process_time() - began_cpu
    return Turn(tasks / took_s, cpu_s / tasks * 1e6)


async def _submit(client: AsyncClient, count: int) -> None:
    for _ in range(count):
        await client.submit("noop", PAYLOAD)


def _print(name: str, pairs: list[tuple[float, float]]) -> None:
    ratios = sorted(shared / apart for apart, shared in pairs)
    print(
        f"  {name}: {statistics.median(one for one, _ in pairs):,.0f} each by itself,"
        f" {statistics.median(one for _, one in pairs):,.0f} shared,"
        f" ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


if __name__ == "__main__":
    asyncio.run(main())
