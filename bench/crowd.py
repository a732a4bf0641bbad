"""Section `crowd`: what connected workers and watchers cost a dispatcher."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from bench.figures import Figure, Measured, Ratio
from bench.idle import idle_workers, put_off, watching
from bench.sections import Round
from bench.stage import Options, Stage, staged
from stepstream.session import HEARTBEAT_INTERVAL_S, SILENCE_LIMIT_S, idle_beat_interval_s

__all__ = ["FIGURES", "RATIOS", "opened"]

BUSY: Final = 2  # workers that do what is to be done
CONNECTED: Final = (2, 200)  # workers in all
CONNECTED_FULL: Final = (2, 200, 2_000)
WATCHERS: Final = 1_000
TASKS: Final = 3_000  # of one piece of work
SETTLE_S: Final = 2.0  # what connecting has begun is over by then
# One interval, so that each worker beats once.
IDLE_S: Final = idle_beat_interval_s(HEARTBEAT_INTERVAL_S, SILENCE_LIMIT_S)

_WAYS: Final = {
    **{f"workers_{amount}": f"{amount} workers connected" for amount in CONNECTED_FULL},
    f"watchers_{WATCHERS}": f"2 workers connected, and {WATCHERS:,} watchers of one task each",
}

FIGURES: Final = tuple(
    figure
    for way, words in _WAYS.items()
    for figure in (
        Figure(
            name=f"crowd.{way}.idle",
            unit="% of a core",
            explains=f"processor time of the dispatcher without any task, {words}",
            aim="≤ 25" if way == "workers_2000" else "",
        ),
        Figure(
            name=f"crowd.{way}.task",
            unit="us/task",
            explains=f"processor time of the dispatcher for a single-step no-op task, {words}",
        ),
    )
)

RATIOS: Final = tuple(
    Ratio(
        of=f"crowd.{way}.task",
        to="crowd.workers_2.task",
        explains=f"what a task costs with {words}, over two workers alone",
    )
    for way, words in _WAYS.items()
    if way != "workers_2"
)


@asynccontextmanager
async def opened(options: Options, measured: Measured) -> AsyncIterator[Mapping[str, Round]]:
    """Run a system with two workers, and with tasks to watch."""
    async with staged(workers=BUSY) as stage:
        task_ids = await put_off(stage.client, options.amount(WATCHERS))
        await stage.timed("noop", options.amount(TASKS) // 10 + 1)
        yield {"crowd": lambda: _crowd(options, measured, stage, task_ids)}


async def _crowd(
    options: Options, measured: Measured, stage: Stage, task_ids: Sequence[str]
) -> None:
    async with watching(stage.client, task_ids):
        await _costs(f"watchers_{WATCHERS}", options, measured, stage)
    for amount in CONNECTED_FULL if options.full else CONNECTED:
        async with idle_workers(stage.system.address, options.amount(amount - BUSY)):
            await _costs(f"workers_{amount}", options, measured, stage)


async def _costs(way: str, options: Options, measured: Measured, stage: Stage) -> None:
    await asyncio.sleep(SETTLE_S)
    before_s = stage.spent_s()["dispatcher"]
    await asyncio.sleep(IDLE_S)
    idle_s = stage.spent_s()["dispatcher"]
    measured.add(f"crowd.{way}.idle", (idle_s - before_s) / IDLE_S * 100)
    tasks = options.amount(TASKS)
    await stage.timed("noop", tasks)
    spent_s = stage.spent_s()["dispatcher"] - idle_s
    measured.add(f"crowd.{way}.task", spent_s / tasks * 1e6)
