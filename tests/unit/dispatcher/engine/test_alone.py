"""Steps that run alone: which get a worker for themselves, when, and what waits for one."""

import asyncio

from stepstream_dispatcher.core.facts import Completed
from stepstream_dispatcher.core.record import Stage
from stepstream_dispatcher.engine.sessions import Session
from tests.support.engine import Dispatcher, make_dangerous, with_dispatcher
from tests.support.virtual_time import pass_time

feeding = with_dispatcher("committer", "feeder", "settling")
timed = with_dispatcher("committer", "feeder", "settling", "timers")


async def dangerous(
    dispatcher: Dispatcher, text: bytes = b"dangerous", count: str = "losses"
) -> str:
    task_id = await dispatcher.submit(text)
    await make_dangerous(dispatcher, task_id, count)
    return task_id


@feeding
async def test_dangerous_step_waits_for_an_idle_worker_and_has_it_alone(dispatcher: Dispatcher):
    session = await dispatcher.connect(slots=1)
    await dispatcher.submit(b"innocent")
    (innocent,) = await dispatcher.handed_out(session)
    task_id = await dangerous(dispatcher)
    await dispatcher.submit(b"another")
    session.max_in_flight = 2
    dispatcher.engine.sessions.stir()

    await pass_time(5)
    assert [one.task_id for one in session.attempts.values()] == [innocent.attempt.task_id]
    assert session.reserved

    fact = Completed(token=innocent.attempt.record.lease, outcome="completed", output=b"x")
    await dispatcher.report(session, innocent, fact)
    (alone,) = await dispatcher.handed_out(session)
    await pass_time(5)
    assert alone.attempt.task_id == task_id
    assert len(session.attempts) == 1

    fact = Completed(token=alone.attempt.record.lease, outcome="completed", output=b"x")
    await dispatcher.report(session, alone, fact)
    await dispatcher.handed_out(session, 2)
    assert not session.reserved


@feeding
async def test_dangerous_steps_without_a_worker_go_back_and_starve_no_other_lane(
    dispatcher: Dispatcher,
):
    translator = await dispatcher.connect(
        "translator", slots=1, queues=frozenset({"default"}), step_types=frozenset({"translate"})
    )
    await dispatcher.submit(b"innocent")
    (innocent,) = await dispatcher.handed_out(translator)
    tasks = [await dangerous(dispatcher, b"%d" % number) for number in range(2)]
    translator.max_in_flight = 3
    verifier = await dispatcher.connect(
        "verifier", slots=1, queues=frozenset({"checks"}), step_types=frozenset({"verify"})
    )

    await pass_time(0.1)
    assert len(dispatcher.engine.feeder.in_hand) == 2
    assert dispatcher.engine.feeder._waiting_on == {"checks"}
    await pass_time(10)
    assert len(dispatcher.engine.feeder.in_hand) == 1  # the one that has reserved the worker
    translator.draining = True
    dispatcher.engine.sessions.stir()
    await pass_time(0.1)

    assert not dispatcher.engine.feeder.in_hand
    assert await dispatcher.pending() == [innocent.attempt.task_id]
    assert {(await dispatcher.record(task_id)).stage for task_id in tasks} == {Stage.QUEUED}
    assert verifier.free == 1


@feeding
async def test_paused_worker_is_not_reserved(dispatcher: Dispatcher):
    session = await dispatcher.connect(slots=1)
    await dispatcher.submit(b"innocent")
    await dispatcher.handed_out(session)
    await dangerous(dispatcher)
    session.max_in_flight = 2
    dispatcher.engine.sessions.stir()
    await asyncio.sleep(0)  # the reader is at its read
    session.max_in_flight = 0

    await pass_time(0.5)

    assert not session.reserved
    assert len(session.attempts) == 1


@feeding
async def test_dangerous_steps_leave_half_of_the_workers_to_the_others(dispatcher: Dispatcher):
    sessions = [await dispatcher.connect(f"worker-{number}", slots=2) for number in range(4)]
    for _ in range(6):
        await dangerous(dispatcher)
    await pass_time(5)

    assert sum(session.reserved for session in sessions) == 2
    assert [len(session.attempts) for session in sessions if session.reserved] == [1, 1]
    innocent = await dispatcher.submit(b"innocent")
    await pass_time(0.1)

    held = [one.task_id for one in sessions if not one.reserved for one in one.attempts.values()]
    assert held == [innocent]


@feeding
async def test_dangerous_steps_take_turns_at_the_only_worker(dispatcher: Dispatcher):
    session = await dispatcher.connect(
        slots=2, queues=frozenset({"default"}), step_types=frozenset({"translate"})
    )
    tasks = [await dangerous(dispatcher) for _ in range(3)]
    done = []

    for _ in tasks:
        (handout,) = await dispatcher.handed_out(session)
        await pass_time(5)
        fact = Completed(token=handout.attempt.record.lease, outcome="completed", output=b"x")
        assert await dispatcher.report(session, handout, fact) == "ACCEPTED"
        done.append(handout.attempt.task_id)

    assert sorted(done) == sorted(tasks)


@timed
async def test_a_busy_lane_rests_from_dangerous_steps_when_one_has_taken_down_its_worker(
    dispatcher: Dispatcher,
):
    sessions = [await dispatcher.connect(f"worker-{number}", slots=2) for number in range(2)]
    await dangerous(dispatcher)
    await pass_time(0.1)
    (victim,) = [session for session in sessions if session.attempts]
    for number in range(3):  # the lane is busy
        await dispatcher.submit(b"innocent %d" % number)
    await pass_time(0.1)
    dispatcher.engine.leases.broke(victim)
    await pass_time(0.1)
    dispatcher.engine.sessions.remove(victim)  # as its watchdog does
    await dangerous(dispatcher, b"another")

    fresh = await dispatcher.connect("worker-2", slots=2)  # it is started again
    await pass_time(0.5)
    held = [one.record.losses for one in fresh.attempts.values()]
    assert held == [0], "the dangerous one was quicker than the innocent"
    await pass_time(5.0)
    assert not fresh.reserved
    await pass_time(20.0)

    assert fresh.reserved


@feeding
async def test_a_lane_that_is_idle_does_not_rest(dispatcher: Dispatcher):
    victim = await dispatcher.connect("worker-1", slots=1)
    await dangerous(dispatcher)
    await pass_time(0.1)
    dispatcher.engine.leases.broke(victim)
    await pass_time(0.1)
    dispatcher.engine.sessions.remove(victim)
    fresh = await dispatcher.connect("worker-2", slots=1)
    await dangerous(dispatcher, b"another")

    await pass_time(1.5)

    assert [one.record.losses for one in fresh.attempts.values()] == [2]


async def busy_lane(dispatcher: Dispatcher, workers: int) -> list[Session]:
    """So many workers, each with an innocent task that does not end, and with no room."""
    found = []
    for number in range(workers):
        session = await dispatcher.connect(f"worker-{number}", slots=1)
        await dispatcher.submit(b"innocent %d" % number)
        await dispatcher.handed_out(session)
        found.append(session)
    return found


@timed
async def test_steps_that_only_vanished_with_their_workers_run_at_half_of_them(
    dispatcher: Dispatcher,
):
    """Most are innocent: a worker takes all that it had not named along when it dies."""
    sessions = await busy_lane(dispatcher, 4)
    for number in range(3):
        await dangerous(dispatcher, b"%d" % number, "unseen")
    for session in sessions:
        session.max_in_flight = 2
    dispatcher.engine.sessions.stir()
    await pass_time(0.1)

    assert sum(session.reserved for session in sessions) == 2


@timed
async def test_proven_dangerous_steps_have_one_busy_worker_at_a_time(dispatcher: Dispatcher):
    sessions = await busy_lane(dispatcher, 4)
    for number in range(3):
        await dangerous(dispatcher, b"%d" % number)
    for session in sessions:
        session.max_in_flight = 2
    dispatcher.engine.sessions.stir()
    await pass_time(5)

    assert sum(session.reserved for session in sessions) == 1


@timed
async def test_a_crowd_that_waits_for_workers_alone_is_bounded_and_goes_round_seldom(
    dispatcher: Dispatcher,
):
    (session,) = await busy_lane(dispatcher, 1)
    tasks = [await dangerous(dispatcher, b"%d" % number, "unseen") for number in range(60)]
    session.max_in_flight = 8
    other = await dispatcher.connect("worker-2", slots=8)
    in_hand = []
    for _ in range(600):
        await pass_time(0.1)
        in_hand.append(len(dispatcher.engine.feeder.in_hand))

    events = [len(await dispatcher.history(task_id)) for task_id in tasks]
    assert max(in_hand) <= 16 + session.max_in_flight + other.max_in_flight
    assert max(events) <= 2 + 2 * 7, "back after 0, 1, 2, 4, 8, 16 and 30 s, and queued again"
    assert not {(await dispatcher.record(one)).losses for one in tasks} - {0}


@feeding
async def test_what_waits_for_a_worker_alone_goes_back_for_another_dispatcher(
    dispatcher: Dispatcher,
):
    sessions = await busy_lane(dispatcher, 2)
    dispatcher.engine.feeder._alone._rested_at["default"] = asyncio.get_running_loop().time() + 60
    sessions[0].max_in_flight = 2
    dispatcher.engine.sessions.stir()
    task_id = await dangerous(dispatcher)
    await pass_time(9.5)
    assert task_id in await dispatcher.pending()
    sessions[0].max_in_flight = 1  # it is not read again
    await pass_time(1.0)

    record = await dispatcher.record(task_id)
    assert task_id not in await dispatcher.pending()
    assert (record.stage, record.losses, record.releases) == (Stage.QUEUED, 2, 1)


@timed
async def test_a_lane_rests_for_a_minute_at_most(dispatcher: Dispatcher):
    victim = await dispatcher.connect("victim", slots=1)
    await dangerous(dispatcher)
    await pass_time(2_700)
    dispatcher.engine.leases.broke(victim)
    await pass_time(0.1)
    dispatcher.engine.sessions.remove(victim)
    (session,) = await busy_lane(dispatcher, 1)
    session.max_in_flight = 2
    dispatcher.engine.sessions.stir()
    await dangerous(dispatcher, b"another")

    await pass_time(50)
    assert not session.reserved
    await pass_time(30)
    assert session.reserved


@feeding
async def test_a_worker_that_has_only_just_ended_something_is_not_idle(dispatcher: Dispatcher):
    session = await dispatcher.connect(
        slots=1, queues=frozenset({"default"}), step_types=frozenset({"translate"})
    )
    dispatcher.engine.feeder._alone._rested_at["default"] = asyncio.get_running_loop().time() + 60
    for number in range(10):
        await dispatcher.submit(b"%d" % number)
        (handout,) = await dispatcher.handed_out(session)
        if not number:
            await dangerous(dispatcher)
            session.max_in_flight = 2
        await pass_time(0.3)
        fact = Completed(token=handout.attempt.record.lease, outcome="completed", output=b"x")
        assert await dispatcher.report(session, handout, fact) == "ACCEPTED"
        await pass_time(0.3)
        assert not session.reserved
    await pass_time(1.0)
    assert session.reserved
