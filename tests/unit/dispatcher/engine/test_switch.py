"""Where each call goes while Redis is up, down, or back with tasks still in the journal."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from stepstream.errors import StoreUnavailable
from stepstream_dispatcher.core.admission import Submission
from stepstream_dispatcher.core.facts import Completed
from stepstream_dispatcher.core.record import Stage, Transition
from stepstream_dispatcher.engine.sessions import Handout, Session
from stepstream_dispatcher.engine.switch import SwitchStore
from stepstream_dispatcher.store.port import (
    JOURNAL_FIELD,
    CommitPartly,
    Imported,
    Result,
    Signal,
    StoreUnreachable,
    Verdict,
)
from tests.support.engine import brought, database, settlement
from tests.support.records import NOW_MS
from tests.support.switched import RUNNING_MAX, Switched
from tests.support.tasks_at import advance, carry_out, current
from tests.support.transitions import build
from tests.support.virtual_time import in_virtual_time, pass_time

FULL = Result(Verdict.FULL)
SIGNAL = Signal("intent", payload=b"cancel t1")
LOOPS = ("committer", "feeder", "settling", "leases", "recovery", "timers")


@contextlib.asynccontextmanager
async def switched(*loops: str, **options: Any) -> Any:
    """A dispatcher on a switch, in virtual time."""
    async with Switched(database(), *loops, **options) as dispatcher:
        dispatcher.remote.calls.clear()
        yield dispatcher


def creation(task_id: str, **changes: Any) -> Transition:
    return msgspec.structs.replace(build("create", task_id, None, now_ms=NOW_MS), **changes)


async def created(switch: SwitchStore, *task_ids: str, **changes: Any) -> list[str]:
    results = await switch.commit([creation(one, **changes) for one in task_ids], kind="submit")
    return [result.verdict.value for result in results]


async def wait(switch: SwitchStore) -> object:
    return await switch.wait(["default"], timeout_s=1)


async def trim(switch: SwitchStore) -> object:
    return await switch.trim(results_max=5, limit=5)


Ask = Callable[[SwitchStore], Awaitable[object]]

# What is asked, the method of Redis that answers it, and the answer while Redis is down.
REFUSED = StoreUnreachable
CALLS: list[tuple[str, Ask, object]] = [
    ("commit", lambda s: created(s, "t9"), ["APPLIED"]),
    ("records", lambda s: s.records(["t1"]), REFUSED),
    ("data", lambda s: s.data(["t1"]), REFUSED),
    ("load", lambda s: s.load(["t1"]), REFUSED),
    ("settled", lambda s: s.settled("t1", "translate"), REFUSED),
    ("history", lambda s: s.history("t1", after=0), REFUSED),
    ("index", lambda s: s.index(cursor="", count=5), REFUSED),
    ("waiting", lambda s: s.waiting("failed", cursor="", count=5), REFUSED),
    ("forget_dispatcher", lambda s: s.forget_dispatcher("d2"), REFUSED),
    ("counts", lambda s: s.counts(), {"live": 0, "retries": 0}),
    ("ended_in", lambda s: s.ended_in(5), 0),
    ("oldest_ms", lambda s: s.oldest_ms("failed"), None),
    ("keep_pipelines", lambda s: s.keep_pipelines({"p@1": b"p"}), None),
    ("durability", lambda s: s.durability(), "VOLATILE"),  # of a journal in memory
    ("ensure_lanes", lambda s: s.ensure_lanes(["default"]), None),
    ("read", lambda s: s.read("default", 5), []),
    ("wait", wait, []),
    ("wake", lambda s: s.wake(), None),
    ("pending", lambda s: s.pending("default", consumer="d1", after="", count=5), []),
    ("discard", lambda s: s.discard("default", ["1-1"]), None),
    ("due", lambda s: s.due(limit=5), ([], None)),
    ("beat", lambda s: s.beat(), None),
    ("dispatchers", lambda s: s.dispatchers(), {}),
    ("save_worker", lambda s: s.save_worker("w", {"sdk": "x"}), None),
    ("workers", lambda s: s.workers(), {}),
    ("notify", lambda s: s.notify("d2", b"cancel t1"), None),
    ("trim", trim, 0),
]
NAMES = [name for name, _, _ in CALLS]


@pytest.mark.parametrize(("name", "ask", "_answer"), CALLS, ids=NAMES)
@in_virtual_time
async def test_redis_is_asked_while_it_is_there(name: str, ask: Ask, _answer: object):
    async with switched() as dispatcher:
        await ask(dispatcher.switch)

        assert list(dispatcher.remote.calls) == [name]


@pytest.mark.parametrize(("name", "ask", "answer"), CALLS, ids=NAMES)
@in_virtual_time
async def test_redis_is_not_asked_while_it_is_down(name: str, ask: Ask, answer: object):
    async with switched() as dispatcher:
        dispatcher.divert()
        try:
            got = await ask(dispatcher.switch)
        except StoreUnreachable:
            got = REFUSED

        assert got == answer
        assert not dispatcher.remote.calls


ASKED = [call for call in CALLS if call[2] is not REFUSED]
UNPREPARED = ("keep_pipelines", "ensure_lanes")  # of the opening, which is tried again


@pytest.mark.parametrize(
    ("ask", "answer"),
    [(ask, answer) for name, ask, answer in ASKED if name not in UNPREPARED],
    ids=[name for name, _, _ in ASKED if name not in UNPREPARED],
)
@in_virtual_time
async def test_call_that_did_not_reach_redis_waits_for_the_probes(ask: Ask, answer: object):
    async with switched() as dispatcher, asyncio.TaskGroup() as group:
        dispatcher.remote.down()
        call = group.create_task(ask(dispatcher.switch))  # type: ignore[arg-type, var-annotated]
        await dispatcher.switch.doubted.wait()
        await pass_time(1)
        dispatcher.switch.divert()

        assert await call == answer


@in_virtual_time
async def test_call_that_did_not_reach_redis_fails_when_a_probe_reaches_it():
    async with switched() as dispatcher, asyncio.TaskGroup() as group:
        dispatcher.remote.down()
        began = asyncio.get_running_loop().time()

        async def ask() -> float:
            with pytest.raises(StoreUnreachable):
                await created(dispatcher.switch, "t1")
            return asyncio.get_running_loop().time() - began

        call = group.create_task(ask())
        await dispatcher.switch.doubted.wait()
        dispatcher.switch.vouch()  # of a probe that began before
        await pass_time(0.5)
        dispatcher.switch.doubted.clear()
        dispatcher.switch.vouch()

        assert await call == pytest.approx(0.5)
        assert "t1" not in dispatcher.switch


@pytest.mark.parametrize("trouble", [StoreUnavailable("slow"), CommitPartly("cut", [None])])
@in_virtual_time
async def test_commit_that_may_have_reached_redis_is_never_diverted(trouble: Exception):
    """Mutant: a fallback on a timeout would run the task twice."""
    async with switched() as dispatcher:
        dispatcher.remote.trouble = trouble

        with pytest.raises(StoreUnavailable) as caught:
            await created(dispatcher.switch, "t1")
        dispatcher.switch.divert()

        assert not isinstance(caught.value, StoreUnreachable)
        assert dispatcher.switch.journaled == 0
        assert not dispatcher.switch.doubted.is_set()


@in_virtual_time
async def test_settlement_of_redis_is_refused_at_once_and_never_journaled():
    async with switched() as dispatcher:
        record = await advance(dispatcher.store, "t1", "create", "lease")
        late = build("complete-done", "t1", record, now_ms=NOW_MS)
        dispatcher.remote.down()
        began = asyncio.get_running_loop().time()

        for turn in (lambda: None, dispatcher.switch.divert):
            turn()
            with pytest.raises(StoreUnavailable):
                await dispatcher.switch.commit([late], kind="settle")

        assert asyncio.get_running_loop().time() == began
        assert dispatcher.switch.doubted.is_set()
        assert dispatcher.switch.journaled == 0


# --- commits of both homes -----------------------------------------------------------------------


@in_virtual_time
async def test_each_transition_goes_where_its_task_is():
    async with switched() as dispatcher:
        dispatcher.divert()
        await created(dispatcher.switch, "here")
        dispatcher.rejoin()
        await created(dispatcher.switch, "there")
        switch = dispatcher.switch
        await switch.read("default", 5)
        leases = [
            build("lease", task_id, (await switch.records([task_id]))[0], now_ms=NOW_MS)
            for task_id in ("there", "here")
        ]

        results = await switch.commit(leases, kind="settle")

        assert [result.verdict for result in results] == [Verdict.APPLIED, Verdict.APPLIED]
        assert (await current(dispatcher.journal, "here")).stage is Stage.LEASED
        assert (await current(dispatcher.store, "there")).stage is Stage.LEASED
        assert await dispatcher.store.records(["here"]) == [None]


@in_virtual_time
async def test_what_the_journal_did_is_told_when_redis_fails():
    async with switched() as dispatcher:
        dispatcher.divert()
        await created(dispatcher.switch, "here")
        dispatcher.rejoin()
        record = await current(dispatcher.journal, "here")
        cancel = build("cancel", "here", record, now_ms=NOW_MS)
        dispatcher.remote.trouble = StoreUnavailable("cut")

        with pytest.raises(CommitPartly) as caught:
            await dispatcher.switch.commit([creation("there"), cancel], kind="settle")

        assert [result and result.verdict for result in caught.value.results] == [None, "APPLIED"]


@in_virtual_time
async def test_creation_that_must_be_durable_is_left_out_and_the_others_are_made():
    async with switched() as dispatcher:
        dispatcher.divert()

        with pytest.raises(CommitPartly, match="durability") as caught:
            await dispatcher.switch.commit(
                [creation("t1", durable=True), creation("t2")], kind="submit"
            )

        assert [result and result.verdict for result in caught.value.results] == [None, "APPLIED"]
        assert ("t1" in dispatcher.switch, "t2" in dispatcher.switch) == (False, True)


@in_virtual_time
async def test_no_more_run_at_once_than_set():
    async with switched() as dispatcher:
        dispatcher.divert()
        names = [f"t{n}" for n in range(RUNNING_MAX + 2)]

        assert await created(dispatcher.switch, *names) == ["APPLIED"] * RUNNING_MAX + ["FULL"] * 2
        assert await created(dispatcher.switch, "t9") == ["FULL"]
        assert dispatcher.switch.running == dispatcher.switch.journaled == RUNNING_MAX
        await carry_out(dispatcher.switch, "cancel", "t0")
        assert await created(dispatcher.switch, "t9") == ["APPLIED"]


@in_virtual_time
async def test_more_running_than_set_leave_no_room():
    """Reviews and due times bring tasks back that did not count."""
    async with switched() as dispatcher:
        dispatcher.divert()
        await created(dispatcher.switch, "t1", "t2", "t3")
        dispatcher.switch._running_max = 1

        assert await created(dispatcher.switch, "t4", "t5", "t6") == ["FULL"] * 3


@in_virtual_time
async def test_known_task_is_a_duplicate_even_without_room():
    async with switched() as dispatcher:
        dispatcher.divert()
        await created(dispatcher.switch, "t1", "t2", "t3")

        (result,) = await dispatcher.switch.commit(
            [creation("t1", op_id="another1")], kind="submit"
        )

        assert result.verdict is Verdict.VERSION_CONFLICT
        assert "t1" in dispatcher.switch


@in_virtual_time
async def test_full_disk_forgets_no_task():
    async with switched() as dispatcher:
        dispatcher.divert()
        await created(dispatcher.switch, "t1")

        async def full(transitions: list[Transition], **_: object) -> list[Result]:
            return [FULL] * len(transitions)

        dispatcher.journal.commit = full  # type: ignore[method-assign, assignment]

        assert await created(dispatcher.switch, "t1") == ["FULL"]
        assert await created(dispatcher.switch, "t2") == ["FULL"]
        assert ("t1" in dispatcher.switch, "t2" in dispatcher.switch) == (True, False)


@in_virtual_time
async def test_journal_that_fails_leaves_nothing_behind():
    async with switched() as dispatcher:
        dispatcher.divert()
        await dispatcher.journal.close()

        with pytest.raises(StoreUnavailable):
            await created(dispatcher.switch, "t1")

        assert dispatcher.switch.journaled == 0
        await dispatcher.journal.open()


# --- reads of both homes -------------------------------------------------------------------------


@in_virtual_time
async def test_reads_answer_in_order_from_both():
    async with switched() as dispatcher:
        dispatcher.divert()
        await created(dispatcher.switch, "here")
        dispatcher.rejoin()
        await created(dispatcher.switch, "there")
        ids = ["there", "here", "nowhere"]

        records = await dispatcher.switch.records(ids)
        loads = await dispatcher.switch.load(ids)

        assert [record and record.state for record in records] == ["pending", "pending", None]
        assert [record for record, _ in loads] == records
        assert len(await dispatcher.switch.history("here", after=0)) == 1


@pytest.mark.parametrize("verb", ["records", "history"])
@in_virtual_time
async def test_task_that_leaves_while_it_is_read_is_read_where_it_went(verb: str):
    async with switched() as dispatcher:
        switch, journal = dispatcher.switch, dispatcher.journal
        await created(switch, "t1")
        dispatcher.divert()
        await created(switch, "t1")
        await carry_out(switch, "cancel", "t1")
        dispatcher.rejoin()
        real = getattr(journal, verb)

        async def read(*args: Any, **options: Any) -> Any:
            await switch.bring_home("t1")
            return await real(*args, **options)

        setattr(journal, verb, read)
        found = await (
            switch.records(["t1"]) if verb == "records" else switch.history("t1", after=0)
        )

        assert found
        assert found[0] is not None


@in_virtual_time
async def test_list_of_the_journal_alone_is_none():
    async with switched() as dispatcher:
        dispatcher.divert()
        await created(dispatcher.switch, "here")

        for ask in (dispatcher.switch.index, dispatcher.switch.waiting):
            words = ("failed",) if ask == dispatcher.switch.waiting else ()
            with pytest.raises(StoreUnreachable):
                await ask(*words, cursor="", count=5)


# --- lanes ---------------------------------------------------------------------------------------


@in_virtual_time
async def test_entry_that_redis_has_for_a_task_of_the_journal_is_not_handed_out():
    async with switched() as dispatcher:
        switch = dispatcher.switch
        await created(switch, "t1", "t2")
        dispatcher.divert()
        await created(switch, "t1")
        dispatcher.rejoin()

        read = await switch.read("default", 10)
        pending = await switch.pending("default", consumer="dispatcher-1", after="", count=9)

        assert [(one.task_id, dispatcher.journal.is_own_entry(one.entry_id)) for one in read] == [
            ("t1", True),
            ("t2", False),
        ]
        assert {one.entry_id for one in pending} == {one.entry_id for one in read}


@in_virtual_time
async def test_wait_is_ended_by_the_turn():
    """A Redis that vanished without a word would hold the reader for seconds."""
    async with switched() as dispatcher, asyncio.TaskGroup() as group:
        waiting = group.create_task(dispatcher.switch.wait(["default"], timeout_s=1000))
        await pass_time(1)
        began = asyncio.get_running_loop().time()

        dispatcher.divert()

        assert await waiting == []
        assert asyncio.get_running_loop().time() == began


@pytest.mark.parametrize("home", ["here", "there"])
@in_virtual_time
async def test_wait_hears_of_both(home: str):
    async with switched() as dispatcher, asyncio.TaskGroup() as group:
        switch = dispatcher.switch
        dispatcher.divert()
        await created(switch, "old")
        await switch.read("default", 5)
        dispatcher.rejoin()
        waiting = group.create_task(switch.wait(["default"], timeout_s=1000))
        await pass_time(1)

        store = dispatcher.journal if home == "here" else dispatcher.store
        await store.commit([creation("new")], kind="submit")

        assert [entry.task_id for entry in await waiting] == ["new"]


@in_virtual_time
async def test_due_tasks_of_both_are_told_once():
    async with switched() as dispatcher:
        for task_id in ("both", "there"):
            await advance(dispatcher.store, task_id, "create", "lease", "fail-delayed")
        dispatcher.divert()
        await created(dispatcher.switch, "both")
        await advance(dispatcher.journal, "both", "lease", "fail-delayed")
        dispatcher.rejoin()
        await pass_time(61)

        due, _ = await dispatcher.switch.due(limit=5)

        assert sorted(due) == ["both", "there"]


@in_virtual_time
async def test_signals_begin_when_redis_is_there():
    async with switched() as dispatcher, asyncio.TaskGroup() as group:
        dispatcher.divert()
        async with contextlib.aclosing(dispatcher.switch.signals(events=False)) as signals:
            first = group.create_task(anext(signals))  # type: ignore[arg-type, var-annotated]
            await pass_time(1)
            assert not first.done()

            dispatcher.rejoin()
            await dispatcher.store.heard.put(SIGNAL)

            assert await first == SIGNAL


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
async def test_worker_that_brings_an_attempt_at_redis_keeps_it():
    async with switched(*LOOPS) as dispatcher:
        session, here, there = await one_of_each(dispatcher)
        await dispatcher.engine.leases.give_up(session, "its stream broke")

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
        await dispatcher.engine.leases.give_up(session, "its stream broke")
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
