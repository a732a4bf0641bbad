"""Paused lanes and workers that are to leave: obeyed at once where asked, soon everywhere else."""

import asyncio

from stepstream_dispatcher.core.facts import Completed
from stepstream_dispatcher.core.record import EventType, Stage
from stepstream_dispatcher.store.port import Signal
from tests.support.engine import Dispatcher, database, make_dangerous, with_dispatcher
from tests.support.virtual_time import in_virtual_time, pass_time

obeying = with_dispatcher("committer", "feeder", "settling", "intents")
OTHER_LOOPS = ("committer", "feeder", "intents")


async def leases_of(dispatcher: Dispatcher, task_id: str) -> int:
    events = await dispatcher.history(task_id)
    return [event.type for event in events].count(EventType.LEASED)


# --- queues --------------------------------------------------------------------------------------


@obeying
async def test_nothing_is_handed_out_of_a_paused_lane(dispatcher: Dispatcher):
    session = await dispatcher.connect()
    await pass_time(0.1)  # the reader blocks on the lane by now

    await dispatcher.engine.operations.pause("default")
    task_id = await dispatcher.submit()
    await pass_time(10)

    assert session.outbox.handouts == []
    assert len(await dispatcher.history(task_id)) == 1  # nobody has even taken it
    assert dispatcher.engine.feeder.in_hand == set()


@obeying
async def test_what_runs_goes_on_while_its_lane_is_paused(dispatcher: Dispatcher):
    session = await dispatcher.connect()
    task_id = await dispatcher.submit()
    (handout,) = await dispatcher.handed_out(session)

    await dispatcher.engine.operations.pause("default")
    lease = handout.attempt.record.lease
    word = await dispatcher.report(
        session, handout, Completed(token=lease, outcome="completed", output=b"x")
    )

    assert word == "ACCEPTED"
    assert (await dispatcher.record(task_id)).step == "verify"


@obeying
async def test_other_lanes_are_fed_while_one_is_paused(dispatcher: Dispatcher):
    session = await dispatcher.connect()
    await dispatcher.engine.operations.pause("checks")

    task_id = await dispatcher.submit()
    (handout,) = await dispatcher.handed_out(session)

    assert handout.attempt.task_id == task_id


@obeying
async def test_resumed_lane_is_fed_at_once(dispatcher: Dispatcher):
    session = await dispatcher.connect()
    await dispatcher.engine.operations.pause("default")
    await dispatcher.submit()
    await pass_time(5)

    await dispatcher.engine.operations.resume("default")
    await pass_time(0.05)

    assert len(session.outbox.handouts) == 1


@obeying
async def test_entry_in_hand_goes_back_at_once_and_uncharged(dispatcher: Dispatcher):
    session = await dispatcher.connect(slots=1)
    await pass_time(0.5)  # the reader blocks on the lane
    session.max_in_flight = 0
    task_id = await dispatcher.submit()
    await pass_time(0.1)
    assert len(dispatcher.engine.feeder.in_hand) == 1

    await dispatcher.engine.operations.pause("default")
    await pass_time(0.01)

    record = await dispatcher.record(task_id)
    assert dispatcher.engine.feeder.in_hand == set()
    assert (record.stage, record.attempt, record.errors) == (Stage.QUEUED, 0, 0)
    assert (await dispatcher.history(task_id))[-1].message == "its queue is paused"


@obeying
async def test_entry_that_was_on_its_way_goes_back_at_once(dispatcher: Dispatcher):
    """The pause comes between the read and the hand-out, and nothing else stirs."""
    feeder, read = dispatcher.engine.feeder, dispatcher.store.read

    async def paused_after(queue: str, count: int):
        entries = await read(queue, count)
        if entries:
            feeder.paused = frozenset({"default"})
        return entries

    dispatcher.store.read = paused_after  # type: ignore[method-assign]
    task_id = await dispatcher.submit()
    await dispatcher.connect()
    await pass_time(0.1)

    assert feeder.in_hand == set()
    assert (await dispatcher.history(task_id))[-1].message == "its queue is paused"


@obeying
async def test_step_that_waits_for_an_idle_worker_goes_back_uncharged(dispatcher: Dispatcher):
    session = await dispatcher.connect(slots=2)
    await dispatcher.submit(b"runs")
    await dispatcher.handed_out(session)
    session.max_in_flight = 1  # nothing is read while it is made dangerous
    dispatcher.engine.sessions.stir()
    await pass_time(0.1)
    task_id = await dispatcher.submit(b"alone")
    await make_dangerous(dispatcher, task_id)
    session.max_in_flight = 2
    dispatcher.engine.sessions.stir()
    await pass_time(0.3)
    assert session.reserved

    await dispatcher.engine.operations.pause("default")
    await pass_time(0.1)

    assert not session.reserved
    assert dispatcher.engine.feeder.in_hand == set()
    assert (await dispatcher.record(task_id)).stage is Stage.QUEUED


@in_virtual_time
async def test_pause_reaches_a_dispatcher_that_hears_nothing_within_two_seconds():
    shared = database()
    async with (
        Dispatcher(shared, *OTHER_LOOPS) as asked,
        Dispatcher(shared, *OTHER_LOOPS, dispatcher_id="dispatcher-2") as other,
    ):
        session = await other.connect()
        await asked.engine.operations.pause("default")
        await pass_time(2)

        task_id = await asked.submit()
        await pass_time(3)
        assert await leases_of(asked, task_id) == 0

        await asked.engine.operations.resume("default")
        await pass_time(2)
        assert len(session.outbox.handouts) == 1


@obeying
async def test_a_message_makes_it_look_at_once(dispatcher: Dispatcher):
    await pass_time(0.1)
    await dispatcher.store.pause("default")

    await dispatcher.store.heard.put(Signal("intent", payload=b"pause default"))
    await pass_time(0.01)

    assert dispatcher.engine.feeder.paused == {"default"}


@obeying
async def test_an_older_answer_does_not_replace_a_newer_one(dispatcher: Dispatcher):
    """A look that began before the pause may get its answer after it."""
    asked, answered = asyncio.Event(), asyncio.Event()
    read = dispatcher.store.intents

    async def slow():
        intents = await read()
        asked.set()
        await answered.wait()
        return intents

    dispatcher.store.intents = slow  # type: ignore[method-assign]
    dispatcher.run(dispatcher.engine.intents.look)
    await asked.wait()
    dispatcher.store.intents = read  # type: ignore[method-assign]

    async with asyncio.TaskGroup() as group:
        group.create_task(dispatcher.engine.operations.pause("default"))
        await pass_time(0.01)
        answered.set()
    await pass_time(0.01)

    assert dispatcher.engine.feeder.paused == {"default"}


@in_virtual_time
async def test_pause_survives_a_restart():
    shared = database()
    async with Dispatcher(shared, "committer", "intents") as first:
        await first.engine.operations.pause("default")

    async with Dispatcher(shared, "committer", "feeder", "intents") as second:
        session = await second.connect()
        await second.submit()
        await pass_time(0.05)

        assert session.outbox.handouts == []


# --- workers -------------------------------------------------------------------------------------


@obeying
async def test_dismissed_worker_is_told_and_fed_no_more(dispatcher: Dispatcher):
    session = await dispatcher.connect()
    task_id = await dispatcher.submit(b"runs")
    await dispatcher.handed_out(session)

    await dispatcher.engine.operations.drain("worker-1")
    await dispatcher.submit(b"waits")
    await pass_time(5)

    assert (session.outbox.drain, session.outbox.leave) == ("an operator drains this worker", True)
    assert session.outbox.handouts == []
    assert [one.task_id for one in session.attempts.values()] == [task_id]


@obeying
async def test_dismissed_worker_is_told_once(dispatcher: Dispatcher):
    session = await dispatcher.connect()
    await dispatcher.engine.operations.drain("worker-1")
    session.outbox.drain = ""

    await dispatcher.engine.operations.drain("worker-1")
    await pass_time(5)

    assert session.outbox.drain == ""


@obeying
async def test_what_was_not_written_to_a_dismissed_worker_is_given_back(dispatcher: Dispatcher):
    session = await dispatcher.connect()
    task_id = await dispatcher.submit()
    await pass_time(0.1)

    await dispatcher.engine.operations.drain("worker-1")

    assert (session.outbox.handouts, session.attempts) == ([], {})
    assert (await dispatcher.record(task_id)).losses == 0


@in_virtual_time
async def test_worker_of_another_dispatcher_is_dismissed_within_two_seconds():
    """And without a message: the intent alone is enough."""
    shared = database()
    async with (
        Dispatcher(shared, *OTHER_LOOPS) as asked,
        Dispatcher(shared, *OTHER_LOOPS, dispatcher_id="dispatcher-2") as other,
    ):
        session = await other.connect()

        await asked.engine.operations.drain("worker-1")
        await pass_time(2)

        assert session.dismissed
        assert session.left


@obeying
async def test_dismissed_worker_that_moves_is_dismissed_where_it_comes(dispatcher: Dispatcher):
    await dispatcher.connect()
    await dispatcher.engine.operations.drain("worker-1")

    moved = await dispatcher.connect()

    assert moved.dismissed
    assert moved.outbox.leave


@obeying
async def test_its_successor_of_the_same_name_is_fed(dispatcher: Dispatcher):
    await dispatcher.connect()
    await dispatcher.engine.operations.drain("worker-1")

    successor = await dispatcher.connect(instance_id="another")
    await dispatcher.submit()
    await dispatcher.handed_out(successor)

    assert not successor.dismissed
