"""Section `shapes`: how steps of 100 ms spread over workers and slots."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from bench.figures import Figure, Measured, Ratio
from bench.load import DONE, EVENTS
from bench.sections import Round
from bench.stage import Options, Stage, staged

__all__ = ["FIGURES", "RATIOS", "opened"]

TASKS: Final = 48
SHAPES: Final = {"1x1": (1, 1), "2x3": (2, 3), "4x3": (4, 3)}  # workers, slots of each
AIMS: Final = {"1x1": "≤ 4.95", "2x3": "", "4x3": "≤ 0.44"}
LIMIT_S: Final = 60.0

_FROM_TO: Final = "from the call of the first submit until its channel has announced the last DONE"

FIGURES: Final = (
    *(
        Figure(
            name=f"shapes.{shape}",
            unit="s",
            explains=f"48 tasks of one 100 ms step, {shape} workers x slots; {_FROM_TO}",
            aim=AIMS[shape],
        )
        for shape in SHAPES
    ),
    Figure(
        name="shapes.chained",
        unit="s",
        explains=f"48 tasks of three 100 ms steps at 12 slots, 1.2 is perfect; {_FROM_TO}",
        aim="≤ 1.26",
    ),
)

RATIOS: Final = (
    Ratio(of="shapes.1x1", to="shapes.2x3", explains="times as fast with 2 x 3, of 6", aim="≥ 5.9"),
    Ratio(
        of="shapes.1x1", to="shapes.4x3", explains="times as fast with 4 x 3, of 12", aim="≥ 11.4"
    ),
)


@asynccontextmanager
async def opened(options: Options, measured: Measured) -> AsyncIterator[Mapping[str, Round]]:
    """Run a system; the workers come and go."""
    async with staged(workers=0) as stage:
        yield {"shapes": lambda: _shapes(options, measured, stage)}


async def _shapes(options: Options, measured: Measured, stage: Stage) -> None:
    tasks = options.amount(TASKS)
    for shape, (workers, slots) in SHAPES.items():
        async with stage.system.workers(stage.client, workers, slots):
            measured.add(f"shapes.{shape}", await _timed_by_events(stage, "sleep", tasks))
    async with stage.system.workers(stage.client, 4, 3, module="bench.timed_worker"):
        measured.add("shapes.chained", await _timed_by_events(stage, "naps", tasks))


async def _timed_by_events(stage: Stage, pipeline: str, amount: int) -> float:
    """Seconds; the completions are heard on the channel of events, so that nothing is polled."""
    async with stage.redis.pubsub() as channel, asyncio.timeout(LIMIT_S):
        await channel.subscribe(EVENTS)
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            group.create_task(stage.submit(pipeline, amount))
            while amount:
                message = await channel.get_message(timeout=LIMIT_S)
                amount -= bool(message and DONE in str(message["data"]))
        return time.perf_counter() - began
