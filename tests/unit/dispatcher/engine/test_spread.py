"""A dispatcher that has come back gets its share of the workers, a few at a time."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import pytest

from stepstream.session import STREAM_AGE_S
from stepstream_dispatcher.engine.sessions import Session
from stepstream_dispatcher.engine.spread import LOOK_EVERY_S
from stepstream_dispatcher.store.local import LocalStore
from tests.support.engine import Dispatcher, database
from tests.support.virtual_time import in_virtual_time, pass_time

LOOPS = ("committer", "feeder", "settling", "recovery", "intents", "spread", "_roster")


@asynccontextmanager
async def dispatchers(*names: str):
    """Dispatchers on one store that hear each other."""
    shared = database()
    async with AsyncExitStack() as stack:
        made = [Dispatcher(shared, *LOOPS, dispatcher_id=name) for name in names]
        for one in made:
            one.store.signals = partial(LocalStore.signals, one.store)
            await stack.enter_async_context(one)
        yield made


async def with_workers(dispatcher: Dispatcher, amount: int) -> list[Session]:
    return [await dispatcher.connect(f"worker-{number}") for number in range(amount)]


def told(sessions: list[Session]) -> list[Session]:
    return [session for session in sessions if session.outbox.drain and not session.outbox.leave]


async def move(source: Dispatcher, goal: Dispatcher, sessions: list[Session]) -> None:
    """What workers do that are told to move."""
    for session in told(sessions):
        session.outbox.drain = ""
        await goal.connect(session.hello.worker_name)
        source.engine.sessions.remove(session)


async def keep_moving(
    source: Dispatcher, goal: Dispatcher, sessions: list[Session], *, looks: int
) -> None:
    for _ in range(4 * looks):
        await pass_time(LOOK_EVERY_S / 4)
        await move(source, goal, sessions)


@pytest.mark.parametrize(("workers", "wanted"), [(1, 0), (2, 1), (3, 1), (10, 5), (25, 12)])
@in_virtual_time
async def test_workers_spread_over_a_dispatcher_that_has_come_back(workers: int, wanted: int):
    async with dispatchers("full", "back") as (full, back):
        sessions = await with_workers(full, workers)
        await keep_moving(full, back, sessions, looks=30)

        assert len(back.engine.sessions) == wanted


@in_virtual_time
async def test_few_are_told_at_a_time_and_those_first_that_have_least_to_do():
    async with dispatchers("full", "back") as (full, _):
        sessions = await with_workers(full, 30)
        for number in range(58):
            await full.submit(b"%d" % number)
        await pass_time(1)
        for session in sessions:
            session.outbox.take_handouts()

        await pass_time(LOOK_EVERY_S)

        assert len(told(sessions)) == 2
        assert max(len(one.attempts) for one in told(sessions)) <= 1
        assert all(one.free == 0 for one in told(sessions))


@in_virtual_time
async def test_a_worker_that_comes_back_is_left_in_peace():
    async with dispatchers("full", "back") as (full, _):
        sessions = await with_workers(full, 2)
        await pass_time(LOOK_EVERY_S * 1.5)
        (moved,) = told(sessions)
        again = await full.connect(moved.hello.worker_name)
        other = next(one for one in sessions if one is not moved)
        await pass_time(LOOK_EVERY_S)
        assert other.outbox.drain

        other_again = await full.connect(other.hello.worker_name)
        await pass_time(STREAM_AGE_S - 4 * LOOK_EVERY_S)
        assert not told([again, other_again])
        await pass_time(5 * LOOK_EVERY_S)
        assert told([again, other_again])


async def with_unsent(dispatcher: Dispatcher, amount: int) -> tuple[list[Session], list[str]]:
    """Workers with full hands that nobody has written to, and commits that wait from now on."""
    sessions = await with_workers(dispatcher, amount)
    tasks = [await dispatcher.submit(b"%d" % number) for number in range(2 * amount)]
    await pass_time(1)
    for session in sessions:
        await session.outbox.filled()
    dispatcher.store.slow.clear()
    return sessions, tasks


@in_virtual_time
async def test_all_are_told_before_the_first_has_given_back_what_it_was_not_sent():
    async with dispatchers("full") as (full,), asyncio.TaskGroup() as group:
        sessions, _ = await with_unsent(full, 3)

        sparing = group.create_task(full.engine.spread.spare(3))
        await pass_time(1)

        assert not sparing.done()
        assert told(sessions) == sessions
        async with asyncio.timeout(1):  # their writers are woken
            for session in sessions:
                await session.outbox.filled()
        full.store.slow.set()


@in_virtual_time
async def test_one_that_vanishes_while_others_give_back_does_no_harm():
    async with dispatchers("full") as (full,):
        sessions, tasks = await with_unsent(full, 3)

        async with asyncio.TaskGroup() as group:
            group.create_task(full.engine.spread.spare(3))
            await pass_time(1)
            group.create_task(full.engine.leases.give_up(sessions[1], "it is gone"))
            await pass_time(1)
            full.store.slow.set()
        assert sessions[1] not in list(full.engine.sessions)

        another = await full.connect("another", slots=6)
        handouts = await full.handed_out(another, 6)
        assert {one.attempt.task_id for one in handouts} == set(tasks)
        assert [one.attempt.record.losses for one in handouts] == [0] * 6


@in_virtual_time
async def test_one_that_leaves_asks_nobody():
    async with dispatchers("full", "leaving") as (full, leaving):
        sessions = await with_workers(full, 4)
        leaving.engine.draining = True

        await pass_time(10 * LOOK_EVERY_S)

        assert not told(sessions)


@in_virtual_time
async def test_one_that_is_dead_has_no_share():
    async with dispatchers("full", "new", "dead") as (full, new, dead):
        await dead.spoil(await dead.submit())
        await dead.store.read("default", 1)  # so that nobody can forget it
        dead.stop_loops()
        sessions = await with_workers(full, 4)
        await keep_moving(full, new, sessions, looks=10)

        assert (len(full.engine.sessions), len(new.engine.sessions)) == (2, 2)
