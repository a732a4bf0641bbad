"""What a sweep meets besides damage: spoilt records, lost rows, deaf ears, a full memory."""

import asyncio

import pytest
from structlog.testing import capture_logs

from stepstream.errors import StoreUnavailable
from stepstream_dispatcher.core.reconcile import Sight
from stepstream_dispatcher.engine import reconciler
from stepstream_dispatcher.store.port import Signal
from stepstream_dispatcher.store.redis import RedisStore
from tests.support.healer import DESTROYED, LIMIT_S, QUEUES, destroy, healer_of
from tests.support.proxy import running_proxy
from tests.support.stores import opened
from tests.support.tasks_at import advance, current
from tests.support.transitions import KINDS

ORPHANED = "orphaned-1"  # a dispatcher that never was


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


async def test_in_the_background_a_busy_system_is_mended_and_not_counted(
    redis_store, redis, monkeypatch
):
    """To hear every event would cost the dispatcher more than the tasks themselves."""
    monkeypatch.setattr(reconciler, "BACKGROUND_EVENTS_MAX", 0)
    async with healer_of(redis_store) as healer, asyncio.TaskGroup() as group:
        await healer.reconciler.look()
        await redis.client.delete(redis.keys.swept)
        looking = group.create_task(healer.reconciler.look())
        tasks = 0
        while not looking.done():
            tasks += 1
            await advance(redis_store, f"t{tasks}", "create")
        again = await healer.reconciler.look()

    report = looking.result()
    assert report is not None
    assert not report.counted
    assert again is None
    assert not await redis_store.sweep_is_due()
    assert (await redis_store.counts())["pending"] == tasks


async def test_a_stranger_that_a_busy_sweep_left_in_the_index_starts_another(
    every_kind, redis, monkeypatch
):
    """What was missing is put back without counting; from then on there is one too many."""
    monkeypatch.setattr(reconciler, "BACKGROUND_EVENTS_MAX", 0)
    async with healer_of(every_kind) as healer:
        await healer.reconciler.look()
        await redis.client.zrem(redis.keys.index, "t-create")
        await redis.client.zadd(redis.keys.index, {"nobody": 1})
        busy = await swept_while_busy(healer, redis)
        after = await healer.reconciler.look()
        at_last = await healer.reconciler.look()

    assert (busy.counted, busy.repaired) == (False, {"index": 1})
    assert (after.counted, after.repaired) == (True, {"index": 1})
    assert at_last is None
    assert await redis.client.zscore(redis.keys.index, "nobody") is None
    assert await redis.client.zscore(redis.keys.index, "t-create") is not None


async def swept_while_busy(healer, redis):
    """The report of a sweep in the background beside which tasks are submitted."""
    await redis.client.delete(redis.keys.swept)
    async with asyncio.TaskGroup() as group:
        looking = group.create_task(healer.reconciler.look())
        tasks = 0
        while not looking.done():
            tasks += 1
            await advance(healer.store, f"busy-{tasks}", "create")
    return looking.result()


async def test_a_spoilt_record_that_is_listed_is_swept_for_once(every_kind, redis):
    """It is counted nowhere, so that the index has one too many for good."""
    await redis.client.hset(redis.keys.record("t-create"), "stage", "nonsense")
    async with healer_of(every_kind) as healer:
        first = await healer.reconciler.look()
        second = await healer.reconciler.look()
        others = [await healer.reconciler.look() for _ in range(2)]

    assert first.repaired == {"counts": 2}
    assert second.repaired == {}
    assert others == [None, None]


async def test_after_many_sweeps_that_did_not_count_one_does(redis_store, redis, monkeypatch):
    """Counts that cancel each other out show in nothing else."""
    monkeypatch.setattr(reconciler, "BACKGROUND_EVENTS_MAX", 0)
    monkeypatch.setattr(reconciler, "UNCOUNTED_MAX", 1)
    counted = []
    async with healer_of(redis_store) as healer:
        await healer.reconciler.look()
        for number in range(2):
            await redis.client.delete(redis.keys.swept)
            async with asyncio.TaskGroup() as group:
                looking = group.create_task(healer.reconciler.look())
                tasks = 0
                while not looking.done():
                    tasks += 1
                    await advance(redis_store, f"t{number}-{tasks}", "create")
            report = looking.result()
            assert report is not None
            counted.append(report.counted)

    assert counted == [False, True]


async def test_the_sweep_that_a_new_store_is_due_is_made_while_it_is_empty(redis_store):
    async with healer_of(redis_store) as healer:
        first = await healer.reconciler.begin()
        await advance(redis_store, "t1", "create")
        assert await healer.reconciler.look() is None

    assert first is not None
    assert first.counted


async def test_a_store_with_tasks_is_looked_at_in_its_time(every_kind):
    async with healer_of(every_kind) as healer:
        assert await healer.reconciler.begin() is None
        assert await healer.reconciler.look() is not None


async def test_a_sweep_in_the_background_that_lost_its_claim_is_due_again(
    redis_store, redis, peer_of_redis, monkeypatch
):
    async with healer_of(redis_store) as healer:
        await healer.reconciler.look()
        await redis.client.delete(redis.keys.swept)
        claim = redis_store.claim_sweep
        claims = iter([True, False])
        monkeypatch.setattr(redis_store, "claim_sweep", lambda **_: _answer(next(claims)))
        report = await healer.reconciler.look()
        monkeypatch.setattr(redis_store, "claim_sweep", claim)

    assert report is not None
    assert not report.finished
    assert await redis_store.sweep_is_due()


async def _answer(word: bool) -> bool:
    return word
