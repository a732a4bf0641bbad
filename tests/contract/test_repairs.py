"""What the store on Redis counts, what shows when others destroy it, and what heals it."""

import asyncio

import pytest

from stepstream_dispatcher.core.reconcile import INDEX, Mend, Repair, differences
from stepstream_dispatcher.core.record import Stage
from tests.support.healer import DESTROYED, QUEUES, destroy, healer_of
from tests.support.tasks_at import advance, carry_out, current, prepared
from tests.support.transitions import KINDS

ORPHANED = "orphaned-1"  # a dispatcher that never was


async def agree(store):
    return differences(await store.tally(QUEUES))


@pytest.mark.parametrize("kind", KINDS)
async def test_no_transition_makes_a_difference(redis_store, kind):
    await prepared(redis_store, kind, "t1")
    await carry_out(redis_store, kind, "t1")
    await carry_out(redis_store, kind, "t1") if kind == "touch" else None

    assert await agree(redis_store) == {}


async def test_trimming_and_dropping_make_none(every_kind, redis):
    for kind in ("complete-done", "fail-dead", "cancel", "fail-delayed"):
        await redis.expire(f"t-{kind}")

    assert await every_kind.drop_timers(["t-fail-delayed"]) == 1
    await every_kind.trim(results_max=0, limit=100)
    entries = await every_kind.read("default", 100)
    await every_kind.discard("default", [entry.entry_id for entry in entries])

    found = await agree(every_kind)
    assert found == {}


@pytest.mark.parametrize("end", ["complete-done", "fail-dead"])
async def test_a_task_submitted_anew_before_it_was_trimmed_makes_none(redis_store, redis, end):
    found = []
    await ended(redis_store, end)
    await redis.expire("t1")
    found.append(await agree(redis_store))

    await advance(redis_store, "t1", "create")
    found.append(await agree(redis_store))
    await carry_out(redis_store, "cancel", "t1")
    found.append(await agree(redis_store))
    await redis_store.trim(results_max=0, limit=100)
    found.append(await agree(redis_store))

    assert found == [{}] * 4
    assert (await redis_store.index(cursor="", count=1)).task_ids == []


async def ended(store, end):
    """A task whose life is over."""
    await prepared(store, end, "t1")
    await carry_out(store, end, "t1")


async def test_nothing_is_repaired_where_nothing_was_destroyed(every_kind):
    async with healer_of(every_kind) as healer:
        report = await healer.sweep()

    assert report.counted
    assert report.repaired == {}
    assert report.tasks == len(KINDS)


@pytest.mark.parametrize("what", DESTROYED)
async def test_what_was_destroyed_shows_and_is_healed(every_kind, redis, what):
    before = await every_kind.counts()
    sizes = (await every_kind.tally(QUEUES)).sizes
    await destroy(redis, DESTROYED[what])
    assert await agree(every_kind)

    async with healer_of(every_kind) as healer:
        await healer.sweep()
    after = await every_kind.tally(QUEUES)

    assert differences(after) == {}
    assert after.sizes == sizes
    kept = {"retries": 0} if what == "delete the counts" else {}  # nothing says how many there were
    assert await every_kind.counts() == before | kept
    await healed(every_kind)


async def exchange_in_index(redis):
    """Put a stranger into a task's place, which shows in no count and no size."""
    await redis.client.zrem(redis.keys.index, "t-create")
    await redis.client.zadd(redis.keys.index, {"nobody": 1})


async def test_a_member_exchanged_in_the_index_is_healed_once_a_sweep_is_due(every_kind, redis):
    index = await redis.client.zrange(redis.keys.index, 0, -1, withscores=True)
    async with healer_of(every_kind) as healer:
        await healer.reconciler.look()
        await exchange_in_index(redis)
        early = await healer.reconciler.look()
        await redis.client.delete(redis.keys.swept)  # as when its 5 min are over
        report = await healer.reconciler.look()

    assert early is None
    assert (report.counted, report.repaired) == (True, {"index": 2})
    assert await redis.client.zrange(redis.keys.index, 0, -1, withscores=True) == index


async def test_what_leaves_the_index_without_a_record_leaves_nothing(redis_store, redis):
    await ended(redis_store, "fail-dead")
    await redis.expire("t1")
    await redis.client.delete(redis.keys.ended)

    async with healer_of(redis_store) as healer:
        report = await healer.sweep()

    assert report.repaired[Repair.INDEX] == 1
    assert await redis.client.exists(*redis.keys.of_task("t1")) == 0


async def healed(store):
    """Every queued task has an entry that some dispatcher will come upon."""
    await store.ensure_lanes(QUEUES)
    offered = {
        entry.entry_id
        for queue in QUEUES
        for consumer in ("d1", "d2")
        for entry in await store.pending(queue, consumer=consumer, after="", count=100)
    }
    offered |= {entry.entry_id for queue in QUEUES for entry in await store.read(queue, 100)}
    records = [await current(store, f"t-{kind}") for kind in KINDS]
    queued = [record for record in records if record.stage is Stage.QUEUED]
    assert queued
    assert {record.entry for record in queued} <= offered


@pytest.mark.parametrize("end", ["XACK", "DELCONSUMER", "SETID"])
async def test_an_entry_that_will_never_be_delivered_is_replaced(redis_store, redis, end):
    await advance(redis_store, "t1", "create")
    entry = (await current(redis_store, "t1")).entry
    lane, group = redis.keys.stream("default"), "task:processors"
    if end == "SETID":
        await redis.client.execute_command("XGROUP", "SETID", lane, group, "$")
    else:
        await redis_store.read("default", 1)
        words = ("XACK", lane, group, entry)
        forget = ("XGROUP", "DELCONSUMER", lane, group, "d1")
        await redis.client.execute_command(*(words if end == "XACK" else forget))

    async with healer_of(redis_store) as healer:
        report = await healer.sweep()

    assert report.repaired["entries"] == 1
    (offered,) = await redis_store.read("default", 10)
    assert offered.entry_id == (await current(redis_store, "t1")).entry != entry


async def test_an_entry_in_somebodys_hand_is_left_to_him(redis_store, peer_of_redis):
    await advance(redis_store, "t1", "create")
    (entry,) = await peer_of_redis.read("default", 1)

    async with healer_of(redis_store) as healer:
        report = await healer.sweep()

    assert report.repaired == {}
    assert (await current(redis_store, "t1")).entry == entry.entry_id


@pytest.mark.parametrize(("owner", "repair"), [("d1", "orphans"), (ORPHANED, "leases")])
async def test_a_lease_that_no_entry_leads_to_is_looked_after(redis_store, redis, owner, repair):
    await advance(redis_store, "t1", "create", "lease")
    await redis.client.hset(redis.keys.record("t1"), "owner", owner)
    await redis.client.zadd(redis.keys.dispatchers, {ORPHANED: 1})
    await redis.client.delete(redis.keys.stream("default"))
    await redis_store.ensure_lanes(QUEUES)

    async with healer_of(redis_store) as healer:
        report = await healer.sweep()

    assert report.repaired == {repair: 1}
    record = await current(redis_store, "t1")
    assert record.stage is (Stage.LEASED if owner == "d1" else Stage.QUEUED)
    assert list(healer.sessions.adopted.values()) == (["t1"] if owner == "d1" else [])


async def test_nobody_is_taken_over_while_recovery_holds_back(redis_store, redis):
    await advance(redis_store, "t1", "create", "lease")
    await redis.client.hset(redis.keys.record("t1"), "owner", ORPHANED)
    await redis.client.delete(redis.keys.stream("default"))

    async with healer_of(redis_store) as healer:
        healer.recovery.hold_back()
        await healer.sweep()

    assert (await current(redis_store, "t1")).stage is Stage.LEASED


async def test_a_task_that_has_moved_keeps_its_places(redis_store):
    await advance(redis_store, "t1", "create")
    stale = Mend(task_id="t1", version=1, place=INDEX, score=None)
    await carry_out(redis_store, "cancel", "t1")

    assert await redis_store.mend([stale]) == (0, [stale])
    assert (await redis_store.index(cursor="", count=1)).task_ids == ["t1"]


async def test_counts_are_exact_while_tasks_move(every_kind, redis, peer_of_redis):
    """Commits of two dispatchers go on during the sweep; the counts are those of the end."""
    await destroy(redis, DESTROYED["delete the counts"])
    moving = True

    async def move(store, name):
        number = 0
        while moving:
            number += 1
            await advance(store, f"{name}-{number}", "create", "lease", "fail-dead", "redrive")
            if number % 2:
                await carry_out(store, "cancel", f"{name}-{number}")

    async with healer_of(every_kind) as healer, asyncio.TaskGroup() as group:
        group.create_task(move(every_kind, "a"))
        group.create_task(move(peer_of_redis, "b"))
        reports = [await healer.sweep() for _ in range(5)]
        moving = False

    assert all(report.counted for report in reports)
    assert await agree(every_kind) == {}
    async with healer_of(every_kind) as healer:
        assert (await healer.sweep()).repaired == {}


async def test_one_sweeps_at_a_time(redis_store, peer_of_redis):
    assert await redis_store.claim_sweep(ttl_s=10)

    assert not await peer_of_redis.claim_sweep(ttl_s=10)
    assert await redis_store.claim_sweep(ttl_s=10)
    assert not await peer_of_redis.recount({"done": 1})
    assert await redis_store.recount({"done": 1})
    assert not await redis_store.recount({"done": 1})
    assert await peer_of_redis.claim_sweep(ttl_s=10)


async def test_nothing_is_trimmed_while_ended_tasks_are_counted(every_kind):
    await every_kind.claim_sweep(ttl_s=10)
    await every_kind.hold_trims(ttl_s=10)

    assert await every_kind.trim(results_max=0, limit=100) == 0
    await every_kind.recount({})
    assert await every_kind.trim(results_max=0, limit=100) > 0


async def test_an_operator_is_told_what_was_repaired(every_kind, redis):
    await destroy(redis, DESTROYED["delete the index"])

    async with healer_of(every_kind) as healer, asyncio.TaskGroup() as group:
        running = group.create_task(healer.reconciler.run())
        first = await healer.reconciler.repair()
        second = await healer.reconciler.repair()
        running.cancel()

    assert first.repaired == {"index": len(KINDS)}
    assert second.repaired == {}
    assert not await every_kind.sweep_is_due()
