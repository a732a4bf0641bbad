"""Who may open a session, and what becomes of the attempts that it brings along."""

import asyncio

import pytest

from stepstream.errors import Draining, ProtocolMismatch, RateLimited, StoreUnavailable
from stepstream_dispatcher.core.facts import Completed
from stepstream_dispatcher.core.record import EventType, Stage
from stepstream_dispatcher.engine.sessions import Handout, Inventory, Session
from tests.support.engine import Dispatcher, brought, database, hello, settlement, with_dispatcher
from tests.support.virtual_time import in_virtual_time, pass_time

PARTS = ("committer", "feeder", "settling", "leases")
open_to_all = with_dispatcher(*PARTS)


async def running(dispatcher: Dispatcher, slots: int = 1) -> tuple[Session, Handout]:
    session = await dispatcher.connect(slots=slots)
    await dispatcher.submit()
    (handout,) = await dispatcher.handed_out(session)
    return session, handout


def verdict(handout: Handout, word: str) -> list[tuple[str, str]]:
    return [(handout.attempt.assignment_id, word)]


@open_to_all
async def test_unknown_protocol_is_refused(dispatcher: Dispatcher):
    with pytest.raises(ProtocolMismatch):
        await dispatcher.engine.reception.open(hello(), protocol_version=99)


@open_to_all
async def test_leaving_dispatcher_refuses(dispatcher: Dispatcher):
    dispatcher.engine.reception.close()

    with pytest.raises(Draining):
        await dispatcher.connect()


@open_to_all
async def test_workers_are_limited_and_one_that_moves_keeps_its_place(dispatcher: Dispatcher):
    dispatcher.engine.reception._sessions_max = 2
    await dispatcher.connect("worker-1")
    await dispatcher.connect("worker-2")

    with pytest.raises(RateLimited, match="2 workers are connected") as refused:
        await dispatcher.connect("worker-3")
    await dispatcher.connect("worker-2")

    assert refused.value.retry_after_s == 1.0


@open_to_all
async def test_workers_that_come_at_the_same_time_are_limited(dispatcher: Dispatcher):
    dispatcher.engine.reception._sessions_max = 2
    brings = Inventory(assignment_id="t/translate/1", lease_token="x", elapsed_s=0, settled=False)

    async def connect(name: str) -> bool:
        try:
            await dispatcher.connect(name, inventory=(brings,))
        except RateLimited:
            return False
        return True

    async with asyncio.TaskGroup() as group:
        dials = [group.create_task(connect(f"worker-{number}")) for number in range(4)]

    assert sum(dial.result() for dial in dials) == 2


@open_to_all
async def test_worker_is_fed_only_where_it_serves_every_step(dispatcher: Dispatcher):
    opened = await dispatcher.register(
        queues=frozenset({"default", "checks", "elsewhere"}), step_types=frozenset({"translate"})
    )

    assert dispatcher.engine.sessions.queues_of(opened.session) == {"default"}
    assert len(opened.warnings) == 2
    assert "does not serve step verify" in opened.warnings[0]
    assert "belongs to no pipeline" in opened.warnings[1]


@open_to_all
async def test_attempt_is_carried_over_and_the_older_stream_ends(dispatcher: Dispatcher):
    older, handout = await running(dispatcher)
    dispatcher.engine.leases.broke(older)

    opened = await dispatcher.register(slots=1, inventory=(brought(handout),))

    lease = handout.attempt.record.lease
    assert opened.verdicts == verdict(handout, "KEEP")
    assert opened.session.attempts == {lease: handout.attempt}
    assert older.outbox.superseded
    assert older.attempts == {}
    await pass_time(5)
    assert (await dispatcher.record(handout.attempt.task_id)).lease == lease


@open_to_all
async def test_what_is_not_brought_along_is_settled_at_once(dispatcher: Dispatcher):
    older, handout = await running(dispatcher)
    await dispatcher.engine.leases.heard(older, [handout.attempt.record.lease], 1)
    older.max_in_flight = 0

    opened = await dispatcher.register(slots=0)

    record = await dispatcher.record(handout.attempt.task_id)
    assert opened.verdicts == []
    assert record.losses == 1
    assert len(dispatcher.engine.sessions) == 1


@open_to_all
async def test_result_is_sent_again_whether_its_attempt_is_known_or_not(dispatcher: Dispatcher):
    older, handout = await running(dispatcher)
    fact = Completed(token=handout.attempt.record.lease, outcome="completed", output=b"x")
    older.max_in_flight = 0
    await dispatcher.report(older, handout, fact)

    opened = await dispatcher.register(slots=0, inventory=(brought(handout, settled=True),))

    assert opened.verdicts == verdict(handout, "RESEND")
    assert opened.session.attempts == {}
    assert await dispatcher.report(opened.session, handout, fact) == "DUPLICATE"


@open_to_all
async def test_result_that_is_still_being_recorded_is_sent_again(dispatcher: Dispatcher):
    older, handout = await running(dispatcher)
    fact = Completed(token=handout.attempt.record.lease, outcome="completed", output=b"x")
    dispatcher.store.slow.clear()
    dispatcher.engine.settling.receive(older, [settlement(handout, fact)])
    await pass_time(0)

    opened = await dispatcher.register(slots=0, inventory=(brought(handout, settled=True),))
    dispatcher.store.slow.set()

    assert opened.verdicts == verdict(handout, "RESEND")
    await pass_time(0.1)
    assert await dispatcher.report(opened.session, handout, fact) == "DUPLICATE"
    assert opened.session.attempts == {}


@open_to_all
async def test_attempt_that_was_given_up_is_abandoned(dispatcher: Dispatcher):
    older, handout = await running(dispatcher)
    dispatcher.engine.leases.broke(older)
    await pass_time(2)

    opened = await dispatcher.register(inventory=(brought(handout),))

    assert opened.verdicts == verdict(handout, "ABANDON")


@in_virtual_time
async def test_attempt_of_another_dispatcher_is_adopted_with_its_token():
    shared = database()
    async with (
        Dispatcher(shared, *PARTS) as here,
        Dispatcher(shared, *PARTS, dispatcher_id="dispatcher-2") as there,
    ):
        _, handout = await running(there)

        opened = await here.register(slots=1, inventory=(brought(handout, elapsed_s=10.0),))

        lease = handout.attempt.record.lease
        record = await here.record(handout.attempt.task_id)
        assert opened.verdicts == verdict(handout, "KEEP")
        assert (record.lease, record.owner) == (lease, "dispatcher-1")
        assert (await here.history(handout.attempt.task_id))[-1].type is EventType.ADOPTED
        left_s = opened.session.attempts[lease].timeout_at - asyncio.get_running_loop().time()
        assert left_s == pytest.approx(290)
        fact = Completed(token=lease, outcome="completed", output=b"x")
        assert await here.report(opened.session, handout, fact) == "ACCEPTED"


@in_virtual_time
async def test_adoption_whose_answer_was_lost_is_kept():
    shared = database()
    async with (
        Dispatcher(shared, *PARTS) as here,
        Dispatcher(shared, *PARTS, dispatcher_id="dispatcher-2") as there,
    ):
        _, handout = await running(there)
        here.store.troubles.append("sent twice")

        opened = await here.register(slots=1, inventory=(brought(handout),))

        assert opened.verdicts == verdict(handout, "KEEP")
        assert opened.session.attempts.keys() == {handout.attempt.record.lease}


@open_to_all
async def test_session_that_could_not_be_opened_takes_no_work(dispatcher: Dispatcher):
    """The stream of such a session never begins, so nothing would take it off the table."""
    dispatcher.store.workers_fail = True

    with pytest.raises(StoreUnavailable):
        await dispatcher.connect()
    task_id = await dispatcher.submit()
    await pass_time(1)

    assert len(dispatcher.engine.sessions) == 0
    assert (await dispatcher.record(task_id)).stage is Stage.QUEUED


@open_to_all
async def test_two_streams_of_one_instance_at_once_leave_one_session(dispatcher: Dispatcher):
    _, handout = await running(dispatcher)
    unknown = Inventory(
        assignment_id=f"{'0' * 32}/translate/1", lease_token="none", elapsed_s=1.0, settled=False
    )
    inventory = (unknown, brought(handout))  # the first is looked up, which lets the others run

    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(dispatcher.register(slots=1, inventory=inventory))

    assert len(dispatcher.engine.sessions) == 1
    (left,) = dispatcher.engine.sessions
    assert left.attempts.keys() == {handout.attempt.record.lease}


@open_to_all
async def test_cancel_is_told_again_on_the_newer_stream(dispatcher: Dispatcher):
    older, handout = await running(dispatcher)
    dispatcher.engine.leases.broke(older)
    await dispatcher.engine.desk.cancel(handout.attempt.task_id, reason="no longer wanted")

    opened = await dispatcher.register(slots=1, inventory=(brought(handout),))
    await pass_time(3)

    words = [word.assignment_id for word in opened.session.outbox.cancels]
    assert words == [handout.attempt.assignment_id]


@with_dispatcher(*PARTS, "recovery", supervised=True)
async def test_attempt_stays_where_it_is_when_the_session_cannot_be_opened(dispatcher: Dispatcher):
    older, handout = await running(dispatcher)
    older.max_in_flight = 0
    unknown = Inventory(
        assignment_id=f"{'0' * 32}/translate/1", lease_token="none", elapsed_s=1.0, settled=False
    )
    dispatcher.store.down = True

    with pytest.raises(StoreUnavailable):
        await dispatcher.register(inventory=(brought(handout), unknown))

    lease = handout.attempt.record.lease
    assert older.attempts == {lease: handout.attempt}
    dispatcher.store.down = False
    await pass_time(5)
    opened = await dispatcher.register(inventory=(brought(handout), unknown))
    assert [word for _, word in opened.verdicts] == ["KEEP", "ABANDON"]
    assert (await dispatcher.record(handout.attempt.task_id)).lease == lease


@with_dispatcher(*PARTS, "recovery")
async def test_attempt_is_nobodys_at_no_instant_while_a_session_opens(dispatcher: Dispatcher):
    older = await dispatcher.connect(slots=2)
    for text in (b"brought", b"left behind"):
        await dispatcher.submit(text)
    handout, _ = await dispatcher.handed_out(older, 2)
    lease = handout.attempt.record.lease
    dispatcher.store.slow.clear()

    async with asyncio.TaskGroup() as group:
        opening = group.create_task(dispatcher.register(slots=0, inventory=(brought(handout),)))
        await pass_time(10)
        held = dispatcher.engine.sessions.holds(lease)
        dispatcher.store.slow.set()

    assert held
    assert opening.result().verdicts == verdict(handout, "KEEP")
    assert (await dispatcher.record(handout.attempt.task_id)).lease == lease
