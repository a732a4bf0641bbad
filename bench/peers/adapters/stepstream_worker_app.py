"""Ours, a worker: coroutines; everything else as it comes."""

from __future__ import annotations

import asyncio

from reporting import HELD_S, STEP_S, begun, ended

from stepstream import StepContext, Worker, step


@step("noop")
async def noop(ctx: StepContext) -> None:
    """Do nothing."""
    ended(ctx.input.decode())


@step("sleep")
async def sleep(ctx: StepContext) -> None:
    """Wait as for a service."""
    await asyncio.sleep(STEP_S)
    ended(ctx.input.decode())


@step("hold")
async def hold(ctx: StepContext) -> None:
    """Say when it begins, and wait."""
    begun(ctx.input.decode())
    await asyncio.sleep(HELD_S)
    ended(ctx.input.decode())


@step("first")
async def first(_ctx: StepContext) -> None:
    """Wait as for a service, before the next step."""
    await asyncio.sleep(STEP_S)


@step("second")
async def second(_ctx: StepContext) -> None:
    """Wait as for a service, before the last step."""
    await asyncio.sleep(STEP_S)


app = Worker(steps=[noop, sleep, hold, first, second], queues=["bench"])

if __name__ == "__main__":
    app.run()
