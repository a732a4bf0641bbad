"""A record that another program has spoilt holds up no other task."""

from contextlib import aclosing

from structlog.testing import capture_logs

from stepstream_dispatcher.core.facts import Completed
from stepstream_dispatcher.core.record import Stage
from stepstream_dispatcher.engine.fresh import DATA_BYTES_MAX
from stepstream_dispatcher.engine.overview import Filter
from stepstream_dispatcher.engine.sessions import Handout, Inventory, Session
from stepstream_dispatcher.store.port import Signal
from tests.support.engine import Dispatcher, brought, database, settlement, with_dispatcher
from tests.support.virtual_time import in_virtual_time, pass_time

LOOPS = ("committer", "feeder", "settling", "leases", "recovery", "timers")
running = with_dispatcher(*LOOPS, supervised=True)
LARGE = b"x" * (DATA_BYTES_MAX + 1)  # not remembered, so that it is read before it is handed out


async def beside_one_spoilt(dispatcher: Dispatcher, **options: object) -> tuple[str, str]:
    """Two tasks, of which the first is spoilt."""
    spoilt = await dispatcher.submit(LARGE, **options)
    await dispatcher.spoil(spoilt)
    return spoilt, await dispatcher.submit(LARGE, **options)


async def both_held(dispatcher: Dispatcher) -> tuple[Session, Handout, Handout]:
    """A worker at two attempts, of which the first's task was spoilt since."""
    session = await dispatcher.connect(slots=2)
    spoilt, good = [await dispatcher.submit(LARGE) for _ in range(2)]
    handouts = {one.attempt.task_id: one for one in await dispatcher.handed_out(session, 2)}
    session.max_in_flight = 0
    await dispatcher.spoil(spoilt)
    return session, handouts[spoilt], handouts[good]


async def mend(dispatcher: Dispatcher, stage: Stage) -> None:
    """Write the right stage into every record that was spoilt."""
    statement = (
        "UPDATE tasks SET fields = json_set(fields, '$.stage', ?) "
        "WHERE json_extract(fields, '$.stage') = '?'"
    )
    await dispatcher.store._database.run(lambda sqlite: sqlite.execute(statement, (stage,)))


def completed(handout: Handout) -> Completed:
    return Completed(token=handout.attempt.record.lease, outcome="completed", output=b"")


async def stage_of(dispatcher: Dispatcher, task_id: str) -> Stage:
    return (await dispatcher.record(task_id)).stage


@running
async def test_it_is_left_alone_and_told_of_once(dispatcher: Dispatcher):
    spoilt, good = await beside_one_spoilt(dispatcher)
    await dispatcher.store.read("default", 2)

    with capture_logs() as logs:
        await pass_time(30)

    assert await dispatcher.pending() == [spoilt]
    assert await stage_of(dispatcher, good) is Stage.QUEUED
    assert [line["task_id"] for line in logs if line["log_level"] == "error"] == [spoilt]


@running
async def test_others_that_are_read_with_it_are_handed_out(dispatcher: Dispatcher):
    _, good = await beside_one_spoilt(dispatcher)

    session = await dispatcher.connect(slots=2)
    (handout,) = await dispatcher.handed_out(session)

    assert handout.attempt.task_id == good
    assert not dispatcher.engine.feeder.in_hand


@running
async def test_its_entry_takes_no_slot(dispatcher: Dispatcher):
    _, good = await beside_one_spoilt(dispatcher)

    session = await dispatcher.connect(slots=1)
    (handout,) = await dispatcher.handed_out(session)

    assert handout.attempt.task_id == good


@running
async def test_it_goes_on_once_it_was_mended(dispatcher: Dispatcher):
    spoilt, _ = await beside_one_spoilt(dispatcher)
    await dispatcher.store.read("default", 2)
    await pass_time(5)

    await mend(dispatcher, Stage.QUEUED)
    session = await dispatcher.connect(slots=2)

    assert spoilt in {one.attempt.task_id for one in await dispatcher.handed_out(session, 2)}


@in_virtual_time
async def test_work_of_a_dead_dispatcher_beside_it_is_taken_over():
    shared = database()
    async with Dispatcher(shared, *LOOPS, supervised=True) as heir:
        async with Dispatcher(shared, "committer", dispatcher_id="dead") as dead:
            spoilt, good = await beside_one_spoilt(dead)
            await dead.store.read("default", 2)
            await dead.store.beat()
        await pass_time(40)

        assert await stage_of(heir, good) is Stage.QUEUED
        assert await heir.pending(consumer="dead") == [spoilt]
        assert "dead" in await heir.store.dispatchers()  # else nobody would look at it again


@in_virtual_time
async def test_an_adopted_attempt_beside_it_is_looked_after():
    shared = database()
    async with (
        Dispatcher(shared, "committer", "feeder", dispatcher_id="former") as former,
        Dispatcher(shared, *LOOPS, supervised=True) as adopter,
    ):
        session, spoilt, good = await both_held(former)
        for handout in (spoilt, good):
            adopter.engine.sessions.adopted[handout.attempt.record.lease] = handout.attempt.task_id
        statement = "UPDATE tasks SET fields = json_set(fields, '$.owner', 'dispatcher-1')"
        await adopter.store._database.run(lambda sqlite: sqlite.execute(statement))
        former.engine.sessions.remove(session)
        former.stop_loops()
        await pass_time(4)

        assert await stage_of(adopter, good.attempt.task_id) is Stage.QUEUED
        assert list(adopter.engine.sessions.adopted.values()) == [spoilt.attempt.task_id]


@running
async def test_what_is_due_beside_it_is_queued(dispatcher: Dispatcher):
    _, good = await beside_one_spoilt(dispatcher, delay_ms=1000)

    await pass_time(1.1)

    assert await stage_of(dispatcher, good) is Stage.QUEUED


@running
async def test_a_cancel_of_another_attempt_is_told(dispatcher: Dispatcher):
    session, _, good = await both_held(dispatcher)
    statement = "UPDATE tasks SET fields = json_set(fields, '$.cancel', '1') WHERE task_id = ?"
    known = (good.attempt.task_id,)
    await dispatcher.store._database.run(lambda sqlite: sqlite.execute(statement, known))

    await pass_time(4.1)

    words = [(word.assignment_id, word.reason) for word in session.outbox.cancels]
    assert words == [(good.attempt.assignment_id, "REQUESTED")]


@running
async def test_a_worker_that_brings_it_along_is_let_in_and_goes_on(dispatcher: Dispatcher):
    session, spoilt, good = await both_held(dispatcher)
    session.attempts.clear()
    dispatcher.engine.sessions.remove(session)
    gone = Inventory(
        assignment_id=f"{'0' * 32}/translate/1", lease_token="none", elapsed_s=1.0, settled=False
    )

    opened = await dispatcher.register(slots=3, inventory=(brought(spoilt), brought(good), gone))

    assert [word for _, word in opened.verdicts] == ["KEEP", "KEEP", "ABANDON"]
    assert opened.session.free == 1
    await mend(dispatcher, Stage.LEASED)
    assert await dispatcher.report(opened.session, spoilt, completed(spoilt)) == "ACCEPTED"
    assert opened.session.unseen == {}


@running
async def test_its_result_is_asked_for_again_and_the_one_beside_it_is_recorded(
    dispatcher: Dispatcher,
):
    """Until it can be told whose the attempt is, its worker is not told to forget it."""
    session, spoilt, good = await both_held(dispatcher)
    token = spoilt.attempt.record.lease
    del session.attempts[token]
    results = [settlement(one, completed(one)) for one in (spoilt, good)]

    dispatcher.engine.settling.receive(session, results)

    words = [receipt.status for receipt in await dispatcher.receipts(session, 2)]
    assert words == ["RETRY_LATER", "ACCEPTED"]
    assert await dispatcher.engine.leases.heard(session, [token], 1) == []
    await pass_time(10)
    await mend(dispatcher, Stage.LEASED)
    assert await dispatcher.report(session, spoilt, completed(spoilt)) == "ACCEPTED"


@running
async def test_a_result_for_no_task_at_all_is_unknown(dispatcher: Dispatcher):
    session, gone, good = await both_held(dispatcher)
    del session.attempts[gone.attempt.record.lease]
    known = (gone.attempt.task_id,)
    statement = "DELETE FROM tasks WHERE task_id = ?"
    await dispatcher.store._database.run(lambda sqlite: sqlite.execute(statement, known))
    results = [settlement(one, completed(one)) for one in (gone, good)]

    dispatcher.engine.settling.receive(session, results)

    words = [receipt.status for receipt in await dispatcher.receipts(session, 2)]
    assert words == ["UNKNOWN", "ACCEPTED"]


@with_dispatcher("committer", "watch", "overview")
async def test_watchers_of_all_tasks_see_the_others(dispatcher: Dispatcher):
    _, good = await beside_one_spoilt(dispatcher)
    await dispatcher.store.heard.put(Signal("resync"))

    async with aclosing(dispatcher.engine.overview.follow(Filter())) as looks:
        first = await anext(looks)

    assert first.task_id == good
