"""What every replica may read about the workers of this one."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence

from tests.support.engine import Dispatcher, with_dispatcher
from tests.support.virtual_time import pass_time

rostered = with_dispatcher("committer", "feeder", "_roster")


async def known(dispatcher: Dispatcher, name: str = "worker-1") -> dict[str, str]:
    return (await dispatcher.store.workers())[name]


def marks_of(dispatcher: Dispatcher) -> list[Sequence[str]]:
    """The names of each call that marks workers, from now on."""
    marked: list[Sequence[str]] = []
    mark_left = dispatcher.store.mark_left

    async def noted(names: Sequence[str]) -> None:
        marked.append(names)
        await mark_left(names)

    dispatcher.store.mark_left = noted  # type: ignore[method-assign]
    return marked


@rostered
async def test_worker_is_known_as_soon_as_it_is_registered(dispatcher: Dispatcher):
    await dispatcher.connect(slots=3)

    fields = await known(dispatcher)
    assert fields["is_running"] == "1"
    assert fields["max_in_flight"] == "3"
    assert fields["dispatcher"] == "dispatcher-1"
    assert fields["current_tasks"] == "0"


@rostered
async def test_each_of_many_that_come_at_once_is_written_once(dispatcher: Dispatcher):
    """And once more at most by the loop, which may be at it."""
    written: Counter[str] = Counter()
    save = dispatcher.store.save_worker

    async def counted(name: str, fields: Mapping[str, str | int]) -> None:
        written[name] += 1
        await save(name, fields)

    dispatcher.store.save_worker = counted  # type: ignore[method-assign]
    async with asyncio.TaskGroup() as group:
        for number in range(50):
            group.create_task(dispatcher.connect(f"worker-{number}"))

    assert len(written) == 50
    assert max(written.values()) <= 2


@rostered
async def test_held_attempts_are_counted(dispatcher: Dispatcher):
    session = await dispatcher.connect()
    await dispatcher.submit()
    await dispatcher.handed_out(session)
    await pass_time(0.3)

    assert (await known(dispatcher))["current_tasks"] == "1"


@rostered
async def test_worker_that_left_is_marked_once(dispatcher: Dispatcher):
    session = await dispatcher.connect()

    marked = marks_of(dispatcher)
    dispatcher.engine.leases.broke(session)
    await pass_time(0.6)

    assert marked == [["worker-1"]]
    assert (await known(dispatcher))["is_running"] == "0"


@rostered
async def test_worker_that_moved_to_another_dispatcher_stays_as_that_one_says(
    dispatcher: Dispatcher,
):
    session = await dispatcher.connect()
    await dispatcher.store.save_worker("worker-1", {"dispatcher": "dispatcher-2"})

    dispatcher.engine.leases.broke(session)
    await pass_time(0.3)

    assert (await known(dispatcher))["is_running"] == "1"


@rostered
async def test_all_that_left_at_once_are_marked_by_one_call(dispatcher: Dispatcher):
    """2,000 that are cut off must not hold up a dispatcher that leaves."""
    sessions = [await dispatcher.connect(f"worker-{number}") for number in range(50)]
    marked = marks_of(dispatcher)
    for session in sessions:
        dispatcher.engine.leases.broke(session)

    await dispatcher.engine._roster.save()

    assert [len(names) for names in marked] == [50]
    workers = await dispatcher.store.workers()
    assert {fields["is_running"] for fields in workers.values()} == {"0"}


@with_dispatcher("committer")
async def test_one_that_comes_during_a_save_has_not_left(dispatcher: Dispatcher):
    """A save writes all that are there before it looks for those that left."""
    sessions = [await dispatcher.connect(f"worker-{number}") for number in range(5)]
    marked = marks_of(dispatcher)
    for session in sessions:
        session.max_in_flight = 9

    async with asyncio.TaskGroup() as group:
        group.create_task(dispatcher.engine._roster.save())
        group.create_task(dispatcher.connect("worker-5"))

    assert marked == []
    assert (await known(dispatcher, "worker-5"))["is_running"] == "1"


@with_dispatcher("committer")
async def test_one_that_comes_back_while_it_is_marked_is_written_again(dispatcher: Dispatcher):
    """Its own write is carried out before the mark, and answered after it."""
    store, session = dispatcher.store, await dispatcher.connect()
    save_worker, mark_left = store.save_worker, store.mark_left
    leaving, written, marked = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def answered_late(name: str, fields: Mapping[str, str | int]) -> None:
        await save_worker(name, fields)
        written.set()
        await marked.wait()

    async def marked_late(names: Sequence[str]) -> None:
        leaving.set()
        await written.wait()
        await mark_left(names)

    dispatcher.engine.leases.broke(session)
    store.save_worker, store.mark_left = answered_late, marked_late  # type: ignore[method-assign]
    async with asyncio.TaskGroup() as group:
        saving = group.create_task(dispatcher.engine._roster.save())
        await leaving.wait()
        group.create_task(dispatcher.connect(slots=9))
        await saving
        marked.set()
    await dispatcher.engine._roster.save()

    assert (await known(dispatcher))["is_running"] == "1"


@rostered
async def test_saves_side_by_side_do_not_trip_over_a_worker_that_left(dispatcher: Dispatcher):
    """A registration saves the roster while its loop does."""
    session = await dispatcher.connect()
    dispatcher.engine.leases.broke(session)

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(dispatcher.engine._roster.save())

    assert (await known(dispatcher))["is_running"] == "0"


@rostered
async def test_unchanged_worker_is_written_once_a_minute(dispatcher: Dispatcher):
    await dispatcher.connect()
    written: list[str] = []
    save_worker = dispatcher.store.save_worker

    async def counted(name: str, fields: dict[str, str | int]) -> None:
        written.append(name)
        await save_worker(name, fields)

    dispatcher.store.save_worker = counted  # type: ignore[method-assign, assignment]
    await pass_time(130)

    assert written == ["worker-1"] * 2


@with_dispatcher("committer")
async def test_each_of_many_workers_has_its_turn(dispatcher: Dispatcher):
    names = [f"worker-{number}" for number in range(5)]
    for name in names:
        session = await dispatcher.connect(name, slots=1)
        session.max_in_flight = 2
    seen = []

    for _ in range(3):
        await dispatcher.engine._roster.save(2)
        known = await dispatcher.store.workers()
        seen.append(sum(known[name]["max_in_flight"] == "2" for name in names))

    assert seen == [2, 4, 5]


@rostered
async def test_worker_that_serves_another_queue_from_its_new_stream_on_is_written_anew(
    dispatcher: Dispatcher,
):
    await dispatcher.connect(queues=frozenset({"default"}))

    await dispatcher.connect(queues=frozenset({"checks"}))

    assert (await known(dispatcher))["queues"] == "checks"
