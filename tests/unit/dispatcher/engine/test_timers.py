"""Delayed tasks are queued when they are due, not later, and once."""

import asyncio

import pytest

from stepstream_dispatcher.core.facts import Failed
from stepstream_dispatcher.core.record import EventType, Stage
from tests.support.engine import Dispatcher, with_dispatcher
from tests.support.virtual_time import pass_time

timed = with_dispatcher("committer", "timers")
fed = with_dispatcher("committer", "timers", "feeder", "settling")


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


@timed
async def test_timers_of_tasks_that_are_gone_hold_up_no_other(dispatcher: Dispatcher):
    for number in range(600):
        await dispatcher.submit(b"%d" % number, delay_ms=1_000)
    statement = "UPDATE tasks SET expires_ms = 1"
    await dispatcher.store._database.run(lambda c: c.execute(statement))
    sound = await dispatcher.submit(b"sound", delay_ms=1_000)

    await pass_time(1.1)

    assert (await dispatcher.record(sound)).stage is Stage.QUEUED
    assert await dispatcher.store.due(limit=10) == ([], None)


# --- deadlines -----------------------------------------------------------------------------------


async def failed_after(dispatcher: Dispatcher, task_id: str) -> float:
    """Seconds from the task's creation to its failure."""
    record, events = await dispatcher.record(task_id), await dispatcher.history(task_id)
    assert (record.state, events[-1].detail) == ("failed", "DEADLINE_EXCEEDED")
    return (events[-1].at_ms - record.created_ms) / 1000


@pytest.mark.parametrize("delay_ms", [0, 2_000])
@timed
async def test_task_that_nobody_leases_fails_at_its_deadline(dispatcher: Dispatcher, delay_ms: int):
    task_id = await dispatcher.submit(delay_ms=delay_ms, deadline_ms=3_000)

    await pass_time(2.9)
    assert (await dispatcher.record(task_id)).stage is Stage.QUEUED
    await pass_time(0.2)

    assert await failed_after(dispatcher, task_id) < 3.01
    assert await dispatcher.store.read("default", 10) == []
    assert await dispatcher.store.due(limit=10) == ([], None)


@fed
async def test_retry_that_is_not_due_by_the_deadline_never_runs(dispatcher: Dispatcher):
    session = await dispatcher.connect()
    task_id = await dispatcher.submit(deadline_ms=3_000)
    (handout,) = await dispatcher.handed_out(session)
    token = handout.attempt.record.lease
    fact = Failed(token=token, code="BUSY", message="", retryable=True, retry_after_ms=60_000)
    await dispatcher.report(session, handout, fact)

    await pass_time(3.1)

    assert await failed_after(dispatcher, task_id) < 3.01


@fed
async def test_retry_that_is_due_before_the_deadline_runs_until_it(dispatcher: Dispatcher):
    session = await dispatcher.connect()
    await dispatcher.submit(deadline_ms=3_000)
    (handout,) = await dispatcher.handed_out(session)
    token = handout.attempt.record.lease
    fact = Failed(token=token, code="BUSY", message="", retryable=True, retry_after_ms=1_000)
    await dispatcher.report(session, handout, fact)

    (again,) = await dispatcher.handed_out(session)

    assert again.timeout_ms == pytest.approx(2_000, abs=5)


@timed
async def test_many_deadlines_at_once_all_pass(dispatcher: Dispatcher):
    tasks = [await dispatcher.submit(b"%d" % n, deadline_ms=1_000) for n in range(600)]

    await pass_time(1.1)

    assert {(await dispatcher.record(task_id)).state for task_id in tasks} == {"failed"}


@timed
async def test_deadline_that_passed_while_no_dispatcher_ran_passes_at_the_start(
    dispatcher: Dispatcher,
):
    task_id = await dispatcher.submit(deadline_ms=1_000)
    dispatcher.stop_loops()
    await pass_time(10)
    assert (await dispatcher.record(task_id)).stage is Stage.QUEUED

    for loop in (dispatcher.engine.committer, dispatcher.engine.timers):
        dispatcher.run(loop.run)
    await pass_time(0.1)

    assert (await dispatcher.record(task_id)).state == "failed"
