"""Lanes that share a worker, steps that end together, wakes that cross: nobody is kept waiting."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from stepstream_dispatcher.core.facts import Completed
from stepstream_dispatcher.core.record import EventType
from stepstream_dispatcher.engine.sessions import Handout, Session
from tests.support.engine import Dispatcher, settlement, with_dispatcher
from tests.support.virtual_time import pass_time

feeding = with_dispatcher("committer", "feeder", "settling")
OUTCOMES = {"translate": "completed", "verify": "passed"}


def done(handout: Handout) -> Completed:
    record = handout.attempt.record
    return Completed(token=record.lease, outcome=OUTCOMES[record.step], output=b"x")


@asynccontextmanager
async def working(
    dispatcher: Dispatcher, session: Session, step_s: Callable[[], float]
) -> AsyncIterator[Counter[str]]:
    """A worker whose steps take so long; counts what it is given, by lane."""
    given: Counter[str] = Counter()

    async def run(handout: Handout) -> None:
        await pass_time(step_s())
        dispatcher.engine.settling.receive(session, [settlement(handout, done(handout))])

    async def take(group: asyncio.TaskGroup) -> None:
        while True:
            for handout in await dispatcher.handed_out(session):
                session.outbox.receipts.clear()
                given[handout.attempt.record.queue] += 1
                group.create_task(run(handout))

    async with asyncio.TaskGroup() as group:
        taking = group.create_task(take(group))
        yield given
        taking.cancel()


@pytest.mark.parametrize("step_s", [0.05, 0.5])
@feeding
async def test_a_backlog_keeps_no_other_lane_of_its_workers_waiting(
    dispatcher: Dispatcher, step_s: float
):
    """Each task that is translated has to be verified by the same worker."""
    rng = random.Random(1)
    session = await dispatcher.connect(slots=8)

    async with working(
        dispatcher, session, lambda: rng.uniform(0.6 * step_s, 1.4 * step_s)
    ) as given:
        for _ in range(40):
            for _ in range(round(10 / step_s)):
                await dispatcher.submit()
            await pass_time(20 * step_s)
            if given.total() >= 200:
                break

    assert given["checks"] >= 0.8 * given["default"]


@feeding
async def test_steps_that_end_together_are_not_read_in_vain(dispatcher: Dispatcher):
    """What finds no room goes back, behind all others."""
    session = await dispatcher.connect(
        slots=20, queues=frozenset({"default"}), step_types=frozenset({"translate"})
    )
    for _ in range(100):
        await dispatcher.submit()

    async with working(dispatcher, session, lambda: 1.5) as given:
        await pass_time(7)

    events = [one.event.type for call in dispatcher.store.commits for one in call]
    assert given["default"] >= 80
    assert EventType.QUEUED not in events


@feeding
async def test_a_lane_that_gets_credit_while_the_reader_is_woken_is_waited_on_at_once(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
):
    """The wake that was under way was for the wait before."""
    feeder, wake = dispatcher.engine.feeder, dispatcher.store.wake

    async def slow_wake() -> None:
        await wake()
        await pass_time(0.002)

    await dispatcher.connect(
        "translator", queues=frozenset({"default"}), step_types=frozenset({"translate"})
    )
    await dispatcher.connect(
        "verifier", queues=frozenset({"checks"}), step_types=frozenset({"verify"})
    )
    feeder.pause(frozenset({"checks"}))
    await pass_time(3)
    monkeypatch.setattr(dispatcher.store, "wake", slow_wake)

    feeder.pause(frozenset({"default", "checks"}))
    await pass_time(0.0005)
    feeder.pause(frozenset({"checks"}))
    await pass_time(0.0005)
    feeder.pause(frozenset())
    await pass_time(0.1)

    assert feeder._waiting_on == {"default", "checks"}
