"""How the SDK is used, for the type checker: `make types` reads it, nothing runs it."""

from __future__ import annotations

from contextlib import aclosing, closing
from typing import assert_type

from stepstream import (
    AsyncClient,
    Client,
    Completed,
    Gap,
    StepContext,
    Submitted,
    Task,
    TaskEvent,
    Value,
    Worker,
    errors,
    step,
)
from stepstream.testing import LocalStepstream, Report, StepRun, run_step, step_context
from stepstream.worker import Step


@step("fetch")
async def fetch(ctx: StepContext) -> dict[str, str]:
    """Runs on the loop."""
    return {"note": str(ctx.input)}


@step("resize", runs_in="process")
def resize(ctx: StepContext) -> Completed:
    """Runs in a process."""
    return Completed(ctx.outputs["fetch"], outcome="passed")


def serve() -> None:
    """A worker."""
    assert_type(resize, Step)
    Worker([fetch, resize], queues=["images"], address=["a:1", "[::1]:2"]).run()


async def watch(client: AsyncClient, task_id: str) -> None:
    """A watch that is left early closes its stream."""
    async with aclosing(client.watch(task_id)) as items:
        async for item in items:
            assert_type(item, Task | TaskEvent | Gap)
            return


def submit(client: Client) -> Submitted:
    """A submit that was not answered is joined."""
    try:
        return client.submit("images", {"url": "x"}, call_timeout_s=10)
    except errors.OutcomeUnknown as error:
        return client.submit("images", {"url": "x"}, request_id=error.request_id)


def watch_blocking(client: Client, task_id: str) -> None:
    """The same without asyncio."""
    with closing(client.watch(task_id, after=0)) as items:
        assert_type(next(items), Task | TaskEvent | Gap)


def check() -> None:
    """Tests of one step, and of whole tasks."""
    context = step_context(input="x", outputs={"fetch": {"note": "y"}})
    run = run_step(resize, context=context)
    assert_type(run, StepRun)
    assert_type(run.output, Value)
    assert_type(context.reports, list[Report])
    with LocalStepstream(steps=[fetch, resize]) as local:
        assert_type(local.client, Client)
