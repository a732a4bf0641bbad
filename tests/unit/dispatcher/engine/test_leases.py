"""Limits, silence, broken streams and heartbeats: what each does to the attempts of a worker."""

import asyncio

import pytest

from stepstream_dispatcher.core.facts import Completed
from stepstream_dispatcher.core.record import EventType, Stage, TaskRecord
from stepstream_dispatcher.engine.sessions import Handout, Session
from tests.support.engine import Dispatcher, settlement, with_dispatcher
from tests.support.virtual_time import pass_time, stand_still

watched = with_dispatcher("committer", "feeder", "settling", "leases")


async def running(dispatcher: Dispatcher, **options: object) -> tuple[Session, Handout]:
    session = await dispatcher.connect(slots=1)
    await dispatcher.submit(**options)
    (handout,) = await dispatcher.handed_out(session)
    session.max_in_flight = 0
    return session, handout


async def heartbeat(
    dispatcher: Dispatcher, session: Session, *tokens: str, received: int = 0
) -> list[str]:
    session.heard_at = asyncio.get_running_loop().time()
    return await dispatcher.engine.leases.heard(session, tokens, received)


async def now(dispatcher: Dispatcher, handout: Handout) -> TaskRecord:
    return await dispatcher.record(handout.attempt.task_id)


@watched
async def test_named_attempt_of_a_broken_stream_is_lost_after_the_grace(dispatcher: Dispatcher):
    session, handout = await running(dispatcher)
    await heartbeat(dispatcher, session, handout.attempt.record.lease, received=1)

    dispatcher.engine.leases.broke(session)
    await pass_time(1.4)
    assert (await now(dispatcher, handout)).stage is Stage.LEASED
    await pass_time(0.3)

    record = await now(dispatcher, handout)
    assert (record.stage, record.losses, record.errors) == (Stage.QUEUED, 1, 1)
    assert (await dispatcher.history(handout.attempt.task_id))[-1].type is EventType.LOST
    assert len(dispatcher.engine.sessions) == 0


@watched
async def test_attempt_that_was_never_named_is_released_uncharged(dispatcher: Dispatcher):
    session, handout = await running(dispatcher)

    dispatcher.engine.leases.broke(session)
    await pass_time(1.7)

    record = await now(dispatcher, handout)
    assert (record.stage, record.losses, record.errors) == (Stage.QUEUED, 0, 0)
    event = (await dispatcher.history(handout.attempt.task_id))[-1]
    assert event.message == "never named by worker worker-1, which is gone"


@with_dispatcher("committer", "feeder", "settling", "leases", "timers")
async def test_step_that_takes_down_its_worker_unnamed_is_charged_once_it_runs_alone(
    dispatcher: Dispatcher,
):
    """It dies before any heartbeat can name it, and would go round for ever."""
    await dispatcher.submit()
    records = []
    for number in range(7):
        session = await dispatcher.connect(f"worker-{number}", slots=1)
        (handout,) = await dispatcher.handed_out(session)
        dispatcher.engine.leases.broke(session)
        await pass_time(6.0)
        records.append(await now(dispatcher, handout))

    assert [record.losses for record in records] == [0, 0, 1, 2, 3, 4, 5]
    assert [record.state for record in records] == ["translating"] * 6 + ["failed"]


@watched
async def test_what_a_worker_did_not_bring_to_its_newer_stream_is_no_sign_of_poison(
    dispatcher: Dispatcher,
):
    session, handout = await running(dispatcher)
    session.outbox.superseded = True

    await dispatcher.engine.leases.give_up(session, "its newer stream did not bring it along")

    record = await now(dispatcher, handout)
    assert (record.stage, record.unseen, record.losses) == (Stage.QUEUED, 0, 0)


@watched
async def test_stream_that_breaks_with_nothing_held_is_forgotten_at_once(dispatcher: Dispatcher):
    session = await dispatcher.connect()

    dispatcher.engine.leases.broke(session)

    assert len(dispatcher.engine.sessions) == 0


@watched
async def test_a_frozen_dispatcher_takes_its_own_pause_for_no_workers_silence(
    dispatcher: Dispatcher,
):
    session, handout = await running(dispatcher)
    await heartbeat(dispatcher, session, handout.attempt.record.lease, received=1)
    await pass_time(5.0)

    stand_still(60.0)
    await pass_time(9.8)
    assert not session.outbox.closing
    await pass_time(0.4)

    assert session.outbox.closing, "the worker is silent all the same"
    assert (await now(dispatcher, handout)).losses == 1


@watched
async def test_a_frozen_dispatcher_waits_for_workers_whose_streams_broke_before(
    dispatcher: Dispatcher,
):
    session, handout = await running(dispatcher)
    await heartbeat(dispatcher, session, handout.attempt.record.lease, received=1)
    dispatcher.engine.leases.broke(session)
    await pass_time(0.5)

    stand_still(60.0)
    await pass_time(0.8)
    assert (await now(dispatcher, handout)).losses == 0
    await pass_time(0.4)

    assert (await now(dispatcher, handout)).losses == 1


@watched
async def test_a_result_that_came_in_time_counts_after_a_pause_beyond_the_limit(
    dispatcher: Dispatcher,
):
    session, handout = await running(dispatcher, timeout_ms=8_000)
    await heartbeat(dispatcher, session, handout.attempt.record.lease, received=1)

    stand_still(10.0)
    await pass_time(0.5)  # what has come meanwhile is being read
    fact = Completed(token=handout.attempt.record.lease, outcome="completed", output=b"in time")

    assert await dispatcher.report(session, handout, fact) == "ACCEPTED"


@watched
async def test_silent_worker_is_given_up_and_its_stream_closed(dispatcher: Dispatcher):
    session, handout = await running(dispatcher)
    await heartbeat(dispatcher, session, handout.attempt.record.lease, received=1)

    await pass_time(14.8)
    assert not session.outbox.closing
    await pass_time(0.4)

    record = await now(dispatcher, handout)
    assert session.outbox.closing
    assert (record.stage, record.losses) == (Stage.QUEUED, 1)


@watched
async def test_worker_that_is_heard_keeps_its_attempt(dispatcher: Dispatcher):
    session, handout = await running(dispatcher)

    for _ in range(10):
        await pass_time(5)
        assert await heartbeat(dispatcher, session, handout.attempt.record.lease, received=1) == []

    assert (await now(dispatcher, handout)).stage is Stage.LEASED


@watched
async def test_attempt_beyond_its_limit_fails_and_its_worker_is_told(dispatcher: Dispatcher):
    session, handout = await running(dispatcher, timeout_ms=3_000)

    await pass_time(2.9)
    assert (await now(dispatcher, handout)).stage is Stage.LEASED
    await pass_time(0.3)

    record = await now(dispatcher, handout)
    event = (await dispatcher.history(handout.attempt.task_id))[-1]
    assert (record.stage, record.failures) == (Stage.DELAYED, 1)
    assert (event.detail, event.message) == (
        "DEADLINE_EXCEEDED",
        "attempt 1 ran beyond its limit of 3 s",
    )
    assert [word.reason for word in session.outbox.cancels] == ["TIMEOUT"]
    assert session.attempts == {}


@watched
async def test_result_after_the_limit_is_stale(dispatcher: Dispatcher):
    session, handout = await running(dispatcher, timeout_ms=3_000)
    await pass_time(3.5)

    fact = Completed(token=handout.attempt.record.lease, outcome="completed", output=b"late")

    assert await dispatcher.report(session, handout, fact) == "STALE_LEASE"


@watched
async def test_attempt_is_stopped_at_the_deadline_and_its_task_fails(dispatcher: Dispatcher):
    session, handout = await running(dispatcher, deadline_ms=3_000)
    assert handout.timeout_ms == pytest.approx(3_000, abs=5)

    await pass_time(2.9)
    assert (await now(dispatcher, handout)).stage is Stage.LEASED
    await pass_time(0.3)

    record = await now(dispatcher, handout)
    event = (await dispatcher.history(handout.attempt.task_id))[-1]
    assert (record.state, record.errors) == ("failed", 1)
    assert (event.detail, event.message) == (
        "DEADLINE_EXCEEDED",
        "the task had not ended 3 s after it was accepted",
    )
    assert [word.reason for word in session.outbox.cancels] == ["DEADLINE"]
    assert session.attempts == {}


@watched
async def test_limit_of_the_attempt_that_is_shorter_than_the_deadline_is_retried(
    dispatcher: Dispatcher,
):
    session, handout = await running(dispatcher, timeout_ms=1_000, deadline_ms=3_000)

    await pass_time(1.2)

    assert (await now(dispatcher, handout)).stage is Stage.DELAYED
    assert [word.reason for word in session.outbox.cancels] == ["TIMEOUT"]


@pytest.mark.parametrize(("named", "losses"), [(True, 1), (False, 0)])
@watched
async def test_attempt_that_vanishes_from_the_heartbeat_is_settled(
    dispatcher: Dispatcher, *, named: bool, losses: int
):
    session, handout = await running(dispatcher)
    if named:
        await heartbeat(dispatcher, session, handout.attempt.record.lease, received=1)

    await heartbeat(dispatcher, session, received=1)

    assert session.attempts == {}
    assert (await now(dispatcher, handout)).losses == losses


@watched
async def test_attempt_of_a_batch_that_is_still_on_its_way_is_not_missed(dispatcher: Dispatcher):
    session, handout = await running(dispatcher)

    await heartbeat(dispatcher, session, received=0)

    assert session.attempts.keys() == {handout.attempt.record.lease}


@watched
async def test_attempt_that_was_not_written_yet_is_not_missed(dispatcher: Dispatcher):
    session = await dispatcher.connect(slots=2)
    await dispatcher.submit(b"sent")
    (sent,) = await dispatcher.handed_out(session)
    await dispatcher.submit(b"unsent")
    await pass_time(0.1)

    await heartbeat(dispatcher, session, sent.attempt.record.lease, received=1)

    assert len(session.attempts) == 2


@watched
async def test_heartbeat_learns_what_is_not_its_own_any_more(dispatcher: Dispatcher):
    session, handout = await running(dispatcher)
    lease = handout.attempt.record.lease

    assert await heartbeat(dispatcher, session, lease, "another", received=1) == ["another"]


@watched
async def test_result_that_is_being_recorded_is_still_its_workers(dispatcher: Dispatcher):
    session, handout = await running(dispatcher)
    lease = handout.attempt.record.lease
    fact = Completed(token=lease, outcome="completed", output=b"x")
    dispatcher.engine.settling.receive(session, [settlement(handout, fact)])

    assert await heartbeat(dispatcher, session, lease, received=1) == []


@watched
async def test_draining_worker_gives_back_what_was_not_written_to_it(dispatcher: Dispatcher):
    session = await dispatcher.connect(slots=2)
    sent = await dispatcher.submit(b"sent")
    await dispatcher.handed_out(session)
    unsent = await dispatcher.submit(b"unsent")
    await pass_time(0.1)
    assert len(session.outbox.handouts) == 1

    await dispatcher.engine.leases.worker_drains(session)

    assert [one.task_id for one in session.attempts.values()] == [sent]
    record = await dispatcher.record(unsent)
    assert (record.stage, record.losses) == (Stage.QUEUED, 0)
    assert session.free == 0


@watched
async def test_cancel_stored_by_another_dispatcher_reaches_the_worker(dispatcher: Dispatcher):
    session, _ = await running(dispatcher)
    statement = "UPDATE tasks SET fields = json_set(fields, '$.cancel', '1')"
    await dispatcher.store._database.run(lambda c: c.execute(statement))

    await pass_time(4.1)

    assert [word.reason for word in session.outbox.cancels] == ["REQUESTED"]


@pytest.mark.parametrize(
    ("change", "told"),
    [("'$.lease', 'another'", ["LEASE_LOST"]), ("'$.owner', 'dispatcher-2'", [])],
)
@watched
async def test_attempt_that_is_somebody_elses_leaves_the_table(
    dispatcher: Dispatcher, change: str, told: list[str]
):
    """With the same lease it is its worker that has moved with it, and that must not be stopped."""
    session, _ = await running(dispatcher)
    statement = f"UPDATE tasks SET fields = json_set(fields, {change})"  # noqa: S608
    await dispatcher.store._database.run(lambda c: c.execute(statement))

    await pass_time(4.1)

    assert session.attempts == {}
    assert [word.reason for word in session.outbox.cancels] == told
