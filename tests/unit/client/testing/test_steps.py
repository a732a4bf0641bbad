"""One step, run without a worker."""

from __future__ import annotations

import asyncio

import pytest

from stepstream import Completed, NotRetryable, StepContext, errors, step
from stepstream.testing import Report, StepRun, run_step, run_step_async, step_context
from tests.unit.client.worker.process_steps import look


@step("plain")
def plain(ctx: StepContext) -> Completed:
    ctx.progress(0.25, "begun")
    ctx.progress(7)
    return Completed({"seen": ctx.input, "before": ctx.outputs}, outcome="passed")


@step("waits")
async def waits(ctx: StepContext) -> str | None:
    await asyncio.sleep(0)
    return ctx.feedback


@step("fails")
def fails(ctx: StepContext) -> None:
    ctx.progress(0.5)
    raise NotRetryable("no such page", code="NO_PAGE")


def test_a_plain_step_runs_with_what_it_is_given():
    run = run_step(plain, input={"n": 1.0}, outputs={"first": "x"})

    assert run == StepRun(
        output={"seen": {"n": 1}, "before": {"first": "x"}},
        outcome="passed",
        reports=[Report(0.25, "begun"), Report(1.0, "")],
    )


def test_an_async_step_runs_on_a_loop_of_its_own():
    assert run_step(waits, feedback="again").output == "again"


async def test_an_async_step_runs_on_the_loop_of_its_test():
    assert (await run_step_async(waits, feedback="again")).output == "again"
    assert (await run_step_async(plain)).outcome == "passed"


async def test_a_running_loop_is_told_what_to_use():
    with pytest.raises(RuntimeError, match="run_step_async"):
        run_step(waits)


def test_a_function_without_a_decorator_will_do():
    def name(ctx: StepContext) -> str:
        return ctx.idempotency_key

    assert run_step(name, task_id="t-9").output == "t-9/name"


def test_a_step_for_a_process_runs_here():
    assert run_step(look, attempt=3).output["attempt"] == 3


def test_what_a_step_raises_is_raised_and_its_progress_is_kept():
    context = step_context(attempt=2)

    with pytest.raises(NotRetryable, match="no such page"):
        run_step(fails, context=context)

    assert context.reports == [Report(0.5, "")]


def test_a_step_can_be_told_to_stop():
    context = step_context()
    context.cancel()

    assert context.cancelled


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        (17, errors.InvalidTask),
        ({"n": 2**60}, errors.InvalidTask),
        (b"x" * 1048577, errors.PayloadTooLarge),
    ],
)
def test_an_output_that_cannot_travel_is_refused(output: object, kind: type[Exception]):
    with pytest.raises(kind):
        run_step(step("give")(lambda _: output))
