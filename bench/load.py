"""`make load`: how work spreads over workers and slots, how fast no-ops go, what a task keeps.

Every figure is printed with the work that made it. Times run from the first submit to the last
completion, as the client sees them.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from rich.console import Console
from rich.table import Table

from bench.system import System
from stepstream import AsyncClient
from stepstream.types import Stats, SubmitItem

SLEEPERS: Final = 48
SHAPES: Final = ((1, 1), (2, 3), (4, 3))  # workers x slots
NOOPS: Final = 20_000
CHAINS: Final = 2_000
PAYLOAD: Final = b"x" * 100
BATCH: Final = 250
SUBMITTERS: Final = 4
LOOK_S: Final = 0.02  # how often the counts are read; below 1 % of what is measured that way
LIMIT_S: Final = 30.0
EVENTS: Final = "task:events"
DONE: Final = '"type":"DONE"'


async def main() -> None:
    """Measure everything and print it."""
    console = Console()
    with System() as system:
        async with AsyncClient(system.address, timeout_s=60.0) as client:
            await _until_serving(client)
            await _shapes(console, system, client)
            await _five_over_four(console, system, client)
            async with system.workers(client, 2, 256):
                await _noops(console, client)
                await _bytes_kept(console, system, client)


async def _until_serving(client: AsyncClient) -> None:
    async with asyncio.timeout(30):
        await client.stats()


async def _shapes(console: Console, system: System, client: AsyncClient) -> None:
    table = Table(
        "workers x slots", "seconds", "times as fast", title="48 tasks of one 100 ms step"
    )
    first_s = 0.0
    for workers, slots in SHAPES:
        async with system.workers(client, workers, slots):
            took_s = await _timed_by_events(system, client, SLEEPERS)
        first_s = first_s or took_s
        table.add_row(f"{workers} x {slots}", f"{took_s:.3f}", f"{first_s / took_s:.2f}")
    console.print(table)


async def _five_over_four(console: Console, system: System, client: AsyncClient) -> None:
    async with system.workers(client, 4, 3):
        before = _processed(await client.stats())
        took_s = await _timed_by_events(system, client, 5)
        after = _processed(await client.stats())
    spread = ", ".join(f"{name} {after[name] - before.get(name, 0)}" for name in sorted(after))
    console.print(f"five tasks over four workers: {took_s:.3f} s ({spread})")


def _processed(stats: Stats) -> dict[str, int]:
    return {name: one.processed for name, one in stats.workers.items() if one.is_running}


async def _noops(console: Console, client: AsyncClient) -> None:
    took_s = await _timed(client, "noop", NOOPS)
    console.print(f"no-op tasks, end to end: {NOOPS / took_s:,.0f}/s ({NOOPS:,} tasks, 2 workers)")


async def _bytes_kept(console: Console, system: System, client: AsyncClient) -> None:
    before = await _used_memory(system)
    await _timed(client, "chain", CHAINS)
    kept = (await _used_memory(system) - before) / CHAINS - len(PAYLOAD)
    console.print(f"a finished three-step task keeps {kept:,.0f} bytes in Redis above its payload")


async def _used_memory(system: System) -> int:
    async with system.redis() as server:
        return int((await server.info("memory"))["used_memory"])


async def _timed_by_events(system: System, client: AsyncClient, amount: int) -> float:
    """Seconds for `amount` sleepers; the completions are heard on the channel of events.

    Asking the dispatcher would take part of what is measured: a call costs it as much as a step.
    """
    async with system.redis() as server, server.pubsub() as channel:
        await channel.subscribe(EVENTS)
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            batches = _batches(amount, SLEEPERS // SUBMITTERS)
            for _ in range(SUBMITTERS):
                group.create_task(_submit(client, "sleep", batches))
            while amount:
                message = await channel.get_message(timeout=LIMIT_S)
                amount -= bool(message and DONE in str(message["data"]))
        return time.perf_counter() - began


async def _timed(client: AsyncClient, pipeline: str, amount: int) -> float:
    """Seconds from the first submit to the last completion of `amount` tasks."""
    done_before = _done(await client.stats())
    batches = _batches(amount, BATCH)
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(SUBMITTERS):
            group.create_task(_submit(client, pipeline, batches))
        while _done(await client.stats()) - done_before < amount:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)
    return time.perf_counter() - began


def _batches(amount: int, size: int) -> asyncio.Queue[int]:
    batches = asyncio.Queue[int]()
    for start in range(0, amount, size):
        batches.put_nowait(min(size, amount - start))
    return batches


async def _submit(client: AsyncClient, pipeline: str, batches: asyncio.Queue[int]) -> None:
    while not batches.empty():
        size = batches.get_nowait()
        items = [SubmitItem(pipeline=pipeline, input=PAYLOAD) for _ in range(size)]
        for answer in await client.submit_batch(items):
            if isinstance(answer, Exception):
                raise answer


def _done(stats: Stats) -> int:
    state = stats.states.get("done")
    return state.depth if state else 0


if __name__ == "__main__":
    asyncio.run(main())
