"""The worker of the measurements: a step that waits 100 ms, and steps that do nothing."""

from __future__ import annotations

import asyncio

from stepstream import StepContext, Worker, step

STEP_S = 0.1


@step("sleep")
async def sleep(_ctx: StepContext) -> None:
    """Take as long as a call to a service would."""
    await asyncio.sleep(STEP_S)


@step("noop")
async def noop(_ctx: StepContext) -> None:
    """Do nothing."""


@step("first")
async def first(_ctx: StepContext) -> None:
    """Do nothing, as the first of three."""


@step("second")
async def second(_ctx: StepContext) -> None:
    """Do nothing, as the second of three."""


@step("third")
async def third(_ctx: StepContext) -> None:
    """Do nothing, as the third of three."""


app = Worker(steps=[sleep, noop, first, second, third], queues=["bench"])

if __name__ == "__main__":
    app.run()
