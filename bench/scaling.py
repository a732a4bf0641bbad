"""Section `scaling`: the same work on one dispatcher and on more, all on one Redis.

Where the cores do not suffice for all processes, the rate says little; what a task costs the
dispatchers and Redis says what more cores would bring.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

from bench.figures import Figure, Measured, Ratio
from bench.sections import Round
from bench.stage import Options, Stage, staged

__all__ = ["FIGURES", "RATIOS", "opened"]

DISPATCHERS: Final = (1, 2)
DISPATCHERS_FULL: Final = (1, 2, 4)
WORKERS: Final = 2
WORKERS_FULL: Final = 4  # on each of the systems, so that they differ in dispatchers alone
TASKS: Final = 4_000  # of one round

FIGURES: Final = (
    *(
        Figure(
            name=f"scaling.{amount}",
            unit="tasks/s",
            explains=(
                f"three-step no-op tasks on {amount} dispatchers, clients and workers dealt out to "
                "them; from the first submit until Redis counts the last as done"
            ),
        )
        for amount in DISPATCHERS_FULL
    ),
    *(
        Figure(
            name=f"scaling.{amount}.{role}",
            unit="us/task",
            explains=f"processor time meanwhile of {words}, with {amount} dispatchers",
        )
        for amount in DISPATCHERS_FULL
        for role, words in (("dispatcher", "all dispatchers together"), ("redis", "Redis"))
    ),
)

RATIOS: Final = (
    *(
        Ratio(
            of=f"scaling.{amount}",
            to="scaling.1",
            explains=f"rate of {amount} dispatchers over that of one, on these cores",
        )
        for amount in DISPATCHERS_FULL[1:]
    ),
    *(
        Ratio(
            of=f"scaling.{amount}.redis",
            to="scaling.1.redis",
            explains=f"what a task costs Redis with {amount} dispatchers over that with one",
        )
        for amount in DISPATCHERS_FULL[1:]
    ),
)


@asynccontextmanager
async def opened(options: Options, measured: Measured) -> AsyncIterator[Mapping[str, Round]]:
    """Run a system for each number of dispatchers, side by side; one of them works at a time."""
    async with AsyncExitStack() as stack:
        stages: list[Stage] = []
        for amount in DISPATCHERS_FULL if options.full else DISPATCHERS:
            workers = WORKERS_FULL if options.full else WORKERS
            stage = await stack.enter_async_context(staged(workers=workers, dispatchers=amount))
            await stage.timed("chain", options.amount(TASKS) // 10 + 1)
            stages.append(stage)
        yield {"scaling": partial(_scaling, options, measured, stages)}


async def _scaling(options: Options, measured: Measured, stages: list[Stage]) -> None:
    tasks = options.amount(TASKS)
    for stage in stages:
        amount, before = len(stage.clients), stage.spent_s()
        measured.add(f"scaling.{amount}", tasks / await stage.timed("chain", tasks))
        after = stage.spent_s()
        for role in ("dispatcher", "redis"):
            cpu_us = (after[role] - before[role]) / tasks * 1e6
            measured.add(f"scaling.{amount}.{role}", cpu_us)
    stages.reverse()  # the other way round in the next round
