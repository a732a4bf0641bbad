"""Handlers and the loop that they run on."""

from __future__ import annotations

import asyncio

from stepstream.v1 import worker_service_pb2 as pb
from stepstream.worker import StepContext, step
from stepstream.worker.attempt import Attempt, Why
from stepstream.worker.registry import steps_by_name
from stepstream.worker.runner import Cancel, Runner, Start
from tests.support.fake_dispatcher import assignment

LIMIT_S = 5.0


@step("held")
async def held(ctx: StepContext) -> None:
    await asyncio.Event().wait()


@step("echo")
async def echo(ctx: StepContext) -> object:
    return ctx.input


async def test_a_handler_that_is_cancelled_before_its_first_step_frees_its_slot() -> None:
    """The gRPC loop says so at any moment, also between the start and the first step."""
    ended: asyncio.Queue[tuple[Attempt, pb.Settlement | None]] = asyncio.Queue()
    first, second = (
        Attempt(assignment(n, name), lambda _: None) for n, name in ((1, "held"), (2, "echo"))
    )
    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
        runner = Runner(steps_by_name([held, echo]), 1, group, lambda *end: ended.put_nowait(end))
        runner.handle([Start([first, second])])
        first.cancelled_because = Why.REQUESTED
        runner.handle([Cancel(first)])
        results = [await ended.get(), await ended.get()]
        runner.stop()

    assert [attempt for attempt, _ in results] == [first, second]
    cancelled, completed = (settlement for _, settlement in results)
    assert cancelled is not None
    assert cancelled.failed.code == "CANCELLED"
    assert completed is not None
    assert completed.HasField("completed")
