"""Section `growth`: what a task keeps in Redis, and what a step costs where many are queued."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from bench.figures import Figure, Measured, Ratio
from bench.kept import finished_bytes, queued_bytes
from bench.load import PAYLOAD
from bench.sections import Round
from bench.stage import Options, Stage, staged
from stepstream_dispatcher.store.keys import Keys

__all__ = ["FIGURES", "RATIOS", "opened"]

QUEUED: Final = (1_000, 100_000)
QUEUED_FULL: Final = (1_000, 100_000, 1_000_000)
QUEUE_MAX: Final = "2000000"  # the default is reached at 1,000,000
WORKERS: Final = 2
KEPT: Final = 5_000  # tasks of one round whose memory is measured
TASKS: Final = 4_000  # of one piece of work
QUEUE: Final = "bench"
LOOK_S: Final = 0.02
REWRITE_LIMIT_S: Final = 120.0

_KEPT: Final = (
    "what Redis says that the keys of a three-step task of 100 bytes take, and its share of lane, "
    "sets and tables, above the payload"
)
_MEANWHILE: Final = (
    "processor time of {role} for each single-step no-op task, while {queued:,} more wait in the "
    "same lane"
)

FIGURES: Final = (
    Figure(name="growth.kept_queued", unit="bytes", explains=f"queued: {_KEPT}", aim="≤ 700"),
    Figure(name="growth.kept_finished", unit="bytes", explains=f"ended: {_KEPT}", aim="≤ 1,500"),
    Figure(
        name="growth.written",
        unit="bytes",
        explains="what the append-only file gains for each such task, from submit to its end",
    ),
    *(
        Figure(
            name=f"growth.queued_{queued}.{role}",
            unit="us/task",
            explains=_MEANWHILE.format(role=words, queued=queued),
        )
        for queued in QUEUED_FULL
        for role, words in (("dispatcher", "the dispatcher"), ("redis", "Redis"))
    ),
    *(
        Figure(
            name=f"growth.queued_{queued}.rewrite",
            unit="s",
            explains=f"BGREWRITEAOF with {queued:,} tasks queued, from the command to its end",
        )
        for queued in QUEUED_FULL
    ),
)

RATIOS: Final = tuple(
    Ratio(
        of=f"growth.queued_{queued}.{role}",
        to=f"growth.queued_{QUEUED[0]}.{role}",
        explains=f"what a task costs {words} with {queued:,} queued, over that with 1,000",
        aim="≤ 1.15",
    )
    for queued in QUEUED_FULL[1:]
    for role, words in (("dispatcher", "the dispatcher"), ("redis", "Redis"))
)


@asynccontextmanager
async def opened(options: Options, measured: Measured) -> AsyncIterator[Mapping[str, Round]]:
    """Run a system for each size of the queue, and one for memory; one of them works at a time."""
    environment = {"STEPSTREAM_QUEUE_MAX": QUEUE_MAX}
    async with AsyncExitStack() as stack:
        kept = await stack.enter_async_context(staged(workers=WORKERS))
        stages: list[tuple[int, Stage]] = []
        for queued in QUEUED_FULL if options.full else QUEUED:
            stage = await stack.enter_async_context(
                staged(workers=WORKERS, environment=environment)
            )
            await stage.client.operator.pause_queue(QUEUE)
            stages.append((queued, stage))

        async def growth() -> None:
            await _memory(options, measured, kept)
            for queued, stage in stages:
                await _cost(queued, options, measured, stage)
            stages.reverse()  # the other way round in the next round

        yield {"growth": growth}


async def _memory(options: Options, measured: Measured, stage: Stage) -> None:
    tasks = options.amount(KEPT)
    await stage.submit("parked", tasks)
    unwritten = await stage.written_bytes()
    await stage.timed("chain", tasks)
    measured.add("growth.written", (await stage.written_bytes() - unwritten) / tasks)
    kept = {
        "queued": await queued_bytes(stage.redis, "parked"),
        "finished": await finished_bytes(stage.redis),
    }
    for name, size in kept.items():
        measured.add(f"growth.kept_{name}", size - len(PAYLOAD))


async def _cost(queued: int, options: Options, measured: Measured, stage: Stage) -> None:
    """Fill the lane while it is paused, then let it be worked on while as many more come in."""
    await stage.submit("noop", max(options.amount(queued) - await _pending(stage), 0))
    measured.add(f"growth.queued_{queued}.rewrite", await _rewrite_s(stage))
    done, before = await stage.done(), stage.spent_s()
    await stage.client.operator.resume_queue(QUEUE)
    await stage.timed("noop", options.amount(TASKS))
    tasks, after = await stage.done() - done, stage.spent_s()
    await stage.client.operator.pause_queue(QUEUE)
    for role in ("dispatcher", "redis"):
        cpu_us = (after[role] - before[role]) / tasks * 1e6
        measured.add(f"growth.queued_{queued}.{role}", cpu_us)


async def _pending(stage: Stage) -> int:
    return int(await stage.redis.hget(Keys().count, "pending") or 0)


async def _rewrite_s(stage: Stage) -> float:
    """Rewrite the AOF, so that none happens while costs are measured."""
    async with asyncio.timeout(REWRITE_LIMIT_S):
        await _rewritten(stage)  # one that the filling has begun
        began = time.perf_counter()
        await stage.redis.bgrewriteaof()
        await _rewritten(stage)
        return time.perf_counter() - began


async def _rewritten(stage: Stage) -> None:
    while True:
        told = await stage.redis.info("persistence")
        if not (told["aof_rewrite_in_progress"] or told["aof_rewrite_scheduled"]):
            return
        await asyncio.sleep(LOOK_S)
