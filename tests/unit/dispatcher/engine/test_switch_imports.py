"""The journal goes to Redis when it is back, and the engine works on with both."""

import asyncio
import contextlib
from typing import Any

import pytest
from structlog.testing import capture_logs

from stepstream.errors import StoreUnavailable
from stepstream_dispatcher.core.admission import Submission
from stepstream_dispatcher.core.facts import Completed
from stepstream_dispatcher.core.record import Stage
from stepstream_dispatcher.engine.sessions import Handout, Session
from stepstream_dispatcher.engine.switch import SwitchStore
from stepstream_dispatcher.store.port import (
    JOURNAL_FIELD,
    CommitFailed,
    CommitPartly,
    Imported,
    StoreUnreachable,
    Verdict,
)
from tests.support.engine import brought, settlement
from tests.support.records import NOW_MS
from tests.support.switched import LOOPS, Switched, created, creation, switched
from tests.support.tasks_at import advance, carry_out, current
from tests.support.transitions import build
from tests.support.virtual_time import in_virtual_time, pass_time

# --- imports -------------------------------------------------------------------------------------


async def at_rest(dispatcher: Switched, task_id: str = "t1") -> None:
    """A task of the journal that was cancelled while Redis was down."""
    dispatcher.divert()
    await created(dispatcher.switch, task_id)
    await carry_out(dispatcher.switch, "cancel", task_id)
    dispatcher.rejoin()


@in_virtual_time
async def test_import_takes_the_task_with_its_mark_and_forgets_it():
    async with switched() as dispatcher:
        await at_rest(dispatcher)

        assert dispatcher.switch.resting() == ["t1"]
        assert await dispatcher.switch.bring_home("t1") is Imported.CREATED

        (task,) = dispatcher.remote.taken
        assert task.fields[JOURNAL_FIELD] == creation("t1").op_id
        assert "t1" not in dispatcher.switch
        assert await dispatcher.journal.journaled_ids() == []
        assert await dispatcher.journal.departed() == []
        assert await dispatcher.switch.bring_home("t1") is None


@in_virtual_time
async def test_running_task_is_not_imported():
    async with switched() as dispatcher:
        dispatcher.divert()
        await created(dispatcher.switch, "t1")
        dispatcher.rejoin()

        assert dispatcher.switch.resting() == []
        assert await dispatcher.switch.bring_home("t1") is None
        assert not dispatcher.remote.taken


@in_virtual_time
async def test_task_that_is_being_changed_is_not_imported():
    async with switched() as dispatcher, asyncio.TaskGroup() as group:
        dispatcher.divert()
        await created(dispatcher.switch, "t1")
        await advance(dispatcher.switch, "t1", "lease", "to-review")
        dispatcher.rejoin()
        go_on, commit = asyncio.Event(), dispatcher.journal.commit

        async def slow(*args: Any, **options: Any) -> Any:
            await go_on.wait()
            return await commit(*args, **options)

        dispatcher.journal.commit = slow  # type: ignore[method-assign]
        review = group.create_task(carry_out(dispatcher.switch, "review", "t1"))
        await pass_time(1)

        assert await dispatcher.switch.bring_home("t1") is None
        go_on.set()
        assert (await review).verdict is Verdict.APPLIED
        assert await dispatcher.switch.bring_home("t1") is Imported.CREATED


@in_virtual_time
async def test_task_that_is_being_imported_is_not_changed_and_others_are():
    async with switched() as dispatcher, asyncio.TaskGroup() as group:
        await at_rest(dispatcher, "t1")
        dispatcher.divert()
        await created(dispatcher.switch, "t2")
        dispatcher.rejoin()
        dispatcher.remote.taking.clear()
        moving = group.create_task(dispatcher.switch.bring_home("t1"))
        await pass_time(1)
        changes = [
            build("redrive", "t1", await current(dispatcher.journal, "t1"), now_ms=NOW_MS),
            build("cancel", "t2", await current(dispatcher.journal, "t2"), now_ms=NOW_MS),
        ]

        with pytest.raises(CommitPartly) as caught:
            await dispatcher.switch.commit(changes, kind="settle")
        seen = await dispatcher.switch.records(["t1"])
        dispatcher.remote.taking.set()

        assert [result and result.verdict for result in caught.value.results] == [None, "APPLIED"]
        assert seen[0] is not None
        assert await moving is Imported.CREATED


@pytest.mark.parametrize(("moves", "error"), [(True, CommitPartly), (False, CommitFailed)])
@in_virtual_time
async def test_task_that_redis_cannot_change_is_told_from_one_that_is_being_imported(
    moves: bool, error: type[Exception]
):
    async with switched() as dispatcher, asyncio.TaskGroup() as group:
        await created(dispatcher.switch, "broken")
        dispatcher.store.broken.add("broken")
        await at_rest(dispatcher)
        redrive = build("redrive", "t1", await current(dispatcher.journal, "t1"), now_ms=NOW_MS)
        cancel = build("cancel", "broken", await current(dispatcher.store, "broken"), now_ms=NOW_MS)
        if moves:
            dispatcher.remote.taking.clear()
            group.create_task(dispatcher.switch.bring_home("t1"))
            await pass_time(1)

        with pytest.raises(error) as caught:
            await dispatcher.switch.commit([redrive, cancel], kind="settle")
        dispatcher.remote.taking.set()

        results = [result and result.verdict for result in caught.value.results]
        assert results == [None if moves else "APPLIED", None]


@in_virtual_time
async def test_task_whose_import_may_have_happened_is_not_changed_until_that_is_known():
    """Redis may have it, and there somebody may have decided its review."""
    async with switched() as dispatcher:
        await at_rest(dispatcher)
        dispatcher.remote.words.append(StoreUnavailable("the answer was lost"))
        with pytest.raises(StoreUnavailable):
            await dispatcher.switch.bring_home("t1")
        dispatcher.divert()

        with pytest.raises(CommitPartly):
            await carry_out(dispatcher.switch, "redrive", "t1")

        assert await dispatcher.journal.departed() == ["t1"]
        again = SwitchStore(dispatcher.remote, dispatcher.journal, running_max=3)  # type: ignore[arg-type]
        await again.open()
        with pytest.raises(CommitPartly):
            await carry_out(again, "redrive", "t1")
        dispatcher.remote.trouble = None
        again.rejoin()
        assert await again.bring_home("t1") is Imported.CREATED
        await dispatcher.journal.open()


@pytest.mark.parametrize("known_before", [False, True])
@in_virtual_time
async def test_task_whose_import_did_not_happen_goes_on_in_the_journal(known_before: bool):
    async with switched() as dispatcher:
        await at_rest(dispatcher)
        if known_before:
            dispatcher.remote.words.append(StoreUnavailable("the answer was lost"))
            with pytest.raises(StoreUnavailable):
                await dispatcher.switch.bring_home("t1")
        dispatcher.remote.down()
        with pytest.raises(StoreUnreachable):
            await dispatcher.switch.bring_home("t1")

        changed = await carried_out(dispatcher.switch, "redrive", "t1")

        assert changed is not known_before


async def carried_out(switch: SwitchStore, kind: str, task_id: str) -> bool:
    with contextlib.suppress(CommitPartly):
        await carry_out(switch, kind, task_id)
        return True
    return False


@in_virtual_time
async def test_dispatcher_that_starts_while_redis_is_down_begins_diverted_with_its_journal():
    async with switched() as dispatcher:
        await at_rest(dispatcher, "resting")
        dispatcher.divert()
        await created(dispatcher.switch, "running")

        again = SwitchStore(dispatcher.remote, dispatcher.journal, running_max=3)  # type: ignore[arg-type]
        await again.open()

        assert (again.diverted, again.journaled, again.running) == (True, 2, 1)
        assert again.resting() == ["resting"]
        assert again.rested.is_set()
        await dispatcher.journal.open()


@in_virtual_time
async def test_dispatcher_does_not_start_on_a_redis_that_is_slow():
    async with switched() as dispatcher:
        dispatcher.remote.trouble = StoreUnavailable("no answer")
        again = SwitchStore(dispatcher.remote, dispatcher.journal, running_max=3)  # type: ignore[arg-type]

        with pytest.raises(StoreUnavailable):
            await again.open()

        assert not again.diverted


# --- the engine around it ------------------------------------------------------------------------


def completed(handout: Handout) -> Completed:
    return Completed(token=handout.attempt.record.lease, outcome="completed", output=b"output")


async def one_of_each(dispatcher: Switched, *, slots: int = 2) -> tuple[Session, Handout, Handout]:
    """A worker that runs a task of Redis and one of the journal, while Redis is down."""
    session = await dispatcher.connect(slots=slots)
    await dispatcher.submit(b"there")
    (there,) = await dispatcher.handed_out(session)
    dispatcher.divert()
    await dispatcher.submitting(b"here")
    (here,) = await dispatcher.handed_out(session)
    session.max_in_flight = 0
    return session, here, there


async def words_of(dispatcher: Switched, session: Session, count: int) -> dict[str, str]:
    receipts = await dispatcher.receipts(session, count)
    return {receipt.lease_token: receipt.status for receipt in receipts}


@in_virtual_time
async def test_result_for_redis_holds_up_no_other_and_takes_no_slot():
    async with switched(*LOOPS) as dispatcher:
        session, here, there = await one_of_each(dispatcher)

        said = [settlement(each, completed(each)) for each in (here, there)]
        dispatcher.engine.settling.receive(session, said)
        words = await words_of(dispatcher, session, 2)

        assert words[here.attempt.record.lease] == "ACCEPTED"
        assert words[there.attempt.record.lease] == "RETRY_LATER"
        assert (session.attempts, session.parked.keys()) == ({}, {there.attempt.record.lease})
        dispatcher.rejoin()
        assert await dispatcher.report(session, there, completed(there)) == "ACCEPTED"
        await finish(dispatcher)


async def lose(dispatcher: Switched, session: Session, forgotten: Handout) -> None:
    """Give a worker up, and have nothing known of one attempt, as if it were another's."""
    del session.attempts[forgotten.attempt.record.lease]
    await dispatcher.engine.leases.give_up(session, "its stream broke")


async def finish(dispatcher: Switched) -> None:
    """Cancel what is left, so that nobody waits for it any more."""
    for task_id in list(dispatcher.switch._at_rest):
        await dispatcher.engine.desk.cancel(task_id, reason="the test is over")
        dispatcher.engine.watch.ring_all()
    for session in dispatcher.engine.sessions:
        await dispatcher.engine.leases.give_up(session, "the test is over")


@in_virtual_time
async def test_loops_go_on_while_a_worker_holds_an_attempt_for_redis():
    """One pass that failed would hold up the limits and the sweeps of all others for seconds."""
    async with switched(*LOOPS, supervised=True) as dispatcher:
        session, here, there = await one_of_each(dispatcher)
        dispatcher.engine.sessions.adopted["a-token"] = there.attempt.task_id

        with capture_logs() as logs:
            for _ in range(20):
                session.heard_at = asyncio.get_running_loop().time()
                await pass_time(1)

        assert [line for line in logs if "loop" in line] == []
        assert session.attempts.keys() == {here.attempt.record.lease, there.attempt.record.lease}
        here.attempt.timeout_at = there.attempt.timeout_at = asyncio.get_running_loop().time()
        await pass_time(0.5)
        assert session.attempts == {}
        assert (await dispatcher.record(here.attempt.task_id)).failures == 1
        assert (await dispatcher.record(there.attempt.task_id)).failures == 0
        await finish(dispatcher)


@in_virtual_time
async def test_worker_that_comes_back_while_redis_is_down_goes_on_with_what_was_given_up():
    """Its loss was not recorded yet, and must not be once Redis is back."""
    async with switched(*LOOPS, supervised=True) as dispatcher:
        session, here, there = await one_of_each(dispatcher)
        token = there.attempt.record.lease
        await dispatcher.engine.leases.heard(session, list(session.attempts), session.batches)
        await dispatcher.engine.leases.give_up(session, "its stream broke")

        opened = await dispatcher.register(slots=0, inventory=(brought(there),))
        dispatcher.rejoin()
        await pass_time(5)

        assert [word for _, word in opened.verdicts] == ["KEEP"]
        record = await dispatcher.record(there.attempt.task_id)
        assert (record.lease, record.losses) == (token, 0)
        assert await dispatcher.report(opened.session, there, completed(there)) == "ACCEPTED"
        assert here.attempt.task_id in dispatcher.switch
        await finish(dispatcher)


@in_virtual_time
async def test_worker_that_goes_again_while_redis_is_down_is_charged_for_it():
    async with switched(*LOOPS, supervised=True) as dispatcher:
        session, _, there = await one_of_each(dispatcher)
        await dispatcher.engine.leases.heard(session, list(session.attempts), session.batches)
        await dispatcher.engine.leases.give_up(session, "its stream broke")
        opened = await dispatcher.register(slots=0, inventory=(brought(there),))

        dispatcher.engine.leases.broke(opened.session)
        await pass_time(5)
        dispatcher.rejoin()
        await pass_time(5)

        assert (await dispatcher.record(there.attempt.task_id)).losses == 1
        await finish(dispatcher)


async def parked(dispatcher: Switched) -> tuple[Session, Handout]:
    """A worker with a result for Redis, which is down."""
    session, _, there = await one_of_each(dispatcher)
    words = await dispatcher.report(session, there, completed(there))
    assert words == "RETRY_LATER"
    return session, there


@in_virtual_time
async def test_result_that_its_worker_died_with_is_not_waited_for_once_redis_is_back():
    async with switched(*LOOPS, supervised=True) as dispatcher:
        session, there = await parked(dispatcher)

        await dispatcher.engine.leases.give_up(session, "its stream broke")
        dispatcher.rejoin()
        await pass_time(0.6)  # recovery would take another 1.5 s for a lease that nobody holds

        record = await dispatcher.record(there.attempt.task_id)
        assert (record.stage, record.losses) == (Stage.QUEUED, 0)
        await finish(dispatcher)


@in_virtual_time
async def test_worker_that_comes_back_with_a_result_while_redis_is_down_gives_it_later():
    async with switched(*LOOPS, supervised=True) as dispatcher:
        session, there = await parked(dispatcher)
        await dispatcher.engine.leases.give_up(session, "its stream broke")

        opened = await dispatcher.register(slots=1, inventory=(brought(there, settled=True),))
        assert opened.session.free == 1
        dispatcher.rejoin()
        await pass_time(0.6)

        assert await dispatcher.report(opened.session, there, completed(there)) == "ACCEPTED"
        await finish(dispatcher)


@in_virtual_time
async def test_attempt_that_is_over_is_not_kept_by_coming_back_while_redis_is_down():
    async with switched(*LOOPS, supervised=True) as dispatcher:
        session, _, there = await one_of_each(dispatcher)
        there.attempt.timeout_at = asyncio.get_running_loop().time()
        await pass_time(0.5)
        assert there.attempt.record.lease not in session.attempts

        opened = await dispatcher.register(slots=0, inventory=(brought(there),))
        dispatcher.rejoin()
        await pass_time(0.5)

        assert [word for _, word in opened.verdicts] == ["ABANDON"]
        assert (await dispatcher.record(there.attempt.task_id)).failures == 1
        await finish(dispatcher)


@in_virtual_time
async def test_worker_that_brings_an_attempt_at_redis_keeps_it():
    async with switched(*LOOPS) as dispatcher:
        session, here, there = await one_of_each(dispatcher)
        await lose(dispatcher, session, there)

        opened = await dispatcher.register(slots=3, inventory=(brought(there),))
        again = opened.session
        token = there.attempt.record.lease

        assert [word for _, word in opened.verdicts] == ["KEEP"]
        assert again.unseen == {token: False}
        assert again.free <= 2
        assert await dispatcher.engine.leases.heard(again, [token], 0) == []
        dispatcher.rejoin()
        dispatcher.engine.sessions.let_look_again()
        assert again.outbox.closing
        later = await dispatcher.register(slots=3, inventory=(brought(there),))
        assert [word for _, word in later.verdicts] == ["KEEP"]
        assert token in later.session.attempts
        assert await dispatcher.report(later.session, there, completed(there)) == "ACCEPTED"
        assert here.attempt.task_id in dispatcher.switch
        await finish(dispatcher)


@in_virtual_time
async def test_result_that_is_brought_while_redis_is_down_is_kept_and_taken_later():
    async with switched(*LOOPS) as dispatcher:
        session, _, there = await one_of_each(dispatcher)
        await lose(dispatcher, session, there)
        opened = await dispatcher.register(inventory=(brought(there, settled=True),))
        again, token = opened.session, there.attempt.record.lease
        again.max_in_flight = 0

        assert [word for _, word in opened.verdicts] == ["RESEND"]
        assert await dispatcher.report(again, there, completed(there)) == "RETRY_LATER"
        assert again.unseen == {token: True}
        dispatcher.rejoin()
        assert await dispatcher.report(again, there, completed(there)) == "ACCEPTED"
        assert again.unseen == {}
        await finish(dispatcher)


@in_virtual_time
async def test_result_that_its_worker_has_forgotten_is_released():
    async with switched(*LOOPS) as dispatcher:
        session, _, there = await one_of_each(dispatcher)
        assert await dispatcher.report(session, there, completed(there)) == "RETRY_LATER"
        dispatcher.rejoin()

        await dispatcher.engine.leases.heard(session, list(session.attempts), session.batches)
        await pass_time(4)

        record = await dispatcher.record(there.attempt.task_id)
        assert (record.stage, record.failures, record.losses) == (Stage.QUEUED, 0, 0)
        await finish(dispatcher)


@in_virtual_time
async def test_task_that_redis_accepted_is_answered_at_once_although_it_went_down_since():
    async with switched("committer") as dispatcher:
        dispatcher.remote.store = dispatcher.store
        commit = dispatcher.store.commit

        async def accept_and_die(*args: Any, **options: Any) -> Any:
            results = await commit(*args, **options)
            dispatcher.switch.divert()
            return results

        dispatcher.store.commit = accept_and_die  # type: ignore[method-assign]

        accepted = await dispatcher.engine.desk.submit(
            Submission(pipeline="translation", input=b"x")
        )

        assert (accepted.home.mode, accepted.state) == ("PARALLEL", "pending")


@in_virtual_time
async def test_caller_that_leaves_cancels_nothing_and_joins_the_same_task_later():
    async with switched(*LOOPS) as dispatcher:
        dispatcher.divert()
        session = await dispatcher.connect()
        first = await dispatcher.submitting(request_id="r1")
        (handout,) = await dispatcher.handed_out(session)
        first.cancel()
        await pass_time(1)
        again = await dispatcher.submitting(request_id="r1")

        assert not again.done()
        await dispatcher.engine.desk.cancel(handout.attempt.task_id, reason="enough")
        session.max_in_flight = 0
        assert await dispatcher.report(session, handout, completed(handout)) == "ACCEPTED"
        accepted = await again
        assert (accepted.task_id, accepted.duplicate) == (handout.attempt.task_id, True)
        assert accepted.state == "cancelled"
