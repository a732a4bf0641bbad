"""Work that nobody does is found wherever its entry is pending; the rest is left alone."""

import pytest

from stepstream_dispatcher.core.record import EventType, Stage
from stepstream_dispatcher.engine.recovery import PAGE, Recovery
from stepstream_dispatcher.engine.sessions import Handout, Session
from tests.support.engine import Dispatcher, brought, database, with_dispatcher
from tests.support.virtual_time import in_virtual_time, pass_time

PARTS = ("committer", "feeder", "settling")


def recovery_of(dispatcher: Dispatcher, *, silence_limit_s: float = 15.0) -> Recovery:
    engine = dispatcher.engine
    return Recovery(
        store=dispatcher.store,
        sessions=engine.sessions,
        committer=engine.committer,
        feeder=engine.feeder,
        dispatcher_id=engine.options.dispatcher_id,
        silence_limit_s=silence_limit_s,
        lanes=lambda: ["checks", "default"],
    )


async def leased_to(dispatcher: Dispatcher, **options: object) -> tuple[Session, Handout]:
    session = await dispatcher.connect(slots=1, **options)
    await dispatcher.submit()
    (handout,) = await dispatcher.handed_out(session)
    return session, handout


async def adopted_by(
    adopter: Dispatcher, former: Dispatcher, session: Session, handout: Handout
) -> Session:
    """Have a worker move to another dispatcher with its running attempt."""
    opened = await adopter.register(slots=1, inventory=(brought(handout),))
    assert opened.verdicts == [(handout.attempt.assignment_id, "KEEP")]
    session.attempts.clear()
    former.engine.sessions.remove(session)
    return opened.session


@with_dispatcher(*PARTS)
async def test_entry_that_was_taken_and_not_leased_is_queued_again(dispatcher: Dispatcher):
    task_id = await dispatcher.submit()
    await dispatcher.store.read("default", 1)

    await recovery_of(dispatcher).sweep_own()

    assert await dispatcher.pending() == []
    assert (await dispatcher.history(task_id))[-1].message == "taken and not leased"


@with_dispatcher(*PARTS)
async def test_entry_of_no_task_is_deleted(dispatcher: Dispatcher):
    task_id = await dispatcher.submit()
    await dispatcher.store.read("default", 1)
    await dispatcher.engine.desk.cancel(task_id, reason="")
    statement = "INSERT INTO entries (queue, task_id, step, consumer) VALUES (?, ?, ?, ?)"
    row = ("default", task_id, "translate", "dispatcher-1")
    await dispatcher.store._database.run(lambda c: c.execute(statement, row))

    await recovery_of(dispatcher).sweep_own()

    assert await dispatcher.pending() == []


@with_dispatcher(*PARTS)
async def test_attempts_at_work_are_left_alone(dispatcher: Dispatcher):
    _, handout = await leased_to(dispatcher)
    recovery = recovery_of(dispatcher)

    for _ in range(5):
        await recovery.sweep_own()
        await pass_time(1)

    record = await dispatcher.record(handout.attempt.task_id)
    assert record.lease == handout.attempt.record.lease


@with_dispatcher(*PARTS)
async def test_attempt_that_fell_off_the_table_is_released_after_the_grace(dispatcher: Dispatcher):
    session, handout = await leased_to(dispatcher)
    session.attempts.clear()
    session.max_in_flight = 0
    recovery = recovery_of(dispatcher)

    await recovery.sweep_own()
    await pass_time(1.4)
    await recovery.sweep_own()
    assert (await dispatcher.record(handout.attempt.task_id)).stage is Stage.LEASED

    await pass_time(0.2)
    await recovery.sweep_own()

    record = await dispatcher.record(handout.attempt.task_id)
    assert (record.stage, record.failures, record.losses) == (Stage.QUEUED, 0, 0)


@with_dispatcher(*PARTS)
async def test_work_behind_a_page_of_others_that_go_on_is_found(dispatcher: Dispatcher):
    """What is at work stays pending, so that no sweep ever empties the page before."""
    session = await dispatcher.connect(slots=PAGE + 1)
    tasks = [await dispatcher.submit(b"%d" % number) for number in range(PAGE + 1)]
    handouts = await dispatcher.handed_out(session, PAGE + 1)
    session.max_in_flight = 0
    token = next(one.attempt.record.lease for one in handouts if one.attempt.task_id == tasks[-1])
    del session.attempts[token]
    recovery = recovery_of(dispatcher)

    await recovery.sweep_own()
    await pass_time(1.6)
    await recovery.sweep_own()

    stages = [(await dispatcher.record(task_id)).stage for task_id in tasks]
    assert stages == [Stage.LEASED] * PAGE + [Stage.QUEUED]


@in_virtual_time
async def test_work_of_a_dead_dispatcher_is_taken_over():
    shared = database()
    async with Dispatcher(shared, "committer") as heir:
        async with Dispatcher(shared, *PARTS, dispatcher_id="dispatcher-2") as dead:
            session, handout = await leased_to(dead)
            session.max_in_flight = 0
            queued = await dead.submit(b"queued")
            await dead.store.read("default", 1)
            await dead.store.beat()
        await pass_time(14)
        await recovery_of(heir).sweep_dead()
        assert await heir.pending(consumer="dispatcher-2") != []

        await pass_time(2)
        await recovery_of(heir).sweep_dead()
        await recovery_of(heir).sweep_dead()

        running = await heir.record(handout.attempt.task_id)
        assert (running.stage, running.losses) == (Stage.QUEUED, 0)
        assert (await heir.history(queued))[-1].type is EventType.QUEUED
        assert await heir.pending(consumer="dispatcher-2") == []
        assert "dispatcher-2" not in await heir.store.dispatchers()


@in_virtual_time
async def test_attempt_that_a_living_dispatcher_adopted_is_left_alone():
    shared = database()
    async with Dispatcher(shared, "committer") as heir:
        async with Dispatcher(shared, *PARTS, dispatcher_id="dispatcher-2") as dead:
            session, handout = await leased_to(dead)
            await dead.store.beat()
            await adopted_by(heir, dead, session, handout)
        await pass_time(16)
        await heir.store.beat()
        await recovery_of(heir).sweep_dead()

        record = await heir.record(handout.attempt.task_id)
        assert (record.stage, record.owner) == (Stage.LEASED, "dispatcher-1")


@pytest.mark.parametrize("former_lives", [True, False])
@in_virtual_time
async def test_attempt_whose_adopter_died_is_found_under_its_former_dispatcher(former_lives: bool):
    """Its entry is pending under the name of the dispatcher that read it, not of the adopter."""
    shared = database()
    async with Dispatcher(shared, *PARTS, dispatcher_id="former") as former:
        session, handout = await leased_to(former)
        async with Dispatcher(shared, "committer", dispatcher_id="adopter") as adopter:
            await adopted_by(adopter, former, session, handout)
            await adopter.store.beat()
        await pass_time(16)
        if former_lives:
            await former.store.beat()
            await recovery_of(former).sweep_own()
            await pass_time(2)
            await former.store.beat()
            await recovery_of(former).sweep_own()
        else:
            async with Dispatcher(shared, "committer", dispatcher_id="heir") as heir:
                await heir.store.beat()
                await recovery_of(heir).sweep_dead()

        record = await former.record(handout.attempt.task_id)
        assert (record.stage, record.losses) == (Stage.QUEUED, 0)


@pytest.mark.parametrize("former_lives", [True, False])
@in_virtual_time
async def test_adopted_attempt_that_fell_off_the_table_is_released(former_lives: bool):
    shared = database()
    async with Dispatcher(shared, *PARTS, dispatcher_id="former") as former:
        session, handout = await leased_to(former)
        async with Dispatcher(shared, "committer", dispatcher_id="adopter") as adopter:
            held = await adopted_by(adopter, former, session, handout)
            held.attempts.clear()
            recovery = recovery_of(adopter)
            if not former_lives:
                await pass_time(16)

            for _ in range(10):
                await adopter.store.beat()
                if former_lives:
                    await former.store.beat()
                await recovery.sweep_own()
                await recovery.sweep_dead()
                await pass_time(0.5)

            record = await adopter.record(handout.attempt.task_id)
            assert (record.stage, record.losses) == (Stage.QUEUED, 0)


@with_dispatcher(*PARTS, supervised=True)
async def test_nobody_is_taken_over_for_a_silence_limit_after_an_outage(dispatcher: Dispatcher):
    recovery = recovery_of(dispatcher)
    statement = "REPLACE INTO dispatchers (dispatcher_id, beat_ms) VALUES ('silent', 0)"
    await dispatcher.store._database.run(lambda c: c.execute(statement))
    dispatcher.run(recovery.run)

    await pass_time(14)
    assert "silent" in await dispatcher.store.dispatchers()
    dispatcher.store.down = True
    await pass_time(5)
    dispatcher.store.down = False
    await pass_time(14)
    assert "silent" in await dispatcher.store.dispatchers()

    await pass_time(8)
    assert "silent" not in await dispatcher.store.dispatchers()


@with_dispatcher(*PARTS, supervised=True)
async def test_a_store_that_takes_no_call_for_long_is_an_outage(dispatcher: Dispatcher):
    """A Redis that stands still has all connections taken, and nobody can beat."""
    recovery = recovery_of(dispatcher)
    statement = "REPLACE INTO dispatchers (dispatcher_id, beat_ms) VALUES ('silent', 0)"
    await dispatcher.store._database.run(lambda c: c.execute(statement))
    dispatcher.run(recovery.run)

    await pass_time(5)
    dispatcher.store.busy = True
    await pass_time(11)
    dispatcher.store.busy = False
    await pass_time(14)
    assert "silent" in await dispatcher.store.dispatchers()

    await pass_time(4)
    assert "silent" not in await dispatcher.store.dispatchers()


@with_dispatcher(*PARTS, supervised=True)
async def test_a_store_that_was_merely_busy_delays_no_takeover(dispatcher: Dispatcher):
    """Everybody could beat soon enough, so whoever did not is dead."""
    recovery = recovery_of(dispatcher)
    statement = "REPLACE INTO dispatchers (dispatcher_id, beat_ms) VALUES ('silent', 0)"
    await dispatcher.store._database.run(lambda c: c.execute(statement))
    dispatcher.run(recovery.run)

    await pass_time(5)
    dispatcher.store.busy = True
    await pass_time(4)
    dispatcher.store.busy = False
    await pass_time(8)

    assert "silent" not in await dispatcher.store.dispatchers()


@in_virtual_time
async def test_adopted_attempt_is_found_again_by_an_adopter_that_restarted():
    shared = database()
    async with Dispatcher(shared, *PARTS, dispatcher_id="former") as former:
        session, handout = await leased_to(former)
        async with Dispatcher(shared, "committer", dispatcher_id="adopter") as adopter:
            await adopted_by(adopter, former, session, handout)
        async with Dispatcher(shared, "committer", dispatcher_id="adopter") as again:
            again.run(recovery_of(again).run)
            await pass_time(3)

            record = await again.record(handout.attempt.task_id)
            assert (record.stage, record.losses) == (Stage.QUEUED, 0)
            assert again.engine.sessions.adopted == {}


@pytest.mark.parametrize("limit_s", [0.5, 2.0, 15.0])
@with_dispatcher(*PARTS)
async def test_a_living_dispatcher_is_never_near_its_silence_limit(
    dispatcher: Dispatcher, *, limit_s: float
):
    dispatcher.run(recovery_of(dispatcher, silence_limit_s=limit_s).run)
    await pass_time(0.01)
    silences = []
    for _ in range(100):
        await pass_time(limit_s / 30)
        silences.append((await dispatcher.store.dispatchers())["dispatcher-1"])

    assert max(silences) <= limit_s * 1000 / 4
