"""A loop that is kept running."""

import asyncio
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from stepstream.errors import StepstreamError, StoreBusy, StoreUnavailable
from stepstream_dispatcher.engine.supervise import LoopHealth, supervise
from tests.support.virtual_time import in_virtual_time, pass_time


class ManualClock:
    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Script:
    """Fails or returns as told, each pass after so many seconds; cancelled at the end."""

    def __init__(
        self, clock: ManualClock, passes: Sequence[Exception | None], *, lasting_s: float = 0.0
    ) -> None:
        self.clock = clock
        self.passes = list(passes)
        self.lasting_s = lasting_s

    async def __call__(self) -> None:
        if not self.passes:
            raise asyncio.CancelledError
        self.clock.now += self.lasting_s
        outcome = self.passes.pop(0)
        if outcome is not None:
            raise outcome


async def supervised(
    passes: Sequence[Exception | None], *, lasting_s: float = 0.0, rand: float = 1.0
) -> tuple[ManualClock, LoopHealth, list[str]]:
    clock = ManualClock()
    health = LoopHealth()
    with capture_logs() as logs, pytest.raises(asyncio.CancelledError):
        await supervise(
            "feeder",
            Script(clock, passes, lasting_s=lasting_s),
            health=health,
            clock=clock,
            rand=lambda: rand,
        )
    return clock, health, [line["event"] for line in logs]


async def test_backoff_doubles_to_five_seconds():
    clock, _, _ = await supervised([ValueError()] * 7)

    assert clock.slept == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


@pytest.mark.parametrize(("rand", "slept"), [(0.0, [0.1, 0.2]), (0.5, [0.15, 0.3])])
async def test_backoff_has_jitter_and_a_floor(rand: float, slept: list[float]):
    clock, _, _ = await supervised([ValueError()] * 2, rand=rand)

    assert clock.slept == pytest.approx(slept)


async def test_pass_that_returns_is_run_again_at_once_and_ends_the_backoff():
    clock, health, events = await supervised([ValueError(), None, ValueError()])

    assert clock.slept == [0.2, 0, 0.2]
    assert health.failures == 2
    assert events == ["loop.failed", "loop.recovered", "loop.failed"]


async def test_loop_that_ran_long_has_recovered():
    clock, health, _ = await supervised([ValueError()] * 3, lasting_s=6)

    assert clock.slept == [0.2, 0.2, 0.2]
    assert health.in_a_row == 1


async def test_failures_are_counted_with_the_last_error():
    _, health, _ = await supervised([ValueError("a"), KeyError("b")])

    assert (health.failures, health.in_a_row) == (2, 2)
    assert health.last_error == "KeyError: 'b'"


@pytest.mark.parametrize("kind", [StoreUnavailable, StoreBusy])
async def test_outage_is_tried_again_within_half_a_second(kind: type[StepstreamError]):
    """What waits for the store is due at once when it is back."""
    clock, _, events = await supervised([kind("no answer")] * 5)

    assert clock.slept == [0.2, 0.4, 0.5, 0.5, 0.5]
    assert events == ["loop.store_unavailable"]


async def test_failures_after_an_outage_back_off_as_always():
    passes = [StoreUnavailable("no answer")] * 4 + [ValueError()]

    clock, _, _ = await supervised(passes)

    assert clock.slept[-1] == 3.2


async def test_outage_is_logged_once_and_again_after_recovery():
    down = StoreUnavailable("no answer")

    _, health, events = await supervised([down, down, None, down])

    assert events == ["loop.store_unavailable", "loop.recovered", "loop.store_unavailable"]
    assert health.outage


async def test_outage_in_a_task_group_is_an_outage():
    down = ExceptionGroup(
        "group", [StoreUnavailable("x"), ExceptionGroup("", [StoreUnavailable()])]
    )

    _, _, events = await supervised([down, down])

    assert events == ["loop.store_unavailable"]


async def test_group_with_another_error_is_a_failure():
    _, health, events = await supervised([ExceptionGroup("g", [StoreUnavailable(), ValueError()])])

    assert events == ["loop.failed"]
    assert not health.outage


async def test_cancellation_ends_it_on_the_real_clock():
    started = asyncio.Event()

    async def run() -> None:
        started.set()
        await asyncio.Event().wait()

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        task = group.create_task(supervise("loop", run))
        await started.wait()
        task.cancel()

    assert task.cancelled()


async def test_cancelled_loop_that_ends_with_an_error_is_not_run_again():
    runs = 0
    running = asyncio.Event()

    async def fails_on_its_way_out() -> None:
        nonlocal runs
        runs += 1
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise StoreUnavailable("interrupted")

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        ending = asyncio.Event()
        loop = group.create_task(supervise("loop", fails_on_its_way_out, ending=ending.is_set))
        await running.wait()
        ending.set()
        loop.cancel()

    assert loop.cancelled()
    assert runs == 1


@in_virtual_time
async def test_loop_that_runs_on_after_an_outage_has_recovered():
    """Its pass never ends, so that nothing else would ever say so."""
    health = LoopHealth()
    failures = [StoreUnavailable("no answer")]

    async def run() -> None:
        if failures:
            raise failures.pop()
        await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        loop = group.create_task(supervise("feeder", run, health=health))
        await pass_time(1)
        soon = health.outage
        await pass_time(5)
        later = health.outage
        loop.cancel()

    assert (soon, later) == (True, False)
    assert health.in_a_row == 0
