"""A task that the store cannot change holds up no other, and comes back no oftener than it must."""

import pytest
from structlog.testing import capture_logs

from stepstream.errors import InternalError
from stepstream_dispatcher.core.admission import Submission
from stepstream_dispatcher.core.facts import Completed, Failed
from stepstream_dispatcher.core.record import Stage
from stepstream_dispatcher.engine.desk import Accepted
from stepstream_dispatcher.engine.leasing import BROKEN_PAUSE_S
from stepstream_dispatcher.engine.sessions import Handout, Session
from tests.support.engine import Dispatcher, brought, database, settlement, with_dispatcher
from tests.support.virtual_time import in_virtual_time, pass_time

LOOPS = ("committer", "feeder", "settling", "leases", "recovery", "timers")
running = with_dispatcher(*LOOPS, supervised=True)
SWEEPS_A_SECOND = 2


async def submitted(dispatcher: Dispatcher, count: int, **options: object) -> tuple[str, list[str]]:
    """Tasks that can be changed, after one that cannot."""
    broken, *others = [await dispatcher.submit(b"%d" % n, **options) for n in range(count + 1)]
    dispatcher.store.broken.add(broken)
    return broken, others


async def both_held(dispatcher: Dispatcher) -> tuple[Session, Handout, Handout]:
    """A worker at two attempts, of which the first's task cannot be changed since."""
    session = await dispatcher.connect(slots=2)
    broken, _ = [await dispatcher.submit(text) for text in (b"broken", b"good")]
    first, second = await dispatcher.handed_out(session, 2)
    session.max_in_flight = 0
    dispatcher.store.broken.add(broken)
    assert first.attempt.task_id == broken
    return session, first, second


def completed(handout: Handout, outcome: str = "completed") -> Completed:
    return Completed(token=handout.attempt.record.lease, outcome=outcome, output=b"x")


def tries(dispatcher: Dispatcher, task_id: str) -> int:
    """How often a change of a task was sent to the store."""
    return sum(one.task_id == task_id for call in dispatcher.store.commits for one in call)


@running
async def test_those_of_its_round_are_handed_out_and_its_slot_is_free_after_a_pause(
    dispatcher: Dispatcher,
):
    broken, others = await submitted(dispatcher, 5)
    session = await dispatcher.connect(slots=6)

    handouts = await dispatcher.handed_out(session, 5)

    assert len(dispatcher.store.commits[-1]) == 6
    assert {one.attempt.task_id for one in handouts} == set(others)
    assert session.free == 0
    await pass_time(BROKEN_PAUSE_S)
    assert session.free == 1
    assert not dispatcher.engine.feeder.in_hand
    for handout in handouts:
        assert await dispatcher.report(session, handout, completed(handout)) == "ACCEPTED"
    assert await dispatcher.pending() == [broken]


@running
async def test_it_is_tried_at_the_pace_of_recovery_and_told_of_once(dispatcher: Dispatcher):
    broken, _ = await submitted(dispatcher, 0)
    await dispatcher.connect(slots=6)

    with capture_logs() as logs:
        await pass_time(30)

    assert SWEEPS_A_SECOND * 20 <= tries(dispatcher, broken) <= SWEEPS_A_SECOND * 30 + 2
    told = [line for line in logs if line["log_level"] in ("warning", "error")]
    assert [(line["event"], line["task"]) for line in told] == [
        ("a task cannot be changed", broken)
    ]


@running
async def test_lanes_are_not_read_to_their_ends_where_no_task_can_be_changed(
    dispatcher: Dispatcher,
):
    ids = [await dispatcher.submit(b"%d" % n) for n in range(40)]
    dispatcher.store.broken.update(ids)
    await dispatcher.connect(slots=2)

    await pass_time(4 * BROKEN_PAUSE_S)

    assert 2 <= len(await dispatcher.pending()) <= 10


@running
async def test_it_goes_on_once_it_was_mended(dispatcher: Dispatcher):
    broken, _ = await submitted(dispatcher, 0)
    session = await dispatcher.connect()
    await pass_time(5)

    dispatcher.store.broken.clear()

    (handout,) = await dispatcher.handed_out(session)
    assert handout.attempt.task_id == broken


@in_virtual_time
async def test_work_of_a_dead_dispatcher_beside_it_is_taken_over():
    """Also where it is left by the heir itself, which sweeps its own before the dead."""
    shared = database()
    async with Dispatcher(shared, *LOOPS, supervised=True) as heir:
        async with Dispatcher(shared, "committer", dispatcher_id="dead") as dead:
            broken, (good,) = await submitted(dead, 1)
            await dead.store.read("default", 2)
            await dead.store.beat()
        own, _ = await submitted(heir, 0)
        await heir.store.read("default", 1)
        heir.store.broken.add(broken)
        await pass_time(40)

        assert (await heir.record(good)).entry != ""
        assert await heir.pending(consumer="dead") == [broken]
        assert await heir.pending() == [own]

        heir.store.broken.clear()
        await pass_time(2)

        assert await heir.pending(consumer="dead") == await heir.pending() == []
        assert "dead" not in await heir.store.dispatchers()


@running
async def test_its_result_is_asked_for_again_and_the_one_beside_it_is_recorded(
    dispatcher: Dispatcher,
):
    session, broken, good = await both_held(dispatcher)
    results = [settlement(one, completed(one)) for one in (broken, good)]

    dispatcher.engine.settling.receive(session, results)

    words = [receipt.status for receipt in await dispatcher.receipts(session, 2)]
    assert words == ["RETRY_LATER", "ACCEPTED"]
    assert session.parked.keys() == {broken.attempt.record.lease}
    assert session.settling == {}
    dispatcher.store.broken.clear()
    assert await dispatcher.report(session, broken, completed(broken)) == "ACCEPTED"


@with_dispatcher("committer", "feeder", "settling")
async def test_outcome_that_the_step_lacks_is_asked_for_again_too(dispatcher: Dispatcher):
    session, broken, _ = await both_held(dispatcher)

    assert await dispatcher.report(session, broken, completed(broken, "maybe")) == "RETRY_LATER"

    dispatcher.store.broken.clear()
    assert await dispatcher.report(session, broken, completed(broken, "maybe")) == "INVALID"


@running
async def test_losses_beside_it_are_charged(dispatcher: Dispatcher):
    session, broken, good = await both_held(dispatcher)
    held = [one.attempt.record.lease for one in (broken, good)]
    await dispatcher.engine.leases.heard(session, held, 1)

    dispatcher.engine.leases.broke(session)
    await pass_time(5)

    record = await dispatcher.record(good.attempt.task_id)
    assert (record.stage, record.losses) == (Stage.QUEUED, 1)
    assert (await dispatcher.record(broken.attempt.task_id)).stage is Stage.LEASED
    assert dispatcher.engine.sessions.ending == {}


@in_virtual_time
async def test_worker_that_brings_it_to_another_dispatcher_goes_on_with_all():
    shared = database()
    async with (
        Dispatcher(shared, "committer", "feeder", dispatcher_id="former") as former,
        Dispatcher(shared, "committer", "settling") as adopter,
    ):
        _, broken, good = await both_held(former)
        adopter.store.broken.add(broken.attempt.task_id)

        opened = await adopter.register(slots=2, inventory=(brought(broken), brought(good)))

        assert [word for _, word in opened.verdicts] == ["KEEP", "KEEP"]
        adopter.store.broken.clear()
        assert await adopter.report(opened.session, broken, completed(broken)) == "ACCEPTED"


@running
async def test_what_is_due_beside_it_is_queued(dispatcher: Dispatcher):
    broken, (good,) = await submitted(dispatcher, 1, delay_ms=1000)

    await pass_time(1.1)
    assert (await dispatcher.record(good)).stage is Stage.QUEUED

    await pass_time(20)
    assert tries(dispatcher, broken) <= 25


@with_dispatcher("committer")
async def test_submits_beside_it_are_accepted(dispatcher: Dispatcher):
    submissions = [
        Submission(pipeline="translation", input=b"text", request_id=f"request-{number}")
        for number in range(3)
    ]
    dispatcher.store.broken.add((await dispatcher.engine.desk.submit(submissions[1])).task_id)

    first, second, third = await dispatcher.engine.desk.submit_batch(submissions)

    assert isinstance(second, InternalError)
    assert [type(first), type(third)] == [Accepted, Accepted]
    with pytest.raises(InternalError, match="cannot change task"):
        await dispatcher.engine.desk.submit(submissions[1])


@with_dispatcher("committer")
async def test_its_caller_is_told(dispatcher: Dispatcher):
    task_id, _ = await submitted(dispatcher, 0)

    with pytest.raises(InternalError, match=task_id):
        await dispatcher.engine.desk.cancel(task_id, reason="")
    dispatcher.store.broken.clear()
    sight = await dispatcher.engine.desk.cancel(task_id, reason="")
    assert sight.record.state == "cancelled"


@with_dispatcher("committer", "feeder", "settling")
async def test_operator_is_told_which_dead_letters_were_not_started_anew(dispatcher: Dispatcher):
    session, first, second = await both_held(dispatcher)
    dispatcher.store.broken.clear()
    for one in (first, second):
        token = one.attempt.record.lease
        await dispatcher.report(
            session, one, Failed(token=token, code="BAD", message="", retryable=False)
        )
    broken, good = first.attempt.task_id, second.attempt.task_id
    dispatcher.store.broken.add(broken)

    refused, redriven = await dispatcher.engine.operations.redrive([broken, good])

    assert isinstance(refused, InternalError)
    assert redriven is None
    with pytest.raises(InternalError, match=broken):
        await dispatcher.engine.operations.update_input(broken, b"other", version=0)
