"""How an attempt ended is recorded once the store answers again, and not made up anew."""

import pytest

from stepstream_dispatcher.core.facts import Completed
from stepstream_dispatcher.core.record import EventType, Stage, TaskRecord
from stepstream_dispatcher.engine.sessions import Handout, Session
from tests.support.engine import Dispatcher, Trouble, brought, with_dispatcher
from tests.support.virtual_time import pass_time

LOOPS = ("committer", "feeder", "settling", "leases", "recovery")
supervised = with_dispatcher(*LOOPS, supervised=True)


async def running(dispatcher: Dispatcher, **options: object) -> tuple[Session, Handout]:
    """A worker that has named its one attempt."""
    session = await dispatcher.connect(slots=1)
    await dispatcher.submit(**options)
    (handout,) = await dispatcher.handed_out(session)
    session.max_in_flight = 0
    await dispatcher.engine.leases.heard(session, [handout.attempt.record.lease], 1)
    return session, handout


async def outage(dispatcher: Dispatcher, seconds: float) -> None:
    dispatcher.store.down = True
    await pass_time(seconds)
    dispatcher.store.down = False
    await pass_time(10)


async def now(dispatcher: Dispatcher, handout: Handout) -> TaskRecord:
    return await dispatcher.record(handout.attempt.task_id)


@supervised
async def test_loss_while_the_store_is_away_is_charged_when_it_is_back(dispatcher: Dispatcher):
    session, handout = await running(dispatcher)

    dispatcher.engine.leases.broke(session)
    await outage(dispatcher, 20)

    record = await now(dispatcher, handout)
    assert (record.stage, record.losses) == (Stage.QUEUED, 1)
    assert dispatcher.engine.sessions.ending == {}


@supervised
async def test_timeout_while_the_store_is_away_is_charged_when_it_is_back(dispatcher: Dispatcher):
    session, handout = await running(dispatcher, timeout_ms=3_000)
    session.heard_at += 60

    await outage(dispatcher, 20)

    record = await now(dispatcher, handout)
    assert (record.stage, record.failures) == (Stage.DELAYED, 1)
    assert [word.reason for word in session.outbox.cancels] == ["TIMEOUT"]


@pytest.mark.parametrize("trouble", ["unreachable", "answer lost"])
@supervised
async def test_commit_that_fails_once_is_made_once(dispatcher: Dispatcher, trouble: Trouble):
    session, handout = await running(dispatcher, timeout_ms=3_000)
    dispatcher.store.troubles.append(trouble)

    await pass_time(4)

    assert (await now(dispatcher, handout)).failures == 1
    events = await dispatcher.history(handout.attempt.task_id)
    assert [event.type for event in events].count(EventType.RETRYING) == 1
    assert session.attempts == dispatcher.engine.sessions.ending == {}


@pytest.mark.parametrize("trouble", ["unreachable", "answer lost"])
@supervised
async def test_result_that_its_worker_died_with_before_it_was_recorded_is_not_waited_for(
    dispatcher: Dispatcher, trouble: Trouble
):
    """The store refused it; were its answer lost, it is recorded, and nothing is released."""
    session, handout = await running(dispatcher)
    dispatcher.store.troubles.append(trouble)
    fact = Completed(token=handout.attempt.record.lease, outcome="completed", output=b"x")
    assert await dispatcher.report(session, handout, fact) == "RETRY_LATER"

    dispatcher.engine.leases.broke(session)
    await pass_time(1.8)

    record = await now(dispatcher, handout)
    step = "translate" if trouble == "unreachable" else "verify"
    assert (record.stage, record.step, record.losses) == (Stage.QUEUED, step, 0)
    assert dispatcher.engine.sessions.ending == {}


@supervised
async def test_worker_that_comes_back_with_its_result_before_that_is_released_gives_it(
    dispatcher: Dispatcher,
):
    session, handout = await running(dispatcher)
    dispatcher.store.troubles.extend(["unreachable"] * 50)
    fact = Completed(token=handout.attempt.record.lease, outcome="completed", output=b"x")
    assert await dispatcher.report(session, handout, fact) == "RETRY_LATER"
    dispatcher.engine.leases.broke(session)
    await pass_time(1.8)
    assert len(dispatcher.engine.sessions.ending) == 1
    dispatcher.store.troubles.clear()

    item = brought(handout, settled=True)
    opened = await dispatcher.register(slots=1, inventory=(item,))

    assert opened.verdicts == [(handout.attempt.assignment_id, "RESEND")]
    assert await dispatcher.report(opened.session, handout, fact) == "ACCEPTED"


@supervised
async def test_attempt_that_vanishes_while_the_store_is_away_breaks_no_stream(
    dispatcher: Dispatcher,
):
    session, handout = await running(dispatcher)
    dispatcher.store.down = True

    assert await dispatcher.engine.leases.heard(session, [], 1) == []

    session.heard_at += 60
    await outage(dispatcher, 1)
    assert (await now(dispatcher, handout)).losses == 1


@supervised
async def test_worker_that_comes_back_before_its_loss_is_recorded_keeps_its_attempt(
    dispatcher: Dispatcher,
):
    session, handout = await running(dispatcher)
    dispatcher.store.troubles.extend(["unreachable"] * 50)
    dispatcher.engine.leases.broke(session)
    await pass_time(1.7)
    assert len(dispatcher.engine.sessions.ending) == 1
    dispatcher.store.troubles.clear()

    opened = await dispatcher.register(slots=1, inventory=(brought(handout),))

    assert opened.verdicts == [(handout.attempt.assignment_id, "KEEP")]
    await pass_time(5)
    fact = Completed(token=handout.attempt.record.lease, outcome="completed", output=b"x")
    assert await dispatcher.report(opened.session, handout, fact) == "ACCEPTED"
    assert (await now(dispatcher, handout)).losses == 0


@supervised
async def test_attempt_beyond_its_limit_is_not_kept_by_coming_back(dispatcher: Dispatcher):
    _, handout = await running(dispatcher, timeout_ms=1_000)
    dispatcher.store.slow.clear()
    await pass_time(1.2)
    assert len(dispatcher.engine.sessions.ending) == 1

    opened = await dispatcher.register(slots=1, inventory=(brought(handout),))

    assert opened.verdicts == [(handout.attempt.assignment_id, "ABANDON")]
    dispatcher.store.slow.set()
    await pass_time(0.1)
    assert (await now(dispatcher, handout)).failures == 1
