"""What a journal has kept is taken into Redis once, whatever Redis knows of the task."""

import asyncio
from contextlib import aclosing

import msgspec
import pytest

from stepstream.errors import InternalError, StoreUnavailable
from stepstream_dispatcher.core.record import EventType, Stage
from stepstream_dispatcher.store.codec import decode_event, encode_event
from stepstream_dispatcher.store.local import LocalStore
from stepstream_dispatcher.store.local_database import LocalDatabase
from stepstream_dispatcher.store.port import JOURNAL_FIELD, Imported, Verdict
from stepstream_dispatcher.store.redis import RedisStore
from tests.support.proxy import running_proxy
from tests.support.stores import opened
from tests.support.tasks_at import advance, carry_out, current
from tests.support.transitions import DELAY_MS, RETAIN_S, build


@pytest.fixture
async def journal(redis_store, stack):
    """The journal of dispatcher d1, by the clock of Redis."""
    return await opened(
        stack, LocalStore(LocalDatabase(now_ms=redis_store.now_ms), dispatcher_id="d1")
    )


async def create(journal, task_id, **changes):
    """Create a task as the switch does while Redis is down."""
    made = build("create", task_id, None, now_ms=journal.now_ms())
    fields = made.fields | {JOURNAL_FIELD: "journal1"} | changes.pop("fields", {})
    made = msgspec.structs.replace(made, fields=fields, **changes)
    (result,) = await journal.commit([made], kind="submit")
    assert result.verdict is Verdict.APPLIED


async def in_journal(journal, task_id, *kinds):
    """Bring a new task of the journal to where the last transition leaves it."""
    await create(journal, task_id)
    await advance(journal, task_id, *kinds)


async def scheduled(journal, task_id):
    await create(
        journal,
        task_id,
        fields={"stage": "delayed", "state": "scheduled", "due_ms": journal.now_ms() + DELAY_MS},
        enqueue=None,
        due_ms=journal.now_ms() + DELAY_MS,
        move=("", "scheduled"),
    )


async def imported(store, journal, task_id):
    """Import a task as the switch does."""
    word = await store.take_in(await journal.journaled(task_id))
    await journal.drop(task_id)
    return word


async def counted(redis):
    """Every count of tasks that is not 0, as Redis keeps it; those of sizes are right."""
    counts = await numbers(redis, redis.keys.count)
    assert counts.pop("listed", 0) == await redis.client.zcard(redis.keys.index)
    assert counts.pop("timers", 0) == await redis.client.zcard(redis.keys.delayed)
    lanes = [redis.keys.stream(queue) for queue in ("default", "checks")]
    assert counts.pop("entries", 0) == sum([await redis.client.xlen(lane) for lane in lanes])
    return {name: n for name, n in counts.items() if n}


async def tallies(redis):
    """The counters of the worker that runs everything here."""
    return await numbers(redis, redis.keys.worker("worker-1"))


async def numbers(redis, key):
    return {name.decode(): int(n) for name, n in (await redis.client.hgetall(key)).items()}


async def history(redis, task_id):
    """The kept events, as Redis keeps them."""
    kept = await redis.client.lrange(redis.keys.history(task_id), 0, -1)
    return [decode_event(packed) for packed in kept]


async def test_a_task_amid_its_steps_goes_on_in_redis_once_it_is_due(redis, redis_store, journal):
    """It waits for a worker; none is connected to the dispatcher that has it."""
    await in_journal(journal, "t1", "lease", "complete-next")
    task = await journal.journaled("t1")
    now_ms = redis_store.now_ms()
    due = {"stage": "delayed", "due_ms": str(now_ms), "entry": ""}
    waits = msgspec.structs.replace(task, fields=task.fields | due, due_ms=now_ms)

    assert await redis_store.take_in(waits) is Imported.CREATED

    state = task.fields["state"]
    assert await counted(redis) == {"live": 1, state: 1}
    assert (await redis_store.due(limit=9))[0] == ["t1"]
    await advance(redis_store, "t1", "due")
    record = await current(redis_store, "t1")
    assert (record.stage, record.state) == (Stage.QUEUED, state)
    assert await counted(redis) == {"live": 1, state: 1}
    assert [entry.task_id for entry in await redis_store.read(record.queue, 9)] == ["t1"]


async def test_an_unknown_task_is_created_as_the_journal_has_it(redis, redis_store, journal):
    await in_journal(journal, "t1", "lease", "complete-done")
    record, data = await current(journal, "t1"), await journal.data(["t1"])
    events = await journal.history("t1", after=0)

    assert await imported(redis_store, journal, "t1") is Imported.CREATED

    assert await current(redis_store, "t1") == record
    assert await redis_store.data(["t1"]) == data
    assert await redis_store.history("t1", after=0) == events
    assert await counted(redis) == {"done": 1}
    assert await tallies(redis) == {"processed": 1}
    assert (await redis_store.index(cursor="", count=5)).task_ids == ["t1"]
    assert await journal.journaled("t1") is None


async def test_an_ended_task_expires_and_is_trimmed(redis, redis_store, journal):
    await in_journal(journal, "t1", "lease", "complete-done")

    await imported(redis_store, journal, "t1")

    assert RETAIN_S - 100 < await redis.client.ttl(redis.keys.record("t1")) <= RETAIN_S
    await redis.expire("t1")
    assert await redis_store.trim(results_max=0, limit=10) == 1
    assert await redis.client.exists(*redis.keys.of_task("t1")) == 0
    assert await counted(redis) == {}
    assert (await redis_store.index(cursor="", count=5)).task_ids == []


@pytest.mark.parametrize(
    "at_redis", [(), ("lease",), ("lease", "release", "lease"), ("lease", "lost")]
)
async def test_a_task_of_which_nothing_is_settled_gives_way(redis, redis_store, journal, at_redis):
    await advance(redis_store, "t1", "create", *at_redis)
    before = await current(redis_store, "t1")
    await in_journal(journal, "t1", "lease", "complete-done")

    assert await imported(redis_store, journal, "t1") is Imported.SUPERSEDED

    after = await current(redis_store, "t1")
    assert (after.state, after.lease, after.entry, after.owner) == ("done", "", "", "")
    assert after.version == before.version + 2
    events = await history(redis, "t1")
    assert [event.sequence for event in events] == list(range(1, after.version + 1))
    assert [event.type for event in events[-2:]] == [EventType.LEASED, EventType.DONE]
    assert await counted(redis) == {"done": 1}
    assert (await tallies(redis))["processed"] == 1


async def test_the_first_event_is_told_once_where_an_older_dispatcher_kept_it(
    redis, redis_store, journal
):
    await advance(redis_store, "t1", "create")
    (first,) = await redis_store.history("t1", after=0)
    await redis.client.rpush(redis.keys.history("t1"), encode_event(first))
    await in_journal(journal, "t1", "lease", "complete-done")

    assert await imported(redis_store, journal, "t1") is Imported.SUPERSEDED

    assert [event.sequence for event in await history(redis, "t1")] == [1, 2, 3]


async def test_a_history_that_is_no_list_does_not_keep_a_new_task_out(redis, redis_store, journal):
    await in_journal(journal, "t1", "lease", "complete-done")
    await redis.client.set(redis.keys.history("t1"), "not a list")

    assert await imported(redis_store, journal, "t1") is Imported.CREATED

    assert [event.sequence for event in await history(redis, "t1")] == [1, 2, 3]


async def test_a_record_that_lost_its_time_gives_way_all_the_same(redis, redis_store, journal):
    await advance(redis_store, "t1", "create")
    await redis.client.hdel(redis.keys.record("t1"), "created_ms")
    await in_journal(journal, "t1", "lease", "complete-done")

    assert await imported(redis_store, journal, "t1") is Imported.SUPERSEDED

    assert (await current(redis_store, "t1")).state == "done"


async def test_a_task_that_gave_way_is_handed_to_nobody(redis, redis_store, journal):
    await advance(redis_store, "t1", "create")
    await in_journal(journal, "t1", "lease", "complete-done")

    await imported(redis_store, journal, "t1")

    assert await redis_store.read("default", 10) == []
    assert await redis.client.xlen(redis.keys.stream("default")) == 0


async def test_the_lease_of_a_task_that_gave_way_is_void(redis, redis_store, journal):
    await advance(redis_store, "t1", "create", "lease", "release", "lease")
    held = await current(redis_store, "t1")
    await in_journal(journal, "t1", "lease", "complete-done")

    await imported(redis_store, journal, "t1")
    late = build("complete-done", "t1", held, now_ms=redis_store.now_ms())
    (result,) = await redis_store.commit([late], kind="settle")

    assert result.verdict is Verdict.STALE_LEASE
    assert await redis_store.pending("default", consumer="d1", after="", count=5) == []
    assert await tallies(redis) == {"processed": 1}


@pytest.mark.parametrize("kinds", [("lease", "complete-next"), ("lease", "fail-dead"), ("cancel",)])
async def test_a_task_of_which_something_is_recorded_stays(redis, redis_store, journal, kinds):
    before = await advance(redis_store, "t1", "create", *kinds)
    counts, known = await counted(redis), await tallies(redis)
    await in_journal(journal, "t1", "lease", "complete-done")

    assert await imported(redis_store, journal, "t1") is Imported.DROPPED

    assert await current(redis_store, "t1") == before
    assert await counted(redis) == counts
    assert await tallies(redis) == known


async def test_another_task_of_the_same_id_stays(redis_store, journal):
    """Its submitter was told that it was accepted; so was the other, and was there later."""
    before = await advance(redis_store, "t1", "create")
    await create(journal, "t1", fields={"input_hash": "fedcba9876543210"})
    await advance(journal, "t1", "lease", "complete-done")

    assert await imported(redis_store, journal, "t1") is Imported.DROPPED
    assert await current(redis_store, "t1") == before


@pytest.mark.parametrize("lost", [1, 3])
async def test_an_import_whose_reply_is_lost_is_made_once(redis, redis_store, journal, stack, lost):
    await in_journal(journal, "warm-up", "lease", "complete-done")
    await imported(redis_store, journal, "warm-up")  # so that the script is known
    await in_journal(journal, "t1", "lease", "complete-done")
    async with running_proxy(redis.url) as proxy:
        store = await opened(stack, RedisStore(proxy.url, dispatcher_id="d1", prefix=redis.prefix))
        proxy.swallow_reply_to(b"EVALSHA", times=lost)

        words = [await word_of_import(store, journal, "t1") for _ in range(2)]
        await store.close()

    assert proxy.swallowed == lost
    assert words == [Imported.ALREADY if lost == 1 else "StoreUnavailable", Imported.ALREADY]
    assert await counted(redis) == {"done": 2}
    assert await tallies(redis) == {"processed": 2}
    assert len(await history(redis, "t1")) == 3


async def word_of_import(store, journal, task_id):
    """What an import answers, or the name of its error."""
    try:
        return await store.take_in(await journal.journaled(task_id))
    except StoreUnavailable as error:
        return type(error).__name__


@pytest.mark.parametrize("reviewed", [False, True])
async def test_a_task_that_went_on_in_redis_was_taken_in_before(redis_store, journal, reviewed):
    """The dispatcher was killed between the import and forgetting the row."""
    await in_journal(journal, "t1", "lease", "to-review")
    await redis_store.take_in(await journal.journaled("t1"))
    if reviewed:
        await carry_out(redis_store, "review", "t1")
    before = await current(redis_store, "t1")

    assert await imported(redis_store, journal, "t1") is Imported.ALREADY
    assert await current(redis_store, "t1") == before


async def test_a_scheduled_task_that_became_due_in_redis_was_taken_in_before(redis_store, journal):
    """No step is settled then, so the operation ids and tokens would not tell."""
    await scheduled(journal, "t1")
    await redis_store.take_in(await journal.journaled("t1"))
    await carry_out(redis_store, "due", "t1")

    assert await imported(redis_store, journal, "t1") is Imported.ALREADY
    assert (await current(redis_store, "t1")).stage is Stage.QUEUED


async def test_a_scheduled_task_keeps_its_due_time(redis, redis_store, journal):
    await scheduled(journal, "t1")
    due_ms = (await current(journal, "t1")).due_ms

    assert await imported(redis_store, journal, "t1") is Imported.CREATED

    assert await redis_store.due(limit=5) == ([], due_ms)
    assert (await redis_store.waiting("scheduled", cursor="", count=5)).task_ids == ["t1"]
    assert await counted(redis) == {"scheduled": 1, "live": 1}


async def test_a_task_that_nothing_happened_to_gives_way_too(redis, redis_store, journal):
    await advance(redis_store, "t1", "create", "lease")
    await scheduled(journal, "t1")

    assert await imported(redis_store, journal, "t1") is Imported.SUPERSEDED

    after = await current(redis_store, "t1")
    assert (after.version, after.state, after.lease) == (3, "scheduled", "")
    assert [event.sequence for event in await history(redis, "t1")] == [1, 2, 3]
    assert await counted(redis) == {"scheduled": 1, "live": 1}


async def test_a_task_that_waits_for_a_person_can_be_reviewed(redis, redis_store, journal):
    await in_journal(journal, "t1", "lease", "to-review")

    assert await imported(redis_store, journal, "t1") is Imported.CREATED

    assert (await redis_store.waiting("human_review", cursor="", count=5)).task_ids == ["t1"]
    assert await counted(redis) == {"human_review": 1, "live": 1}
    assert (await carry_out(redis_store, "review", "t1")).verdict is Verdict.APPLIED
    assert await counted(redis) == {"done": 1}
    assert (await redis_store.waiting("human_review", cursor="", count=5)).task_ids == []


async def test_a_retry_of_redis_is_forgotten_with_the_record_that_gave_way(redis_store, journal):
    await advance(redis_store, "t1", "create", "lease", "lost")
    assert (await redis_store.due(limit=5))[1] is not None
    await in_journal(journal, "t1", "lease", "complete-done")

    await imported(redis_store, journal, "t1")

    assert await redis_store.due(limit=5) == ([], None)


async def test_each_task_counts_its_own_attempts(redis, redis_store, journal):
    """Whatever becomes of the others: workers' totals are those of the steps recorded."""
    await advance(redis_store, "dropped", "create", "lease", "complete-done")
    for task_id in ("t1", "dropped", "t2"):
        await in_journal(journal, task_id, "lease", "complete-done")

    words = [await imported(redis_store, journal, one) for one in ("dropped", "t1", "t2")]

    assert words == [Imported.DROPPED, Imported.CREATED, Imported.CREATED]
    assert await tallies(redis) == {"processed": 3}
    assert 590 < await redis.client.ttl(redis.keys.worker("worker-1")) <= 600
    await journal.save_worker("worker-1", {})
    assert (await journal.workers())["worker-1"] == {"processed": "0"}


async def test_the_count_of_a_worker_that_nobody_knows_expires(redis, redis_store, journal):
    await in_journal(journal, "t1", "lease", "complete-done")

    await imported(redis_store, journal, "t1")

    assert 590 < await redis.client.ttl(redis.keys.worker("worker-1")) <= 600


async def test_retries_are_counted(redis, redis_store, journal):
    await in_journal(journal, "t1", "lease", "fail-delayed", "due", "lease", "complete-done")

    await imported(redis_store, journal, "t1")

    assert await counted(redis) == {"done": 1, "retries": 1}
    assert await tallies(redis) == {"failed": 1, "processed": 1}


async def test_a_full_redis_takes_it_in(redis, redis_store, journal):
    await in_journal(journal, "t1", "lease", "complete-done")
    await redis.client.config_set("maxmemory", "1mb")
    try:
        assert await imported(redis_store, journal, "t1") is Imported.CREATED
    finally:
        await redis.client.config_set("maxmemory", "0")

    assert (await current(redis_store, "t1")).state == "done"


async def test_a_record_that_changes_between_the_read_and_the_script_is_decided_again(
    redis, redis_store, journal, stack
):
    await in_journal(journal, "warm-up", "lease", "complete-done")
    await imported(redis_store, journal, "warm-up")
    await advance(redis_store, "t1", "create", "lease")
    await in_journal(journal, "t1", "lease", "complete-done")
    async with running_proxy(redis.url) as proxy:
        store = await opened(stack, RedisStore(proxy.url, dispatcher_id="d2", prefix=redis.prefix))
        proxy.hold_request(b"EVALSHA", until_reply_to=b"")
        async with asyncio.TaskGroup() as group, asyncio.timeout(10):
            word = group.create_task(store.take_in(await journal.journaled("t1")))
            await proxy.holding.wait()
            settled = await carry_out(redis_store, "complete-next", "t1")
            proxy.release()
        await store.close()

    assert settled.verdict is Verdict.APPLIED
    assert word.result() is Imported.DROPPED
    assert (await current(redis_store, "t1")).state == "llm_verification"


async def test_what_redis_cannot_do_is_an_error_of_that_task(redis, redis_store, journal):
    await in_journal(journal, "t1", "lease", "complete-done")
    await redis.client.set(redis.keys.delayed, "not a sorted set")

    with pytest.raises(InternalError, match="could not import"):
        await redis_store.take_in(await journal.journaled("t1"))


async def test_a_task_taken_in_has_nothing_of_its_expired_life(redis, redis_store, journal):
    await advance(redis_store, "t1", "create", "lease", "complete-next", "cancel")
    await redis.expire("t1")
    await in_journal(journal, "t1", "lease", "complete-done")
    journaled = await journal.journaled("t1")

    await imported(redis_store, journal, "t1")

    assert await redis_store.data(["t1"]) == [journaled.data]
    assert await redis_store.history("t1", after=0) == journaled.history


async def test_the_last_event_is_published(redis, redis_store, journal, stack):
    await in_journal(journal, "t1", "lease", "complete-done")
    peer = await opened(stack, redis.make("d2"))
    async with aclosing(peer.signals(events=True)) as signals, asyncio.timeout(10):
        await anext(signals)

        await imported(redis_store, journal, "t1")

        signal = await anext(signals)
    assert (signal.task_id, signal.event.sequence, signal.event.state) == ("t1", 3, "done")


async def test_a_journal_remembers_what_departed(journal):
    await in_journal(journal, "t1", "lease", "complete-done")
    await in_journal(journal, "t2", "lease", "complete-done")

    await journal.depart("t1")
    await journal.depart("t1")
    marked = await journal.departed()
    await journal.drop("t1")

    assert marked == ["t1"]
    assert await journal.departed() == []
    assert await journal.journaled_ids() == ["t2"]


async def test_a_journal_that_lost_an_input_keeps_the_others_from_nothing(redis_store, journal):
    await in_journal(journal, "t1", "lease", "complete-done")
    task = await journal.journaled("t1")

    with pytest.raises(InternalError, match="no input"):
        await redis_store.take_in(msgspec.structs.replace(task, data={}))
