"""What only SQLite has: files, a clock that the test moves, and a disk that fills up."""

from contextlib import AsyncExitStack

import pytest

from stepstream.errors import StoreUnavailable
from stepstream_dispatcher.store.local import LocalStore
from stepstream_dispatcher.store.local_database import MEMORY, LocalDatabase
from tests.support.stores import LocalBackend, opened
from tests.support.tasks_at import advance, carry_out, current
from tests.support.transitions import build


@pytest.fixture
async def stack():
    async with AsyncExitStack() as closing:
        yield closing


@pytest.fixture
async def memory(stack):
    backend = LocalBackend()
    stack.push_async_callback(backend.close)
    return backend


async def test_a_file_keeps_its_tasks(tmp_path):
    for kind in ("create", "lease", "complete-next"):
        store = LocalStore(LocalDatabase(tmp_path / "tasks.db"), dispatcher_id="d1")
        await store.open()
        await advance(store, "t1", kind)
        await store.close()

    reopened = LocalStore(LocalDatabase(tmp_path / "tasks.db"), dispatcher_id="d1")
    await reopened.open()
    assert (await current(reopened, "t1")).state == "llm_verification"
    assert await reopened.durability() == "LOCAL"
    await reopened.close()


async def test_memory_is_volatile(memory, stack):
    store = await opened(stack, memory.make("d1"))

    assert await store.durability() == "VOLATILE"


async def test_a_closed_store_is_unavailable():
    store = LocalStore(LocalDatabase(MEMORY), dispatcher_id="d1")
    await store.open()
    await store.close()
    await store.close()

    with pytest.raises(StoreUnavailable):
        await store.ping()


async def test_an_ended_task_is_gone_when_its_time_is_over(memory, stack):
    store = await opened(stack, memory.make("d1"))
    await advance(store, "t1", "create", "cancel")

    memory.clock_ms += 3600 * 1000 - 1
    kept = await current(store, "t1")
    memory.clock_ms += 1

    assert kept.state == "cancelled"
    assert await current(store, "t1") is None
    assert await store.data(["t1"]) == [{}]
    assert await store.history("t1", after=0) == []


async def test_an_expired_task_can_be_submitted_anew(memory, stack):
    store = await opened(stack, memory.make("d1"))
    await advance(store, "t1", "create", "cancel")
    memory.clock_ms += 3600 * 1000

    await advance(store, "t1", "create")

    assert (await current(store, "t1")).version == 1
    assert len(await store.history("t1", after=0)) == 1


async def test_a_worker_is_gone_ten_minutes_after_its_last_save(memory, stack):
    store = await opened(stack, memory.make("d1"))
    await store.save_worker("worker-1", {"sdk": "python"})
    memory.clock_ms += 599_999
    before = await store.workers()
    memory.clock_ms += 1

    assert before == {"worker-1": {"sdk": "python"}}
    assert await store.workers() == {}


async def test_a_task_becomes_due_by_the_clock(memory, stack):
    store = await opened(stack, memory.make("d1"))
    await advance(store, "t1", "create", "lease", "fail-delayed")
    due_ms = (await store.due(limit=1))[1]

    memory.clock_ms = due_ms

    assert await store.due(limit=1) == (["t1"], None)


async def test_a_full_disk_refuses_submissions(tmp_path, stack):
    backend = LocalBackend(tmp_path / "tasks.db")
    stack.push_async_callback(backend.close)
    store = await opened(stack, backend.make("d1"))
    await backend.database.run(
        lambda connection: connection.execute("PRAGMA max_page_count = 1").fetchall()
    )
    pages = [build("create", f"t{n}", None, now_ms=store.now_ms()) for n in range(200)]

    results = await store.commit(pages, kind="submit")

    assert {each.verdict for each in results} == {"FULL"}
    assert await current(store, "t0") is None
    with pytest.raises(StoreUnavailable):
        await store.commit(pages, kind="settle")


async def test_work_that_breaks_off_leaves_nothing(memory, stack):
    store = await opened(stack, memory.make("d1"))

    def work(connection):
        connection.execute("INSERT INTO counts (name, value) VALUES ('live', 9)")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await memory.database.run(work)

    assert (await store.counts())["live"] == 0


async def test_a_listener_that_does_not_listen_is_told_to_look_itself(memory, stack):
    store = await opened(stack, memory.make("d1"))
    signals = store.signals(events=False)
    assert (await anext(signals)).kind == "resync"
    for _ in range(10_001):
        await store.notify("d1", b"intent")

    heard = await anext(signals)
    await signals.aclose()

    assert heard.kind == "resync"


async def test_stores_of_one_database_share_their_tasks(memory, stack):
    first = await opened(stack, memory.make("d1"))
    second = await opened(stack, memory.make("d2"))
    await advance(first, "t1", "create")

    result = await carry_out(second, "cancel", "t1")

    assert result.verdict == "APPLIED"
