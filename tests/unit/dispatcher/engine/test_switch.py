"""Where each call goes while Redis is up, down, or back with tasks still in the journal."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from stepstream.errors import StoreUnavailable
from stepstream_dispatcher.core.record import Stage, Transition
from stepstream_dispatcher.engine.switch import SwitchStore
from stepstream_dispatcher.store.port import (
    CommitPartly,
    Result,
    Signal,
    StoreUnreachable,
    Verdict,
)
from tests.support.records import NOW_MS
from tests.support.switched import RUNNING_MAX, created, creation, switched
from tests.support.tasks_at import advance, carry_out, current
from tests.support.transitions import build
from tests.support.virtual_time import in_virtual_time, pass_time

FULL = Result(Verdict.FULL)
SIGNAL = Signal("intent", payload=b"cancel t1")


async def wait(switch: SwitchStore) -> object:
    return await switch.wait(["default"], count=1, timeout_s=1)


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
    ("mark_left", lambda s: s.mark_left(["w"]), None),
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
        waiting = group.create_task(dispatcher.switch.wait(["default"], count=1, timeout_s=1000))
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
        waiting = group.create_task(switch.wait(["default"], count=1, timeout_s=1000))
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
