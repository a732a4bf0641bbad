"""Handlers and how a worker finds them."""

from types import ModuleType

import pytest

from stepstream.worker import RetryAfter, Step, StepContext, find_steps, step
from stepstream.worker.attempt import Attempt
from tests.support.fake_dispatcher import assignment


def context(**fields: object) -> StepContext:
    return StepContext(Attempt(assignment(1, **fields), lambda attempt: None))


@step("shout")
def shout(ctx: StepContext) -> str:
    """Says it loudly."""
    return str(ctx.input).upper()


@step("whisper")
async def whisper(ctx: StepContext) -> str:
    return str(ctx.input).lower()


def test_a_step_can_be_called_without_a_worker() -> None:
    assert shout(context(value="hello")) == "HELLO"
    assert shout.__doc__ == "Says it loudly."


def test_a_step_knows_whether_it_is_async() -> None:
    assert (shout.is_async, whisper.is_async) == (False, True)


@pytest.mark.parametrize("name", ["", "two words", "x" * 65, "é"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="step name"):
        Step(name, print)


def test_the_steps_of_a_module_are_found_by_name() -> None:
    module = ModuleType("steps")
    module.b, module.a, module.again, module.other = whisper, shout, shout, print

    assert find_steps(module) == [shout, whisper]


@pytest.mark.parametrize("seconds", [-1, float("nan"), 86_401])
def test_retry_after_has_a_range(seconds: float) -> None:
    with pytest.raises(ValueError, match="retry after"):
        RetryAfter(seconds)


@pytest.mark.parametrize(("fraction", "kept"), [(-1, 0), (0.5, 0.5), (7, 1), (float("nan"), 1)])
def test_progress_is_kept_within_its_range(fraction: float, kept: float) -> None:
    told: list[Attempt] = []
    attempt = Attempt(assignment(1), told.append)

    StepContext(attempt).progress(fraction, "note")
    StepContext(attempt).progress(fraction, "note")

    assert attempt.read_progress() == (kept, "note")
    assert told == [attempt]
