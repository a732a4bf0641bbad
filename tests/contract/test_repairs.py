"""What the store on Redis counts, what shows when others destroy it, and what heals it."""

import asyncio
import random
from contextlib import asynccontextmanager

import msgspec
import pytest
from structlog.testing import capture_logs

from stepstream.errors import StoreUnavailable
from stepstream_dispatcher.core.census import Census
from stepstream_dispatcher.core.pipeline import Catalog
from stepstream_dispatcher.core.reconcile import INDEX, Mend, Sight, differences
from stepstream_dispatcher.core.record import Stage
from stepstream_dispatcher.engine.committer import Committer
from stepstream_dispatcher.engine.feeder import Feeder
from stepstream_dispatcher.engine.fresh import Fresh
from stepstream_dispatcher.engine.orphans import Orphans
from stepstream_dispatcher.engine.reconciler import Reconciler
from stepstream_dispatcher.engine.recovery import Recovery
from stepstream_dispatcher.engine.sessions import Sessions
from stepstream_dispatcher.engine.sweep import Sweep
from stepstream_dispatcher.store.port import Signal
from stepstream_dispatcher.store.redis import RedisStore
from tests.support.proxy import running_proxy
from tests.support.records import TRANSLATION
from tests.support.stores import opened
from tests.support.tasks_at import advance, carry_out, current, prepared
from tests.support.transitions import KINDS

QUEUES = ["checks", "default"]
LIMIT_S = 20.0
ORPHANED = "orphaned-1"  # a dispatcher that never was


class Healer:
    """The parts of a dispatcher that heal, on one store."""

    def __init__(self, store, *, silence_limit_s=15.0):
        self.store = store
        self.away = False
        self.learns = []  # lanes that others know
        self.learned = []
        catalog = Catalog([msgspec.structs.replace(TRANSLATION, version="1")])
        self.sessions = Sessions()
        self.committer = Committer(
            store=store,
            catalog=catalog,
            learn=self._learn,
            retain_s=3600,
            live_max=0,
            applied=lambda _transition, _entry: None,
            rng=random.Random(1),
            moved=lambda _record, _transition: None,
        )
        feeder = Feeder(
            store=store,
            sessions=self.sessions,
            committer=self.committer,
            fresh=Fresh(),
            dispatcher_id="d1",
            limit_ms_of=lambda _record: 1000,
            seen=lambda _task_id, _data: None,
        )
        self.recovery = Recovery(
            store=store,
            sessions=self.sessions,
            committer=self.committer,
            feeder=feeder,
            dispatcher_id="d1",
            silence_limit_s=silence_limit_s,
            lanes=lambda: QUEUES,
        )
        self.orphans = Orphans(
            store=store,
            committer=self.committer,
            recovery=self.recovery,
            sessions=self.sessions,
            dispatcher_id="d1",
        )
        self.reconciler = Reconciler(
            store=store,
            committer=self.committer,
            orphans=self.orphans,
            queues=lambda: QUEUES + self.learned,
            learn=self._learn,
            away=lambda: self.away,
        )

    async def _learn(self):
        self.learned = self.learns

    async def sweep(self, **limits):
        assert await self.store.claim_sweep(ttl_s=10)
        sweep = Sweep(
            store=self.store,
            committer=self.committer,
            orphans=self.orphans,
            queues=QUEUES,
            share=0.5,
        )
        sweep._census = Census(**limits)
        return await sweep.run()


@asynccontextmanager
async def healer_of(store, **options):
    """A healer whose committer runs."""
    await store.beat()
    healer = Healer(store, **options)
    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
        committing = group.create_task(healer.committer.run())
        yield healer
        committing.cancel()


@pytest.fixture
async def every_kind(redis_store):
    """A task after each kind of transition."""
    for kind in KINDS:
        await prepared(redis_store, kind, f"t-{kind}")
        await carry_out(redis_store, kind, f"t-{kind}")
    return redis_store


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


async def test_nothing_is_repaired_where_nothing_was_destroyed(every_kind):
    async with healer_of(every_kind) as healer:
        report = await healer.sweep()

    assert report.counted
    assert report.repaired == {}
    assert report.tasks == len(KINDS)


DESTROYED = {
    "delete the lane": ("DEL", "stream"),
    "trim the lane": ("XTRIM", "stream", "MAXLEN", "0"),
    "delete the delayed set": ("DEL", "delayed"),
    "delete the index": ("DEL", "index"),
    "delete the ended set": ("DEL", "ended"),
    "delete a state's set": ("DEL", "state:human_review"),
    "delete the failed": ("DEL", "state:failed"),
    "delete the counts": ("DEL", "count"),
    "a count that is wrong": ("HSET", "count", "pending", "77"),
    "a stranger in the index": ("ZADD", "index", "1", "nobody"),
    "a stranger's timer": ("ZADD", "delayed", "9e12", "nobody"),
    "a stranger in a state": ("ZADD", "state:human_review", "1", "t-create"),
    "a stranger's entry": ("XADD", "stream", "*", "task", "nobody", "step", "translate"),
}


async def destroy(redis, command):
    verb, name, *rest = command
    return await redis.client.execute_command(verb, f"{redis.prefix}task:{name}", *rest)


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


@pytest.fixture
async def peer_of_redis(redis, stack):
    store = redis.make("d2")
    await store.open()
    stack.push_async_callback(store.close)
    return store


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


async def gone(healer, task_id):
    return await healer.recovery.owners_gone([await current(healer.store, task_id)])


async def test_a_dispatcher_without_a_row_is_gone_once_it_was_missed_for_long(redis_store, redis):
    await advance(redis_store, "t1", "create", "lease")
    await redis.client.hset(redis.keys.record("t1"), "owner", ORPHANED)

    async with healer_of(redis_store, silence_limit_s=0.5) as healer:
        first = await gone(healer, "t1")
        while not (missed := await gone(healer, "t1")):
            await redis_store.beat()
        await redis.client.zadd(redis.keys.dispatchers, {ORPHANED: redis_store.now_ms()})
        beating = await gone(healer, "t1")
        await redis.client.zrem(redis.keys.dispatchers, ORPHANED)
        again = await gone(healer, "t1")

    assert (first, missed, beating, again) == (set(), {ORPHANED}, set(), set())


async def test_nobody_is_gone_by_rows_that_lack_ones_own(redis_store, redis):
    await advance(redis_store, "t1", "create", "lease")
    await redis.client.hset(redis.keys.record("t1"), "owner", ORPHANED)

    async with healer_of(redis_store) as healer:
        await redis.client.delete(redis.keys.dispatchers)
        await redis.client.zadd(redis.keys.dispatchers, {ORPHANED: 1})

        assert await gone(healer, "t1") == set()
        await redis_store.beat()
        assert await gone(healer, "t1") == {ORPHANED}


async def test_a_holder_whose_row_is_lost_is_missed_from_then_on(redis_store, peer_of_redis):
    await advance(redis_store, "t1", "create")
    await peer_of_redis.read("default", 1)

    async with healer_of(redis_store) as healer:
        await healer.sweep()

    assert (await redis_store.dispatchers())["d2"] < LIMIT_S * 1000


async def test_nobody_is_taken_over_while_recovery_holds_back(redis_store, redis):
    await advance(redis_store, "t1", "create", "lease")
    await redis.client.hset(redis.keys.record("t1"), "owner", ORPHANED)
    await redis.client.delete(redis.keys.stream("default"))

    async with healer_of(redis_store) as healer:
        healer.recovery.hold_back()
        await healer.sweep()

    assert (await current(redis_store, "t1")).stage is Stage.LEASED


class Teller(RedisStore):
    """A store that keeps what owners are told, and can be told to fail."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.told = []
        self.fails = False
        self.most_read = 0

    async def notify(self, dispatcher_id, payload):
        if self.fails:
            raise StoreUnavailable("it is down")
        self.told.append((dispatcher_id, payload.decode().split()[-1]))

    async def records(self, task_ids):
        self.most_read = max(self.most_read, len(task_ids))
        return await super().records(task_ids)


@pytest.fixture
async def teller(redis, stack):
    return await opened(stack, Teller(redis.url, dispatcher_id="d1", prefix=redis.prefix))


async def orphaned(healer, *task_ids):
    """Have leases of d2 watched."""
    for task_id in task_ids:
        await healer.store.ensure_lanes(QUEUES)
        record = await advance(healer.store, task_id, "create", "lease", "adopt")
        healer.orphans.note([Sight(task_id=task_id, record=record)])


async def test_an_owner_is_told_again_until_it_has_settled_its_lease(peer_of_redis, teller):
    await peer_of_redis.beat()
    async with healer_of(teller) as healer:
        await orphaned(healer, "t1")
        teller.fails = True
        with pytest.raises(StoreUnavailable):
            await healer.orphans.look()
        teller.fails = False
        await healer.orphans.look()
        await healer.orphans.look()
        once = list(teller.told)
        healer.orphans._told = {token: at - 30 for token, at in healer.orphans._told.items()}
        await healer.orphans.look()

    assert once == [("d2", "t1")]
    assert teller.told == [("d2", "t1")] * 2


async def test_a_look_reads_a_page_of_leases_and_the_next_one_goes_on(
    peer_of_redis, teller, monkeypatch
):
    monkeypatch.setattr("stepstream_dispatcher.engine.orphans.PAGE", 2)
    await peer_of_redis.beat()
    async with healer_of(teller) as healer:
        await orphaned(healer, "t1", "t2", "t3")
        teller.most_read = 0
        await healer.orphans.look()
        await healer.orphans.look()

    assert teller.most_read == 2
    assert sorted(teller.told) == [("d2", "t1"), ("d2", "t2"), ("d2", "t3")]


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


SPOILT = {
    "of another type": ("SET", "t-spoilt", "text"),
    "with fields missing": ("HSET", "t-spoilt", "version", "3"),
    "without its version": ("HDEL", "t-create", "version"),
    "with another's words": ("HSET", "t-create", "stage", "nonsense"),
    "with an entry that is none": ("HSET", "t-create", "entry", "nonsense"),
}


@pytest.mark.parametrize("how", SPOILT)
async def test_a_record_that_is_unreadable_keeps_nobody_else_from_being_healed(
    every_kind, redis, how
):
    verb, task_id, *words = SPOILT[how]
    await redis.client.execute_command(verb, redis.keys.record(task_id), *words)
    await redis.client.zadd(redis.keys.index, {"t-spoilt": 1})
    await redis.client.zadd(redis.keys.delayed, {"t-spoilt": 1})
    await redis.client.delete(redis.keys.stream("default"))

    with capture_logs() as logs:
        async with healer_of(every_kind) as healer:
            first = await healer.reconciler.look()
            healer.reconciler._lanes_made -= 1  # for another reason to sweep
            await healer.reconciler.look()

    assert first.repaired["entries"] > 0
    assert first.unreadable == (task_id,)
    assert [line["task_id"] for line in logs if "task_id" in line] == [task_id]


async def test_a_field_that_only_commits_read_keeps_nobody_else_from_being_healed(
    every_kind, redis
):
    await redis.client.hset(redis.keys.record("t-create"), "attempt", "nonsense")
    await redis.client.delete(redis.keys.stream("default"))

    async with healer_of(every_kind) as healer:
        report = await healer.sweep()

    assert report.repaired["entries"] > 0


async def test_damage_is_tried_again_until_a_sweep_of_ones_own_is_done(
    every_kind, redis, peer_of_redis
):
    async with healer_of(every_kind) as healer:
        await healer.reconciler.look()
        await peer_of_redis.claim_sweep(ttl_s=10)
        await destroy(redis, DESTROYED["delete the index"])
        refused = await healer.reconciler.look()
        await peer_of_redis.end_sweep(quiet_s=60)
        report = await healer.reconciler.look()

    assert refused is None
    assert report.repaired == {"index": len(KINDS)}


async def test_an_operator_is_told_when_redis_is_left_before_the_sweep(redis_store):
    async with healer_of(redis_store) as healer, asyncio.TaskGroup() as group:
        asking = group.create_task(failure_of_repair(healer))
        await asyncio.sleep(0)
        healer.away = True
        running = group.create_task(healer.reconciler.run())
        assert await asking == "StoreUnreachable"
        running.cancel()


async def failure_of_repair(healer):
    with pytest.raises(StoreUnavailable) as caught:
        await healer.reconciler.repair()
    return caught.type.__name__


async def test_an_operator_is_told_when_a_look_fails_before_the_sweep(redis, stack):
    async with running_proxy(redis.url) as proxy:
        store = await opened(stack, RedisStore(proxy.url, dispatcher_id="d1", prefix=redis.prefix))
        async with healer_of(store) as healer:
            proxy.refuse()
            async with asyncio.TaskGroup() as group:
                asking = group.create_task(failure_of_repair(healer))
                with pytest.raises(StoreUnavailable):
                    await healer.reconciler.run()

    assert asking.result() in {"StoreUnavailable", "StoreUnreachable"}


class Misses(RedisStore):
    """A store whose subscription is lost as soon as it stands, and whose marker with it."""

    async def all_signals(self):
        yield Signal("resync")
        yield Signal("resync")
        await asyncio.Event().wait()


async def test_a_sweep_that_missed_events_mends_and_does_not_count(every_kind, redis, stack):
    store = await opened(stack, Misses(redis.url, dispatcher_id="d3", prefix=redis.prefix))
    await destroy(redis, DESTROYED["delete the index"])

    async with healer_of(store) as healer:
        report = await healer.reconciler.look()
        again = await healer.reconciler.look()

    assert (report.counted, report.repaired) == (False, {"index": len(KINDS)})
    assert again is None  # not at once


async def test_counts_that_go_wrong_again_and_again_are_not_swept_for_at_once(every_kind, redis):
    """A dispatcher of an older release does not keep all of them."""
    async with healer_of(every_kind) as healer:
        await healer.reconciler.look()
        await redis.client.hincrby(redis.keys.count, "entries", 1)
        first = await healer.reconciler.look()
        await redis.client.hincrby(redis.keys.count, "entries", 2)
        second = await healer.reconciler.look()
        await destroy(redis, DESTROYED["delete a state's set"])
        other = await healer.reconciler.look()

    assert first.counted
    assert second is None
    assert other.repaired["states"] > 0


@pytest.mark.parametrize("kinds", [("create",), ("create", "lease")])
async def test_a_task_of_a_lane_that_only_others_know_is_left_alone(redis_store, redis, kinds):
    before = await advance(redis_store, "t1", *kinds)
    await redis.client.hset(redis.keys.record("t1"), "queue", "others")

    async with healer_of(redis_store) as healer:
        report = await healer.sweep()

    assert set(report.repaired) <= {"strays"}
    assert (await current(redis_store, "t1")).version == before.version
    assert healer.orphans._watched == {}


async def test_a_sweep_knows_the_lanes_that_others_have_added(redis_store, redis):
    """Since the look before, too."""
    await advance(redis_store, "t1", "create")
    await redis.client.hset(redis.keys.record("t1"), "queue", "others")

    async with healer_of(redis_store) as healer:
        healer.learns = ["others"]
        report = await healer.reconciler.look()

    assert report.repaired["entries"] == 1


async def test_a_sweep_over_too_many_ends_mends_and_does_not_count(every_kind, redis):
    before = await every_kind.counts()
    await destroy(redis, DESTROYED["delete the index"])

    async with healer_of(every_kind) as healer:
        report = await healer.sweep(ends_max=1)

    assert (report.counted, report.repaired) == (False, {"index": len(KINDS)})
    assert await every_kind.counts() == before


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
