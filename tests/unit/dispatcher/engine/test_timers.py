"""Delayed tasks are queued when they are due, not later, and once."""

import asyncio

from stepstream_dispatcher.core.record import EventType, Stage
from tests.support.engine import Dispatcher, with_dispatcher
from tests.support.virtual_time import pass_time

timed = with_dispatcher("committer", "timers")


async def queued_after(dispatcher: Dispatcher, task_id: str) -> float:
    """Seconds from the task's creation to when it was queued."""
    created, queued = await dispatcher.history(task_id)
    assert queued.type is EventType.QUEUED
    return (queued.at_ms - created.at_ms) / 1000


@timed
async def test_scheduled_task_is_queued_when_it_is_due(dispatcher: Dispatcher):
    task_id = await dispatcher.submit(delay_ms=10_000)

    await pass_time(9.9)
    assert (await dispatcher.record(task_id)).stage is Stage.DELAYED
    await pass_time(0.2)

    assert (await dispatcher.record(task_id)).state == "pending"
    assert await queued_after(dispatcher, task_id) < 10.01


@timed
async def test_task_that_is_due_sooner_wakes_the_timer(dispatcher: Dispatcher):
    await dispatcher.submit(b"late", delay_ms=60_000)
    await pass_time(0.1)

    task_id = await dispatcher.submit(b"soon", delay_ms=50)
    await pass_time(1)

    assert await queued_after(dispatcher, task_id) < 0.06


@timed
async def test_delay_that_is_set_while_the_timer_looks_is_not_missed(dispatcher: Dispatcher):
    """The look does not see it, and what the timer waited for before is over by then."""
    store, due = dispatcher.store, dispatcher.store.due
    looking, go_on = asyncio.Event(), asyncio.Event()

    async def slow_due(*, limit: int) -> tuple[list[str], int | None]:
        found = await due(limit=limit)
        looking.set()
        await go_on.wait()
        return found

    first = await dispatcher.submit(b"first", delay_ms=100)
    await pass_time(0.05)
    await dispatcher.engine.desk.cancel(first, reason="")
    store.due = slow_due  # type: ignore[method-assign]
    await looking.wait()
    second = await dispatcher.submit(b"second", delay_ms=200)
    go_on.set()
    await pass_time(2)

    assert await queued_after(dispatcher, second) < 0.21


@timed
async def test_many_due_at_once_are_all_queued(dispatcher: Dispatcher):
    tasks = [await dispatcher.submit(b"%d" % number, delay_ms=1_000) for number in range(600)]

    await pass_time(1.1)

    assert {(await dispatcher.record(task_id)).stage for task_id in tasks} == {Stage.QUEUED}


@timed
async def test_leftover_in_the_delayed_set_does_not_spin(dispatcher: Dispatcher):
    await dispatcher.submit(delay_ms=100)
    statement = "UPDATE tasks SET fields = json_set(fields, '$.stage', 'queued')"
    await dispatcher.store._database.run(lambda c: c.execute(statement))
    await pass_time(0.5)
    looks = 0
    due = dispatcher.store.due

    async def counted(*, limit: int) -> tuple[list[str], int | None]:
        nonlocal looks
        looks += 1
        return await due(limit=limit)

    dispatcher.store.due = counted  # type: ignore[method-assign]
    await pass_time(10)

    assert looks <= 11
