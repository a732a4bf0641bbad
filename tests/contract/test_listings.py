"""Pages, counts, due times, the registry, signals and housekeeping."""

import asyncio
from contextlib import aclosing

import msgspec
import pytest

from stepstream.errors import InvalidTask
from stepstream_dispatcher.store.port import Signal
from tests.support.tasks_at import advance, current
from tests.support.transitions import build, lease_token

ALL = 10_000  # results kept in tests that trim none for their number


async def submit(store, *task_ids, now_ms=None):
    creations = [
        build("create", task_id, None, now_ms=now_ms or store.now_ms()) for task_id in task_ids
    ]
    await store.commit(creations, kind="submit")


async def walked(page_of):
    pages, cursor = [], ""
    for _ in range(20):
        page = await page_of(cursor)
        pages.append(page.task_ids)
        cursor = page.next_cursor
        if not cursor:
            return pages
    raise AssertionError(pages)


async def test_a_new_store_is_empty(store):
    assert await store.counts() == {"live": 0, "retries": 0}
    assert await store.records(["t1"]) == [None]
    assert await store.data(["t1"]) == [{}]
    assert await store.history("t1", after=0) == []
    assert await store.due(limit=10) == ([], None)
    assert await store.oldest_ms("failed") is None
    assert await store.workers() == {}
    assert (await store.index(cursor="", count=5)).task_ids == []


async def test_nothing_is_read_of_nothing(store):
    assert await store.records([]) == []
    assert await store.data([]) == []


async def test_a_record_and_its_data_are_read_together(store):
    record = await advance(store, "t1", "create", "lease", "complete-next")
    (data,) = await store.data(["t1"])

    assert await store.load(["t2", "t1"]) == [(None, {}), (record, data)]
    assert await store.load([]) == []


async def test_who_settled_a_step_last_is_known(store):
    await advance(store, "t1", "create", "lease", "complete-next")

    assert await store.settled("t1", "translate") == lease_token("t1", 1)
    assert await store.settled("t1", "verify") == ""
    assert await store.settled("t2", "translate") == ""


async def test_kept_pipelines_are_added_to_those_before(store):
    assert await store.pipelines() == {}
    await store.keep_pipelines({"a@1": b"\x00\xff", "b@1": b"b"})
    await store.keep_pipelines({"b@1": b"again"})
    await store.keep_pipelines({})

    assert await store.pipelines() == {"a@1": b"\x00\xff", "b@1": b"again"}


async def test_the_index_lists_the_newest_first_even_within_a_millisecond(store):
    start_ms = store.now_ms()
    await submit(store, "t1", "t3", "t2", now_ms=start_ms)
    await submit(store, "t0", now_ms=start_ms + 1)
    await submit(store, "t9", now_ms=start_ms - 1)

    pages = await walked(lambda cursor: store.index(cursor=cursor, count=2))

    assert pages == [["t0", "t3"], ["t2", "t1"], ["t9"]]


async def test_new_tasks_do_not_shift_the_pages(store):
    start_ms = store.now_ms()
    await submit(store, "t1", "t2", "t3", now_ms=start_ms)
    first = await store.index(cursor="", count=2)
    await submit(store, "t4", now_ms=start_ms + 1)

    second = await store.index(cursor=first.next_cursor, count=2)

    assert (first.task_ids, second.task_ids) == (["t3", "t2"], ["t1"])


@pytest.mark.parametrize("cursor", ["x", ":t1", "-1:t1", "(5:t1"])
async def test_a_strange_cursor_is_refused(store, cursor):
    with pytest.raises(InvalidTask) as caught:
        await store.index(cursor=cursor, count=2)

    assert caught.value.field == "page_token"


async def test_dead_letters_are_listed_the_latest_first(store):
    start_ms = store.now_ms()
    for number, task_id in enumerate(["t1", "t2", "t3"]):
        record = await advance(store, task_id, "create", "lease")
        failure = build("fail-dead", task_id, record, now_ms=start_ms + number)
        await store.commit([failure], kind="settle")

    pages = await walked(lambda cursor: store.waiting("failed", cursor=cursor, count=2))

    assert pages == [["t3", "t2"], ["t1"]]
    assert await store.oldest_ms("failed") == start_ms


async def test_a_redriven_task_waits_no_more(store):
    await advance(store, "t1", "create", "lease", "fail-dead", "redrive")

    assert (await store.waiting("failed", cursor="", count=10)).task_ids == []
    assert await store.oldest_ms("failed") is None


async def test_due_tasks_come_the_earliest_first_and_name_the_next(store):
    now_ms = store.now_ms()
    due_times = {"t1": now_ms - 5, "t2": now_ms - 9, "t3": now_ms - 7, "t4": now_ms + 60_000}
    for task_id, due_ms in due_times.items():
        creation = build("create", task_id, None, now_ms=now_ms)
        delayed = msgspec.structs.replace(creation, enqueue=None, due_ms=due_ms)
        await store.commit([delayed], kind="submit")

    assert await store.due(limit=2) == (["t2", "t3"], now_ms - 5)
    assert await store.due(limit=10) == (["t2", "t3", "t1"], now_ms + 60_000)


async def test_dispatchers_are_known_by_their_beats(store, peer):
    await store.beat()
    await peer.beat()

    seen = await store.dispatchers()

    assert set(seen) == {"d1", "d2"}
    assert all(0 <= age_ms < 10_000 for age_ms in seen.values())


async def test_a_dispatcher_without_entries_is_forgotten(store, peer):
    await peer.beat()
    await peer.read("default", 1)

    await store.forget_dispatcher("d2")

    assert await store.dispatchers() == {}


async def test_a_dispatcher_with_entries_is_kept_with_them(store, peer):
    await peer.beat()
    await submit(store, "t1")
    await peer.read("default", 1)

    await store.forget_dispatcher("d2")

    assert set(await store.dispatchers()) == {"d2"}
    assert len(await store.pending("default", consumer="d2", after="", count=10)) == 1


async def test_saving_a_worker_leaves_other_fields_and_counters_alone(store):
    await store.save_worker("worker-1", {"sdk": "python", "in_flight": 1})
    await advance(store, "t1", "create", "lease", "complete-next")
    await store.save_worker("worker-1", {"in_flight": 0})

    workers = await store.workers()

    assert workers == {"worker-1": {"sdk": "python", "in_flight": "0", "processed": "1"}}


async def test_workers_that_left_are_marked_unless_they_have_moved(store, peer):
    here = {"sdk": "python", "is_running": 1, "current_tasks": 2, "draining": 1, "seen_ms": 7}
    for name in ("worker-1", "worker-2", "worker-3"):
        await store.save_worker(name, {**here, "dispatcher": "d1"})
    await advance(store, "t1", "create", "lease", "complete-next")
    await peer.save_worker("worker-2", {"dispatcher": "d2"})
    before = await store.workers()

    await store.mark_left(["worker-1", "worker-2", "nobody"])

    workers = await store.workers()
    gone = workers.pop("worker-1")
    assert workers == {name: before[name] for name in ("worker-2", "worker-3")}
    assert abs(int(gone["seen_ms"]) - store.now_ms()) < 10_000
    assert gone == before["worker-1"] | {
        "is_running": "0",
        "current_tasks": "0",
        "draining": "0",
        "seen_ms": gone["seen_ms"],
    }
    assert gone["processed"] == "1"


async def test_nobody_is_marked_where_nobody_left(store):
    await store.mark_left([])

    assert await store.workers() == {}


async def test_an_intent_reaches_its_dispatcher_alone(store, peer):
    async with (
        aclosing(store.signals(events=False)) as own,
        aclosing(peer.signals(events=False)) as others,
        asyncio.timeout(5),
    ):
        assert [(await anext(each)).kind for each in (own, others)] == ["resync", "resync"]
        await store.notify("d2", b"cancel t1\x00")
        await store.notify("d1", b"for d1")

        assert await anext(others) == Signal("intent", payload=b"cancel t1\x00")
        assert await anext(own) == Signal("intent", payload=b"for d1")


async def test_own_events_and_unasked_ones_are_not_heard(store, peer):
    async with (
        aclosing(store.signals(events=True)) as own,
        aclosing(peer.signals(events=False)) as others,
        asyncio.timeout(5),
    ):
        assert [(await anext(each)).kind for each in (own, others)] == ["resync", "resync"]
        await submit(store, "t1")
        await store.notify("d1", b"marker")
        await store.notify("d2", b"marker")

        assert [(await anext(each)).kind for each in (own, others)] == ["intent", "intent"]


async def test_what_expired_leaves_the_listings(store, backend):
    await advance(store, "t1", "create", "lease", "fail-dead")
    long_ago = store.now_ms() - 5_000_000
    record = await advance(store, "t2", "create")
    cancelled = build("cancel", "t2", record, now_ms=long_ago)
    await store.commit([cancelled], kind="settle")
    await backend.expire("t2")

    dropped = await store.trim(results_max=ALL, limit=100)

    assert dropped == 1
    assert await store.records(["t2"]) == [None]
    assert (await store.index(cursor="", count=10)).task_ids == ["t1"]
    assert await store.counts() == {"live": 0, "retries": 0, "failed": 1}


async def test_ended_tasks_beyond_the_limit_go_the_oldest_first(store):
    start_ms = store.now_ms()
    for number, task_id in enumerate(["t1", "t2", "t3", "t4"]):
        record = await advance(store, task_id, "create", "lease")
        ending = build("fail-dead", task_id, record, now_ms=start_ms + number)
        await store.commit([ending], kind="settle")
    await advance(store, "t5", "create")

    first = await store.trim(results_max=1, limit=2)
    second = await store.trim(results_max=1, limit=2)
    third = await store.trim(results_max=1, limit=2)

    assert [first, second, third] == [2, 1, 0]
    assert (await store.index(cursor="", count=10)).task_ids == ["t5", "t4"]
    assert (await store.waiting("failed", cursor="", count=10)).task_ids == ["t4"]
    assert await store.data(["t1"]) == [{}]
    assert await store.history("t1", after=0) == []
    assert await store.counts() == {"live": 1, "retries": 0, "failed": 1, "pending": 1}


ENDS = {  # state -> how a task gets there
    "done": ("create", "lease", "complete-done"),
    "failed": ("create", "lease", "fail-dead"),
    "cancelled": ("create", "cancel"),
}


async def live_once(store, backend, *kinds):
    """Let a task live, end long ago and expire, before anything was trimmed."""
    record = await advance(store, "t1", *kinds[:-1])
    last = build(kinds[-1], "t1", record, now_ms=store.now_ms() - 5_000_000, op_id="lastlife")
    await store.commit([last], kind="settle")
    await backend.expire("t1")


@pytest.mark.parametrize("first", ENDS)
@pytest.mark.parametrize("results_max", [0, ALL])
async def test_a_task_that_lives_again_after_it_expired_is_counted_once(
    store, backend, first, results_max
):
    await live_once(store, backend, *ENDS[first])
    await advance(store, "t1", "create")

    await store.trim(results_max=results_max, limit=100)

    assert await store.counts() == {"live": 1, "retries": 0, "pending": 1}
    assert (await store.waiting("failed", cursor="", count=10)).task_ids == []
    assert (await store.index(cursor="", count=10)).task_ids == ["t1"]


@pytest.mark.parametrize("first", ENDS)
@pytest.mark.parametrize("second", ENDS)
async def test_a_task_that_ends_again_after_it_expired_is_counted_once(
    store, backend, first, second
):
    await live_once(store, backend, *ENDS[first])
    await advance(store, "t1", *ENDS[second])

    await store.trim(results_max=ALL, limit=100)

    assert await store.counts() == {"live": 0, "retries": 0, second: 1}
    failed = ["t1"] if second == "failed" else []
    assert (await store.waiting("failed", cursor="", count=10)).task_ids == failed
    assert (await current(store, "t1")).state == second


@pytest.mark.parametrize("first", ENDS)
@pytest.mark.parametrize("second", ENDS)
async def test_a_task_that_ended_again_can_be_surplus(store, backend, first, second):
    await live_once(store, backend, *ENDS[first])
    await advance(store, "t1", *ENDS[second])
    while await store.trim(results_max=0, limit=100):
        pass

    assert await store.counts() == {"live": 0, "retries": 0}
    assert await store.records(["t1"]) == [None]
    assert (await store.index(cursor="", count=10)).task_ids == []


async def test_a_redriven_task_is_not_trimmed(store):
    await advance(store, "t1", "create", "lease", "fail-dead", "redrive")

    assert await store.trim(results_max=0, limit=100) == 0
    assert (await current(store, "t1")).state == "translating"


async def test_the_clock_does_not_run_away(store):
    first = store.now_ms()
    await store.beat()
    await advance(store, "t1", "create")

    assert 0 <= store.now_ms() - first < 10_000


async def test_a_ping_is_answered(store):
    await store.ping()
