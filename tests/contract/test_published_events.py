"""Every event is published to whoever listens, and nothing is sent where nobody does."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from stepstream_dispatcher.store.port import Verdict
from stepstream_dispatcher.store.redis import RedisStore
from tests.support.redis import running_redis
from tests.support.tasks_at import advance, carry_out
from tests.support.transitions import build

KINDS = ("create", "lease", "complete-next", "cancel")


@asynccontextmanager
async def listening(client, channel, *, pattern=False):
    """A subscription that has been confirmed."""
    async with asyncio.timeout(10), client.pubsub() as listener:
        await (listener.psubscribe if pattern else listener.subscribe)(channel)
        assert (await listener.get_message(timeout=10))["type"].endswith("subscribe")
        yield listener


async def heard(listener, amount):
    """The next events: their task and sequence."""
    events = [json.loads((await listener.get_message(timeout=10))["data"]) for _ in range(amount)]
    return [(event["task_id"], event["sequence"]) for event in events]


async def published(redis):
    """How many messages the server was asked to publish so far."""
    stats = await redis.client.info("commandstats")
    return stats.get("cmdstat_publish", {"calls": 0})["calls"]


async def in_silence(store):
    """Commit until the store has heard that nobody listens."""
    await advance(store, "before", *KINDS)


async def test_nothing_is_published_where_nobody_listens(redis, redis_store):
    await in_silence(redis_store)
    before = await published(redis)

    await advance(redis_store, "t1", *KINDS)

    assert await published(redis) == before


@pytest.mark.parametrize("pattern", [False, True])
async def test_who_begins_to_listen_hears_every_event_from_then_on(redis, redis_store, pattern):
    await in_silence(redis_store)
    channel = f"{redis.prefix}task:ev*" if pattern else redis.keys.events
    async with listening(redis.client, channel, pattern=pattern) as listener:
        await advance(redis_store, "t1", *KINDS)

        assert await heard(listener, 4) == [("t1", 1), ("t1", 2), ("t1", 3), ("t1", 4)]


async def test_progress_is_heard_too(redis, redis_store):
    await advance(redis_store, "t1", "create", "lease")
    async with listening(redis.client, redis.keys.events) as listener:
        await carry_out(redis_store, "touch", "t1")

        assert await heard(listener, 1) == [("t1", 0)]


async def test_what_was_refused_is_not_published(redis, redis_store):
    await in_silence(redis_store)
    async with listening(redis.client, redis.keys.events) as listener:
        again, new = (
            build("create", task_id, None, now_ms=redis_store.now_ms())
            for task_id in ("before", "t1")
        )
        results = await redis_store.commit([again, new], kind="submit")

        assert [one.verdict for one in results] == [Verdict.DUPLICATE, Verdict.APPLIED]

        assert await heard(listener, 1) == [("t1", 1)]


@pytest.fixture
def primary(tmp_path, unused_tcp_port):
    """A server with a port, which another one can follow."""
    with running_redis(tmp_path / "primary", tcp_port=unused_tcp_port) as server:
        yield server


async def test_who_listens_at_a_replica_hears_every_event(primary, tmp_path, stack):
    with running_redis(tmp_path / "replica") as following:
        replica = await stack.enter_async_context(Redis.from_url(following.url))
        store = RedisStore(primary.url, dispatcher_id="d1")
        await store.open()
        stack.push_async_callback(store.close)
        await store.ensure_lanes(["default", "checks"])
        await in_silence(store)
        await replica.replicaof("127.0.0.1", primary.tcp_port)
        async with asyncio.timeout(20):
            while (await replica.info("replication"))["master_link_status"] != "up":
                await replica.ping()
        await store.beat()
        async with listening(replica, store.keys.events) as listener:
            await advance(store, "t1", *KINDS)

            assert await heard(listener, 4) == [("t1", 1), ("t1", 2), ("t1", 3), ("t1", 4)]


@pytest.mark.parametrize("allowed", [(), ("+pubsub|numsub",)])
async def test_who_may_not_ask_takes_it_that_somebody_listens(primary, stack, allowed):
    admin = await stack.enter_async_context(Redis.from_url(primary.url))
    await admin.execute_command(
        *("ACL", "SETUSER", "worker", "on", ">secret", "~*", "&*", "+@all", "-pubsub", *allowed)
    )
    store = RedisStore(f"redis://worker:secret@127.0.0.1:{primary.tcp_port}", dispatcher_id="d1")
    await store.open()
    stack.push_async_callback(store.close)
    await store.ensure_lanes(["default", "checks"])
    await in_silence(store)
    async with listening(admin, store.keys.events) as listener:
        await advance(store, "t1", "create")

        assert await heard(listener, 1) == [("t1", 1)]
