"""Sections `limit` and `throughput`: what Redis allows, and how much of it arrives end to end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from bench.figures import Figure, Measured, Ratio
from bench.limit import Limit, limited
from bench.sections import Round
from bench.stage import Options, Stage, staged

__all__ = ["FIGURES", "RATIOS", "opened"]

WORKERS: Final = 2
SINGLES: Final = 10_000  # tasks of one round
THREES: Final = 4_000
STEPS: Final = 3

_END_TO_END: Final = (
    "no-op tasks of {steps} with 100 bytes of input, 2 workers; from the call of the first submit "
    "(batches of 250, four at once) until Redis counts the last as done"
)
_STRAIGHT: Final = (
    "the same transitions (create, lease, complete) straight from the store layer to the same "
    "Redis, 256 a call, two calls in flight; from the first call to the last answer, without the "
    "time in which the next ones are built"
)
_CPU: Final = "processor time of {role} from the first submit to the last completion, for each task"

_ROLES: Final = {
    "dispatcher": "the dispatcher",
    "workers": "both workers",
    "redis": "Redis, all its threads",
    "client": "the client",
}

FIGURES: Final = (
    Figure(name="limit.single", unit="tasks/s", explains=f"one step: {_STRAIGHT}"),
    Figure(name="limit.three", unit="tasks/s", explains=f"three steps: {_STRAIGHT}"),
    Figure(name="limit.steps", unit="steps/s", explains="limit.three in steps"),
    Figure(
        name="limit.submit_us",
        unit="us of Redis",
        explains="time in the script for one creation, by INFO commandstats",
    ),
    Figure(
        name="limit.step_us",
        unit="us of Redis",
        explains="time in the script for the lease and the completion of one of three steps",
        aim="≤ 60",
    ),
    Figure(
        name="limit.redis_steps",
        unit="steps/s",
        explains="what Redis could do if it ran these scripts without a pause, by the two above",
    ),
    Figure(name="throughput.single", unit="tasks/s", explains=_END_TO_END.format(steps="one step")),
    Figure(
        name="throughput.three", unit="tasks/s", explains=_END_TO_END.format(steps="three steps")
    ),
    Figure(name="throughput.steps", unit="steps/s", explains="throughput.three in steps"),
    Figure(
        name="throughput.step_us",
        unit="us of Redis",
        explains="time in all scripts meanwhile for each of three steps, the creation included",
    ),
    *(
        Figure(name=f"throughput.{kind}.{role}", unit="us/task", explains=_CPU.format(role=words))
        for kind in ("single", "three")
        for role, words in _ROLES.items()
    ),
)

RATIOS: Final = (
    Ratio(
        of="throughput.single", to="limit.single", explains="one step: what arrives of the limit"
    ),
    Ratio(
        of="throughput.three",
        to="limit.three",
        explains="three steps: what arrives of the limit",
        aim="≥ 0.65",
    ),
    Ratio(
        of="throughput.three.dispatcher",
        to="throughput.three.redis",
        explains="processor time of the dispatcher over that of Redis; three steps",
    ),
)


@asynccontextmanager
async def opened(options: Options, measured: Measured) -> AsyncIterator[Mapping[str, Round]]:
    """Run one system for both sections."""
    async with staged(workers=WORKERS) as stage, limited(stage) as limit:
        await stage.timed("noop", options.amount(SINGLES) // 10 + 1)  # what happens only once
        yield {
            "limit": lambda: _limit(options, measured, limit),
            "throughput": lambda: _throughput(options, measured, stage),
        }


async def _limit(options: Options, measured: Measured, limit: Limit) -> None:
    singles, threes = options.amount(SINGLES), options.amount(THREES)
    costs = await limit.drive("noop", singles)
    measured.add("limit.single", singles / costs.took_s)
    costs = await limit.drive("chain", threes)
    measured.add("limit.three", threes / costs.took_s)
    measured.add("limit.steps", threes * STEPS / costs.took_s)
    measured.add("limit.submit_us", costs.submit_us)
    measured.add("limit.step_us", costs.step_us)
    task_us = costs.submit_us + STEPS * costs.step_us
    measured.add("limit.redis_steps", STEPS / task_us * 1e6)


async def _throughput(options: Options, measured: Measured, stage: Stage) -> None:
    await _end_to_end("single", "noop", options.amount(SINGLES), measured, stage)
    before_us, threes = await stage.script_us(), options.amount(THREES)
    rate = await _end_to_end("three", "chain", threes, measured, stage)
    spent_us = await stage.script_us() - before_us
    measured.add("throughput.steps", rate * STEPS)
    measured.add("throughput.step_us", spent_us / (threes * STEPS))


async def _end_to_end(
    kind: str, pipeline: str, amount: int, measured: Measured, stage: Stage
) -> float:
    before = stage.spent_s()
    took_s = await stage.timed(pipeline, amount)
    for role, seconds in stage.spent_s().items():
        measured.add(f"throughput.{kind}.{role}", (seconds - before[role]) / amount * 1e6)
    measured.add(f"throughput.{kind}", amount / took_s)
    return amount / took_s
