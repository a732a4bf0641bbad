"""Lanes: what was taken, by whom, and how waiting ends."""

import asyncio

from stepstream_dispatcher.store.port import Entry
from tests.support.tasks_at import advance, carry_out, current
from tests.support.transitions import build

LONG_S = 30.0  # longer than any test may take


async def submit(store, *task_ids):
    creations = [build("create", task_id, None, now_ms=store.now_ms()) for task_id in task_ids]
    await store.commit(creations, kind="submit")


async def test_entries_come_in_order_and_only_once(store, peer):
    await submit(store, "t1", "t2", "t3")

    first = await store.read("default", 2)
    second = await peer.read("default", 2)

    assert [entry.task_id for entry in first] == ["t1", "t2"]
    assert [entry.task_id for entry in second] == ["t3"]
    assert await store.read("default", 2) == []


async def test_an_empty_lane_gives_nothing(store):
    assert await store.read("checks", 5) == []


async def test_what_was_taken_is_pending_with_its_taker(store, peer):
    await submit(store, "t1", "t2", "t3")
    entries = await store.read("default", 10)

    listed = await peer.pending("default", consumer="d1", after="", count=2)
    rest = await peer.pending("default", consumer="d1", after=listed[-1].entry_id, count=2)

    assert [*listed, *rest] == entries
    assert await peer.pending("default", consumer="d2", after="", count=10) == []
    assert await peer.pending("default", consumer="d1", after=rest[-1].entry_id, count=2) == []


async def test_a_discarded_entry_is_neither_pending_nor_offered(store):
    await submit(store, "t1")
    (entry,) = await store.read("default", 1)

    await store.discard("default", [entry.entry_id])
    await store.discard("default", [])

    assert await store.pending("default", consumer="d1", after="", count=10) == []
    assert await store.read("default", 1) == []


async def test_a_lane_made_again_keeps_its_entries(store):
    await submit(store, "t1")

    await store.ensure_lanes(["default"])

    assert len(await store.read("default", 1)) == 1


async def test_waiting_ends_with_an_entry_that_is_there(store):
    await submit(store, "t1")
    record = await current(store, "t1")

    entries = await store.wait(["checks", "default"], count=1, timeout_s=LONG_S)

    assert entries == [Entry("default", record.entry, "t1", "translate")]


async def test_waiting_ends_with_an_entry_that_comes(store, peer):
    async with asyncio.TaskGroup() as group, asyncio.timeout(10):
        waiting = group.create_task(store.wait(["checks", "default"], count=1, timeout_s=LONG_S))
        await asyncio.sleep(0)
        await submit(peer, "t1")

    assert [entry.task_id for entry in waiting.result()] == ["t1"]


async def test_waiting_takes_what_has_come_up_to_its_count(store):
    await submit(store, "t1", "t2", "t3")

    entries = await store.wait(["default"], count=2, timeout_s=LONG_S)

    assert [entry.task_id for entry in entries] == ["t1", "t2"]


async def test_waiting_takes_what_comes_at_once(store, peer):
    async with asyncio.TaskGroup() as group, asyncio.timeout(10):
        waiting = group.create_task(store.wait(["default"], count=5, timeout_s=LONG_S))
        await asyncio.sleep(0)
        await submit(peer, "t1", "t2", "t3")

    assert [entry.task_id for entry in waiting.result()] == ["t1", "t2", "t3"]


async def test_waiting_ends_at_its_time(store):
    async with asyncio.timeout(10):
        assert await store.wait(["default"], count=1, timeout_s=0.01) == []


async def test_waiting_ends_by_a_wake(store):
    async with asyncio.TaskGroup() as group, asyncio.timeout(10):
        waiting = group.create_task(store.wait(["default"], count=1, timeout_s=LONG_S))
        await asyncio.sleep(0)
        await store.wake()

    assert waiting.result() == []


async def test_a_wake_before_the_wait_is_not_lost(store):
    await store.wake()

    async with asyncio.timeout(10):
        assert await store.wait(["default"], count=1, timeout_s=LONG_S) == []


async def test_a_wake_ends_one_wait_only(store):
    await store.wake()
    await store.wait(["default"], count=1, timeout_s=LONG_S)
    await submit(store, "t1")

    assert len(await store.wait(["default"], count=1, timeout_s=LONG_S)) == 1


async def test_a_wake_does_not_end_the_wait_of_another(store, peer):
    async with asyncio.TaskGroup() as group, asyncio.timeout(10):
        waiting = group.create_task(store.wait(["default"], count=1, timeout_s=LONG_S))
        await asyncio.sleep(0)
        await peer.wake()
        await submit(peer, "t1")

    assert len(waiting.result()) == 1


async def test_a_cancelled_wait_leaves_the_store_usable(store):
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(store.wait(["default"], count=1, timeout_s=LONG_S))
        await asyncio.sleep(0)
        waiting.cancel()
    await submit(store, "t1")

    assert len(await store.wait(["default"], count=1, timeout_s=LONG_S)) == 1


async def test_the_entry_of_a_step_is_another_consumers_to_settle(store, peer):
    await advance(store, "t1", "create", "lease")

    await carry_out(peer, "complete-next", "t1")

    assert await store.pending("default", consumer="d1", after="", count=10) == []
    assert [entry.step for entry in await peer.read("checks", 10)] == ["verify"]
