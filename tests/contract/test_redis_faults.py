"""What only Redis can do to a store: forget scripts, fill up, lose replies and keys."""

import asyncio
from contextlib import aclosing, asynccontextmanager

import msgspec
import pytest

from stepstream.errors import InternalError, StoreUnavailable
from stepstream_dispatcher.store import redis_registry
from stepstream_dispatcher.store.port import CommitFailed, StoreRefused, Verdict
from stepstream_dispatcher.store.redis import RedisStore
from tests.support.proxy import running_proxy
from tests.support.stores import opened
from tests.support.tasks_at import advance, carry_out, current
from tests.support.transitions import build


@asynccontextmanager
async def configured(redis, **settings):
    """Change settings of the session's server for as long as the block lasts."""
    before = {name: (await redis.client.config_get(name))[name] for name in settings}
    for name, value in settings.items():
        await redis.client.config_set(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            await redis.client.config_set(name, value)


async def submit(store, *task_ids):
    creations = [build("create", task_id, None, now_ms=store.now_ms()) for task_id in task_ids]
    return await store.commit(creations, kind="submit")


async def test_settled_entries_leave_the_stream(redis, redis_store):
    await advance(redis_store, "t1", "create", "lease", "complete-next")
    await redis_store.read("checks", 1)

    await carry_out(redis_store, "cancel", "t1")

    assert await redis.client.xlen(redis.keys.stream("default")) == 0
    assert await redis.client.xlen(redis.keys.stream("checks")) == 0


async def test_a_record_is_small_text_that_redis_keeps_packed(redis, redis_store):
    await advance(redis_store, "t1", "create", "lease", "adopt", "complete-next")

    fields = await redis.client.hgetall(redis.keys.record("t1"))

    assert fields[b"state"] == b"llm_verification"
    assert fields[b"settled:translate"] == b"lease-t1-1"
    assert max(len(value.decode("ascii")) for value in fields.values()) <= 64
    assert await redis.client.object("encoding", redis.keys.record("t1")) == b"listpack"


async def test_every_key_has_the_prefix(redis, redis_store):
    names = {name async for name in redis.client.scan_iter(match=b"*", count=1000)}
    await advance(redis_store, "t1", "create", "lease", "fail-dead", "redrive")
    await redis_store.save_worker("worker-1", {"sdk": "python"})
    await redis_store.beat()

    added = {name async for name in redis.client.scan_iter(match=b"*", count=1000)} - names

    assert added
    assert all(name.startswith(redis.prefix.encode()) for name in added)


async def test_another_input_of_a_dead_letter_takes_the_place_of_the_first(redis, redis_store):
    record = await advance(redis_store, "t1", "create", "lease", "fail-dead")
    another = msgspec.structs.replace(
        build("touch", "t1", record, now_ms=redis_store.now_ms()),
        lease="",
        touch=False,
        expected_version=record.version,
        fields={"version": record.version + 1},
        data={"input": b"another"},
    )

    await redis_store.commit([another], kind="settle")

    assert await redis_store.data(["t1"]) == [{"input": b"another"}]
    assert await redis.client.get(redis.keys.input("t1")) == b"another"


async def test_an_input_among_the_data_is_read_until_there_is_another(redis, redis_store):
    """Where it was before the first release."""
    keys = redis.keys
    await advance(redis_store, "t1", "create")
    await redis.client.delete(keys.input("t1"))
    await redis.client.hset(keys.data("t1"), "input", b"of old")

    ((_, loaded),) = await redis_store.load(["t1"])
    await redis.client.set(keys.input("t1"), b"of now")

    assert loaded == {"input": b"of old"}
    assert await redis_store.data(["t1"]) == [{"input": b"of now"}]


async def test_data_stay_packed_beside_a_larger_input(redis, redis_store):
    await advance(redis_store, "t1", "create", "lease", "complete-done")

    (data,) = await redis_store.data(["t1"])

    assert len(data["input"]) > 64
    assert await redis.client.object("encoding", redis.keys.data("t1")) == b"listpack"


async def test_a_forgotten_script_is_sent_again(redis, redis_store):
    for kind in ("create", "lease", "adopt"):
        await redis.client.script_flush()
        await advance(redis_store, "t1", kind)

    assert (await current(redis_store, "t1")).version == 3


@pytest.mark.parametrize("lost", [1, 2])
async def test_a_commit_whose_reply_is_lost_is_applied_once(redis, redis_store, stack, lost):
    await submit(redis_store, "warm-up")  # so that the script is known
    async with running_proxy(redis.url) as proxy:
        store = await opened(stack, RedisStore(proxy.url, dispatcher_id="d1", prefix=redis.prefix))
        proxy.swallow_reply_to(b"EVALSHA", times=lost)

        (result,) = await submit(store, "t1")
        await store.close()

    assert proxy.swallowed == lost
    assert result.verdict is Verdict.DUPLICATE
    assert result.record.version == 1
    assert len(await redis_store.read("default", 10)) == 2
    assert (await redis_store.counts())["pending"] == 2


async def test_a_commit_whose_replies_stay_away_is_given_up(redis, redis_store, stack):
    await submit(redis_store, "warm-up")
    async with running_proxy(redis.url) as proxy:
        store = await opened(stack, RedisStore(proxy.url, dispatcher_id="d1", prefix=redis.prefix))
        proxy.swallow_reply_to(b"EVALSHA", times=3)

        with pytest.raises(StoreUnavailable) as caught:
            await submit(store, "t1")
        await store.close()

    assert caught.type is StoreUnavailable  # nobody knows; not StoreUnreachable


async def test_a_commit_goes_on_when_its_caller_is_cancelled(redis, redis_store):
    async with asyncio.TaskGroup() as group:
        submitting = group.create_task(submit(redis_store, "t1"))
        await asyncio.sleep(0)
        submitting.cancel()
    await redis_store.close()

    assert await redis.client.exists(redis.keys.record("t1")) == 1


async def test_a_full_redis_refuses_what_is_new_and_lets_work_end(redis, redis_store):
    await advance(redis_store, "t1", "create", "lease")

    async with configured(redis, maxmemory="1mb"):
        refused = await submit(redis_store, "t2", "t3")
        settled = await carry_out(redis_store, "complete-done", "t1")

    assert [each.verdict for each in refused] == ["FULL", "FULL"]
    assert settled.verdict is Verdict.APPLIED
    assert await redis_store.records(["t2", "t3"]) == [None, None]
    assert await redis_store.counts() == {"live": 0, "retries": 0, "done": 1}


async def test_a_full_redis_takes_what_dispatchers_say_of_themselves(redis, redis_store):
    """Else one could not start there, and the work of a dead one would wait for an operator."""
    async with configured(redis, maxmemory="1mb"):
        await redis_store.keep_pipelines({"translation@1": b"definition"})
        await redis_store.ensure_lanes(["late"])
        await redis_store.ensure_lanes(["late"])
        await redis_store.beat()
        await redis_store.save_worker("w1", {"processed": 3})
        await redis_store.pause("default")
        await redis_store.dismiss("instance")

    assert await redis_store.pipelines() == {"translation@1": b"definition"}
    assert await redis_store.pending("late", consumer="d1", after="", count=1) == []
    assert "d1" in await redis_store.dispatchers()
    assert await redis_store.workers() == {"w1": {"processed": "3"}}
    assert await redis.client.ttl(redis.keys.worker("w1")) > 0
    intents = await redis_store.intents()
    assert (set(intents.paused), intents.draining) == ({"default"}, {"instance"})


async def test_a_full_redis_can_be_swept(redis, redis_store):
    async with configured(redis, maxmemory="1mb"):
        assert await redis_store.claim_sweep(ttl_s=10)
        await redis_store.hold_trims(ttl_s=10)
        await redis_store.enlist(["d2"])
        assert await redis_store.recount({"done": 1})
        await redis_store.end_sweep(quiet_s=10)

    assert not await redis_store.sweep_is_due()


@pytest.mark.parametrize("call", ["dispatchers", "beat", "waiting"])
async def test_a_cancelled_call_ends_whenever_the_cancellation_comes(redis_store, call):
    """On Python 3.11 the driver swallows one that comes right after it has sent something."""
    calls = {
        "dispatchers": redis_store.dispatchers,
        "beat": redis_store.beat,
        "waiting": lambda: redis_store.wait(["default"], count=1, timeout_s=5),
    }
    went_on = []
    for turns in range(40):
        async with asyncio.TaskGroup() as group, asyncio.timeout(10):
            task = group.create_task(calls[call]())
            for _ in range(turns):
                await asyncio.sleep(0)
            cancelled = task.cancel()
            await asyncio.wait([task])
        if cancelled and not task.cancelled():
            went_on.append(turns)

    assert went_on == []


async def test_killed_connections_are_replaced(redis, redis_store):
    await advance(redis_store, "t1", "create", "lease")

    await redis.client.client_kill_filter(_type="normal", skipme=True)
    await advance(redis_store, "t1", "adopt")
    await redis.client.client_kill_filter(_type="normal", skipme=True)

    assert (await current(redis_store, "t1")).version == 3
    assert len(await redis_store.pending("default", consumer="d1", after="", count=5)) == 1


async def test_a_wait_whose_connection_is_killed_says_so_and_the_next_one_works(redis, redis_store):
    blocked_id = await blocked_client(redis, redis_store)

    async with asyncio.TaskGroup() as group, asyncio.timeout(10):
        waiting = group.create_task(
            outcome_of(redis_store.wait(["default"], count=1, timeout_s=30))
        )
        await asyncio.sleep(0)
        assert await redis.client.client_kill_filter(_id=str(blocked_id)) == 1
    await submit(redis_store, "t1")

    assert isinstance(waiting.result(), StoreUnavailable)
    assert len(await redis_store.wait(["default"], count=1, timeout_s=30)) == 1


async def blocked_client(redis, store):
    """The id of the connection that `wait` uses, which the first wait opens."""
    await store.wait(["default"], count=1, timeout_s=0.001)
    clients = await redis.client.client_list()
    (found,) = [each["id"] for each in clients if each["cmd"] == "xreadgroup"]
    return found


async def outcome_of(work):
    try:
        return await work
    except StoreUnavailable as error:
        return error


async def test_a_wake_that_overtakes_the_wait_is_repeated(redis, redis_store, stack):
    """CLIENT UNBLOCK finds nobody while the blocking command is still on its way."""
    async with running_proxy(redis.url) as proxy:
        store = await opened(stack, RedisStore(proxy.url, dispatcher_id="d1", prefix=redis.prefix))
        proxy.hold_request(b"XREADGROUP", until_reply_to=b"UNBLOCK")
        async with asyncio.TaskGroup() as group, asyncio.timeout(10):
            waiting = group.create_task(store.wait(["default"], count=1, timeout_s=30))
            await proxy.holding.wait()
            await store.wake()
        await store.close()

    assert waiting.result() == []


@pytest.mark.parametrize("verb", ["read", "wait"])
async def test_a_lost_group_is_made_again_from_the_beginning(redis, redis_store, verb):
    await submit(redis_store, "t1")
    await redis.client.xgroup_destroy(redis.keys.stream("default"), "task:processors")

    if verb == "read":
        entries = await redis_store.read("default", 10)
    else:
        entries = await redis_store.wait(["default"], count=1, timeout_s=10)

    assert [entry.task_id for entry in entries] == ["t1"]


async def test_a_lost_stream_is_made_again(redis, redis_store):
    await redis.client.delete(redis.keys.stream("default"))

    assert await redis_store.read("default", 10) == []
    assert await redis_store.pending("default", consumer="d1", after="", count=10) == []
    await submit(redis_store, "t1")
    assert len(await redis_store.read("default", 10)) == 1


async def test_an_entry_whose_body_is_gone_is_listed_without_a_task(redis, redis_store):
    await submit(redis_store, "t1")
    (entry,) = await redis_store.read("default", 10)
    await redis.client.xdel(redis.keys.stream("default"), entry.entry_id)

    (listed,) = await redis_store.pending("default", consumer="d1", after="", count=10)

    assert (listed.entry_id, listed.task_id) == (entry.entry_id, "")


async def test_a_task_at_fault_does_not_hurt_the_others(redis, redis_store):
    await redis.client.set(redis.keys.record("t2"), "not a hash")

    with pytest.raises(CommitFailed, match="task t2") as caught:
        await submit(redis_store, "t1", "t2", "t3")

    results = caught.value.results
    assert [each and each.verdict for each in results] == ["APPLIED", None, "APPLIED"]
    assert (await redis_store.counts())["live"] == 2


async def test_a_record_that_cannot_be_read_does_not_hurt_the_others(redis, redis_store):
    await submit(redis_store, "t1", "t2", "t3")
    records = await redis_store.records(["t1", "t2", "t3"])
    await redis.client.hset(redis.keys.record("t2"), mapping={"version": 9, "stage": "nonsense"})
    cancels = [
        build("cancel", record_id, record, now_ms=redis_store.now_ms())
        for record_id, record in zip(["t1", "t2", "t3"], records, strict=True)
    ]

    with pytest.raises(CommitFailed, match="task t2") as caught:
        await redis_store.commit(cancels, kind="settle")

    results = caught.value.results
    assert [each and each.verdict for each in results] == ["APPLIED", None, "APPLIED"]


@pytest.mark.parametrize("verb", ["records", "load"])
async def test_a_record_that_is_no_hash_is_unreadable(redis, redis_store, verb):
    await submit(redis_store, "t1")
    await redis.client.set(redis.keys.record("t2"), "not a hash")

    with pytest.raises(InternalError):
        await getattr(redis_store, verb)(["t1", "t2"])


async def test_a_call_that_fails_as_a_whole_is_taken_apart(redis, redis_store):
    await redis.client.set(redis.keys.count, "not a hash")

    results = await submit(redis_store, "t1", "t2")

    assert [each.verdict for each in results] == ["DUPLICATE", "DUPLICATE"]
    assert [each.version for each in await redis_store.records(["t1", "t2"])] == [1, 1]


async def test_a_listener_that_was_cut_off_is_told(redis, redis_store, stack):
    peer = await opened(stack, redis.make("d2"))
    async with aclosing(peer.signals(events=True)) as signals, asyncio.timeout(10):
        assert (await anext(signals)).kind == "resync"
        await redis.client.client_kill_filter(_type="pubsub")

        assert (await anext(signals)).kind == "resync"
        await submit(redis_store, "t1")
        assert (await anext(signals)).task_id == "t1"


async def test_a_foreign_message_among_the_events_is_skipped(redis, redis_store, stack):
    peer = await opened(stack, redis.make("d2"))
    async with aclosing(peer.signals(events=True)) as signals, asyncio.timeout(10):
        await anext(signals)
        await redis.client.publish(redis.keys.events, b"not json \xff")
        await submit(redis_store, "t1")

        assert (await anext(signals)).task_id == "t1"


async def test_a_server_that_evicts_is_refused(redis):
    async with configured(redis, **{"maxmemory-policy": "allkeys-lru"}):
        store = redis.make("d1")
        with pytest.raises(StoreRefused, match="maxmemory-policy allkeys-lru"):
            await store.open()
        await store.close()


async def test_a_server_that_evicts_is_used_when_asked_to(redis, stack):
    async with configured(redis, **{"maxmemory-policy": "allkeys-lru"}):
        store = RedisStore(redis.url, dispatcher_id="d1", prefix=redis.prefix, allow_eviction=True)
        await opened(stack, store)

    assert store.warnings == ["maxmemory-policy is allkeys-lru: a full redis silently drops tasks"]


async def test_a_forbidden_config_is_a_warning(redis, stack):
    async with limited_user(redis, "-config") as url:
        store = await opened(stack, RedisStore(url, dispatcher_id="d1", prefix=redis.prefix))

        assert await store.durability() == "VOLATILE"
        assert (await submit(store, "t1"))[0].verdict is Verdict.APPLIED
        assert len(store.warnings) == 1
        await store.close()


@asynccontextmanager
async def limited_user(redis, *rules):
    """The URL of a user of the server who may do less, for as long as the block lasts."""
    name = redis.prefix.rstrip(":")
    arguments = ("on", ">secret", "~*", "&*", "+@all", *rules)
    await redis.client.execute_command("ACL", "SETUSER", name, *arguments)
    scheme, _, rest = redis.url.partition("://")
    try:
        yield f"{scheme}://{name}:secret@{rest}"
    finally:
        await redis.client.execute_command("ACL", "DELUSER", name)


@pytest.mark.parametrize(
    ("settings", "durability"),
    [
        ({"appendonly": "yes", "appendfsync": "everysec"}, "AOF_1S"),
        ({"appendonly": "yes", "appendfsync": "always"}, "AOF_SYNC"),
        ({"appendonly": "yes", "appendfsync": "no"}, "VOLATILE"),
    ],
)
async def test_durability_is_what_the_server_says(redis, redis_store, settings, durability):
    async with configured(redis, **settings):
        assert await redis_store.durability() == durability


async def test_a_full_redis_takes_that_workers_have_left(redis, redis_store):
    await redis_store.save_worker("worker-1", {"dispatcher": "d1", "is_running": 1})

    async with configured(redis, maxmemory="1mb"):
        await redis_store.mark_left(["worker-1"])

    assert (await redis_store.workers())["worker-1"]["is_running"] == "0"


async def test_workers_that_left_are_listed_for_ten_minutes_more(redis, redis_store, monkeypatch):
    """Of however many calls."""
    monkeypatch.setattr(redis_registry, "LEFT_MAX", 2)
    names = [f"worker-{number}" for number in range(5)]
    for name in names:
        await redis_store.save_worker(name, {"dispatcher": "d1", "is_running": 1})
        await redis.client.expire(redis.keys.worker(name), 60)
    await redis.client.zadd(redis.keys.workers, dict.fromkeys(names, 1))

    await redis_store.mark_left(names)

    workers = await redis_store.workers()
    assert {name: fields["is_running"] for name, fields in workers.items()} == dict.fromkeys(
        names, "0"
    )
    for name in names:
        assert 590 < await redis.client.ttl(redis.keys.worker(name)) <= 600


async def test_a_worker_is_listed_for_ten_minutes_after_its_last_save(redis, redis_store):
    await redis_store.save_worker("worker-1", {"sdk": "python"})
    ttl_s = await redis.client.ttl(redis.keys.worker("worker-1"))
    await redis.client.delete(redis.keys.worker("worker-1"))

    assert 590 < ttl_s <= 600
    assert await redis_store.workers() == {}


async def test_the_counter_of_a_worker_that_is_gone_expires(redis, redis_store):
    await advance(redis_store, "t1", "create", "lease", "complete-next")

    assert 590 < await redis.client.ttl(redis.keys.worker("worker-1")) <= 600


async def test_a_store_that_is_not_open_commits_nothing(redis):
    store = redis.make("d1")

    with pytest.raises(StoreUnavailable):
        await submit(store, "t1")


async def test_two_thousand_calls_at_once_share_the_few_connections(redis_store):
    await submit(redis_store, "t1")

    async with asyncio.TaskGroup() as group:
        reading = [group.create_task(redis_store.records(["t1"])) for _ in range(2_000)]

    assert {record.state for each in reading for record in each.result()} == {"pending"}


async def test_a_server_that_begins_to_evict_is_a_fault_until_it_does_not(redis, redis_store):
    assert await redis_store.faults() == []

    async with configured(redis, **{"maxmemory-policy": "allkeys-lru"}):
        (fault,) = await redis_store.faults()

    assert "maxmemory-policy allkeys-lru" in fault
    assert await redis_store.faults() == []
