"""The word that answers each result, and what becomes of its slot."""

import asyncio

import msgspec
import pytest

from stepstream_dispatcher.core.facts import Completed, Fact, Failed, Released
from stepstream_dispatcher.core.record import Stage, Transition
from stepstream_dispatcher.engine import settling as module
from stepstream_dispatcher.engine.sessions import Handout, Session
from stepstream_dispatcher.engine.settling import Held
from stepstream_dispatcher.store.port import CommitFailed, CommitKind
from tests.support.engine import Dispatcher, settlement, with_dispatcher
from tests.support.virtual_time import pass_time

settling = with_dispatcher("committer", "feeder", "settling")


async def running(dispatcher: Dispatcher) -> tuple[Session, Handout]:
    session = await dispatcher.connect(slots=1)
    await dispatcher.submit()
    (handout,) = await dispatcher.handed_out(session)
    return session, handout


def completed(handout: Handout, outcome: str = "completed") -> Completed:
    return Completed(token=handout.attempt.record.lease, outcome=outcome, output=b"output")


@pytest.mark.parametrize("kind", ["completed", "failed", "released"])
@settling
async def test_result_is_accepted_once_and_a_duplicate_after(dispatcher: Dispatcher, kind: str):
    session, handout = await running(dispatcher)
    session.max_in_flight = 0
    token = handout.attempt.record.lease
    facts: dict[str, Fact] = {
        "completed": completed(handout),
        "failed": Failed(token=token, code="BUSY", message="busy", retryable=True),
        "released": Released(token=token, reason="drain", reported=True),
    }

    assert await dispatcher.report(session, handout, facts[kind]) == "ACCEPTED"
    assert await dispatcher.report(session, handout, facts[kind]) == "DUPLICATE"

    record = await dispatcher.record(handout.attempt.task_id)
    assert record.lease == ""
    assert session.attempts == session.settling == {}


@settling
async def test_slot_is_free_as_soon_as_the_result_is_received(dispatcher: Dispatcher):
    session, handout = await running(dispatcher)

    dispatcher.engine.settling.receive(session, [settlement(handout, completed(handout))])

    assert session.free == 1
    assert session.settling.keys() == {handout.attempt.record.lease}


@settling
async def test_result_of_an_old_lease_is_stale(dispatcher: Dispatcher):
    session, handout = await running(dispatcher)
    session.max_in_flight = 0
    lease = handout.attempt.record.lease
    release = Released(token=lease, reason="given up")
    assert await dispatcher.report(session, handout, release) == "ACCEPTED"

    assert await dispatcher.report(session, handout, completed(handout)) == "STALE_LEASE"
    assert (await dispatcher.record(handout.attempt.task_id)).step == "translate"


@settling
async def test_result_of_a_task_that_is_gone_is_unknown(dispatcher: Dispatcher):
    session, handout = await running(dispatcher)
    await dispatcher.store._database.run(lambda c: c.execute("DELETE FROM tasks"))

    assert await dispatcher.report(session, handout, completed(handout)) == "UNKNOWN"
    assert await dispatcher.report(session, handout, completed(handout)) == "UNKNOWN"


@settling
async def test_outcome_that_the_step_lacks_is_invalid_and_fails_the_task(dispatcher: Dispatcher):
    session, handout = await running(dispatcher)

    assert await dispatcher.report(session, handout, completed(handout, "maybe")) == "INVALID"

    assert (await dispatcher.record(handout.attempt.task_id)).state == "failed"


@settling
async def test_result_that_could_not_be_taken_as_it_is_says_why(dispatcher: Dispatcher):
    session, handout = await running(dispatcher)
    fact = Failed(
        token=handout.attempt.record.lease, code="OUTPUT_TOO_LARGE", message="m", retryable=False
    )
    said = settlement(handout, fact, refused="output has 9 bytes, limit 8")

    dispatcher.engine.settling.receive(session, [said])

    (receipt,) = await dispatcher.receipts(session)
    assert (receipt.status, receipt.message) == ("INVALID", "output has 9 bytes, limit 8")


@settling
async def test_result_that_is_not_durable_is_kept_by_the_worker_and_takes_no_slot(
    dispatcher: Dispatcher,
):
    session, handout = await running(dispatcher)
    dispatcher.store.troubles.append("unreachable")

    assert await dispatcher.report(session, handout, completed(handout)) == "RETRY_LATER"
    assert session.parked.keys() == {handout.attempt.record.lease}
    assert session.attempts == session.settling == {}
    assert session.free == 1

    assert await dispatcher.report(session, handout, completed(handout)) == "ACCEPTED"
    assert session.parked == {}


@settling
async def test_result_whose_answer_was_lost_is_a_duplicate_when_it_comes_again(
    dispatcher: Dispatcher,
):
    session, handout = await running(dispatcher)
    session.max_in_flight = 0
    dispatcher.store.troubles.append("answer lost")

    assert await dispatcher.report(session, handout, completed(handout)) == "RETRY_LATER"
    assert await dispatcher.report(session, handout, completed(handout)) == "DUPLICATE"
    assert session.attempts == {}


@settling
async def test_result_that_the_store_cannot_carry_out_stops_no_other(dispatcher: Dispatcher):
    """Its own slot is kept for the resend, and the results beside it are recorded."""
    session = await dispatcher.connect(slots=2)
    await dispatcher.submit(b"1")
    await dispatcher.submit(b"2")
    bad, good = await dispatcher.handed_out(session, 2)
    session.max_in_flight = 0
    commit, go_on = dispatcher.store.commit, asyncio.Event()

    async def refuse(transitions: list[Transition], *, kind: CommitKind, live_max: int = 0):
        if transitions[0].task_id == bad.attempt.task_id:
            raise CommitFailed("a script error", [None])
        await go_on.wait()
        return await commit(transitions, kind=kind, live_max=live_max)

    dispatcher.store.commit = refuse  # type: ignore[method-assign, assignment]
    dispatcher.engine.settling.receive(session, [settlement(good, completed(good))])
    await pass_time(0.01)
    assert await dispatcher.report(session, bad, completed(bad)) == "RETRY_LATER"
    assert session.parked.keys() == {bad.attempt.record.lease}
    go_on.set()
    (receipt,) = await dispatcher.receipts(session)
    assert receipt.status == "ACCEPTED"

    dispatcher.store.commit = commit  # type: ignore[method-assign]
    assert await dispatcher.report(session, bad, completed(bad)) == "ACCEPTED"


@with_dispatcher("committer", "feeder", "settling", supervised=True)
async def test_report_that_is_taken_as_the_loop_fails_is_recorded_by_the_next(
    dispatcher: Dispatcher,
):
    """Its task is cancelled, with that of the one which fails, before it begins."""
    session = await dispatcher.connect(slots=2)
    for text in (b"1", b"2"):
        await dispatcher.submit(text)
    first, second = await dispatcher.handed_out(session, 2)
    session.max_in_flight = 0
    part, committer = dispatcher.engine.settling, dispatcher.engine.committer
    apply, go_on = committer.apply, asyncio.Event()

    async def fail(_proposals: object) -> None:
        await go_on.wait()
        raise RuntimeError("a fault of ours")

    committer.apply = fail  # type: ignore[method-assign, assignment]
    part.receive(session, [settlement(first, completed(first))])
    await pass_time(0.01)
    committer.apply = apply  # type: ignore[method-assign]
    go_on.set()
    part.receive(session, [settlement(second, completed(second))])
    await pass_time(10)

    words = {one.lease_token: one.status for one in session.outbox.receipts}
    assert words == {
        first.attempt.record.lease: "RETRY_LATER",
        second.attempt.record.lease: "ACCEPTED",
    }
    assert (session.reports, session.settling, part._bytes) == (0, {}, 0)


@settling
async def test_reports_are_recorded_in_one_call(dispatcher: Dispatcher):
    session = await dispatcher.connect(slots=5)
    for number in range(5):
        await dispatcher.submit(b"%d" % number)
    handouts = await dispatcher.handed_out(session, 5)
    session.max_in_flight = 0
    before = len(dispatcher.store.commits)

    for handout in handouts:
        said = settlement(handout, completed(handout))
        dispatcher.engine.settling.receive(session, [said])
    await dispatcher.receipts(session, 5)

    assert len(dispatcher.store.commits) - before <= 2


@settling
async def test_progress_is_recorded_without_a_version(dispatcher: Dispatcher):
    session, handout = await running(dispatcher)
    version = (await dispatcher.record(handout.attempt.task_id)).version
    held = Held(lease_token=handout.attempt.record.lease, progress=0.5, note="half")

    await dispatcher.engine.settling.progress(session, [held])

    record = await dispatcher.record(handout.attempt.task_id)
    assert (record.progress, record.note, record.version) == (0.5, "half", version)


@settling
async def test_progress_is_lost_when_the_store_is(dispatcher: Dispatcher):
    session, handout = await running(dispatcher)
    held = Held(lease_token=handout.attempt.record.lease, progress=0.5, note="half")
    dispatcher.store.troubles.append("unreachable")

    await dispatcher.engine.settling.progress(session, [held])

    assert (await dispatcher.record(handout.attempt.task_id)).progress == 0.0


@settling
async def test_cancelled_task_ends_when_its_worker_lets_go(dispatcher: Dispatcher):
    session, handout = await running(dispatcher)
    task_id = handout.attempt.task_id
    sight = await dispatcher.engine.desk.cancel(task_id, reason="no longer needed")
    assert sight.record.stage is Stage.LEASED
    assert [word.reason for word in session.outbox.cancels] == ["REQUESTED"]

    failed = Failed(
        token=handout.attempt.record.lease, code="CANCELLED", message="", retryable=False
    )
    assert await dispatcher.report(session, handout, failed) == "ACCEPTED"

    assert (await dispatcher.record(task_id)).state == "cancelled"


@settling
async def test_result_of_an_unknown_pipeline_is_kept_by_its_worker(dispatcher: Dispatcher):
    session, handout = await running(dispatcher)
    record = handout.attempt.record
    handout.attempt.record = msgspec.structs.replace(record, pipeline="gone@00000000")

    assert await dispatcher.report(session, handout, completed(handout)) == "RETRY_LATER"

    assert session.parked.keys() == {record.lease}


@with_dispatcher("committer", "feeder", "settling", "timers")
async def test_worker_that_gives_everything_back_is_handed_it_ever_less_often(
    dispatcher: Dispatcher,
):
    session, handout = await running(dispatcher)
    times = []
    for _ in range(9):
        released = Released(token=handout.attempt.record.lease, reason="no", reported=True)
        dispatcher.engine.settling.receive(session, [settlement(handout, released)])
        given_back = asyncio.get_running_loop().time()
        (handout,) = await dispatcher.handed_out(session)
        times.append(asyncio.get_running_loop().time() - given_back)

    assert times == pytest.approx([0, 1, 2, 4, 8, 16, 30, 30, 30], abs=0.1)


@settling
async def test_worker_that_drains_gives_back_what_is_handed_out_at_once(dispatcher: Dispatcher):
    session, handout = await running(dispatcher)
    for _ in range(5):
        session.draining = True
        released = Released(token=handout.attempt.record.lease, reason="leaves", reported=True)
        assert await dispatcher.report(session, handout, released) == "ACCEPTED"
        session.draining = False
        dispatcher.engine.sessions.stir()
        (handout,) = await dispatcher.handed_out(session)

    assert (await dispatcher.record(handout.attempt.task_id)).releases == 0


@settling
async def test_a_worker_that_reports_faster_than_is_recorded_waits(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
):
    """At the limit it is not read any more; another one is, as long as nothing of it waits."""
    part = dispatcher.engine.settling
    session, handout = await running(dispatcher)
    other = await dispatcher.connect("worker-2", slots=1)
    report = settlement(handout, completed(handout))
    monkeypatch.setattr(module, "REPORT_BYTES_MAX", 2 * len(b"output"))
    dispatcher.store.slow.clear()
    read = []

    async def read_when_there_is_room(reader: Session) -> None:
        assert await part.room(reader, at_most_s=60)
        read.append(reader.hello.worker_name)

    part.receive(session, [report])
    await read_when_there_is_room(session)
    part.receive(session, [report])
    await read_when_there_is_room(other)
    dispatcher.run(lambda: read_when_there_is_room(session))
    await pass_time(10)
    assert read == ["worker-1", "worker-2"]

    dispatcher.store.slow.set()
    await dispatcher.receipts(session, 2)
    await pass_time(0.01)
    assert read == ["worker-1", "worker-2", "worker-1"]
    assert (part._bytes, session.reports) == (0, 0)
