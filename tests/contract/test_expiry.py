"""An ended task is kept for its time, and then nothing of it stays or comes back."""

from tests.support.tasks_at import advance, current
from tests.support.transitions import build


async def test_an_ended_task_expires_and_a_redriven_one_does_not(redis, redis_store):
    names = redis.keys.of_task("t1")
    await advance(redis_store, "t1", "create", "lease", "complete-next", "lease", "fail-dead")
    ended_s = await redis.client.ttl(redis.keys.record("t1"))

    await advance(redis_store, "t1", "redrive")
    redriven = [await redis.client.ttl(name) for name in names]

    assert 3500 < ended_s <= 3600
    assert redriven == [-1, -1, -1, -1]


async def test_nothing_of_an_expired_task_is_left_once_it_is_trimmed(redis, redis_store):
    record = await advance(redis_store, "t1", "create", "lease")
    dead = build("fail-dead", "t1", record, now_ms=redis_store.now_ms() - 5_000_000)
    await redis_store.commit([dead], kind="settle")
    await redis.expire("t1")
    names = redis.keys.of_task("t1")
    assert await redis.client.exists(*names) == 2  # history and input

    assert await redis_store.trim(results_max=10, limit=10) == 1
    assert await redis.client.exists(*names) == 0


async def test_a_task_submitted_anew_has_nothing_of_its_expired_life(redis, redis_store):
    await advance(redis_store, "t1", "create", "lease", "complete-next", "cancel")
    await redis.expire("t1")

    await advance(redis_store, "t1", "create")

    assert await redis_store.data(["t1"]) == [{"input": bytes(range(256))}]
    assert [event.sequence for event in await redis_store.history("t1", after=0)] == [1]


async def test_a_task_submitted_anew_after_it_expired_is_not_trimmed(redis, redis_store):
    record = await advance(redis_store, "t1", "create")
    cancelled = build("cancel", "t1", record, now_ms=redis_store.now_ms() - 5_000_000)
    await redis_store.commit([cancelled], kind="settle")
    await redis.expire("t1")
    await advance(redis_store, "t1", "create")

    assert await redis_store.trim(results_max=0, limit=10) == 1
    assert (await current(redis_store, "t1")).state == "pending"
    assert (await redis_store.index(cursor="", count=5)).task_ids == ["t1"]
    assert await redis_store.counts() == {"live": 1, "retries": 0, "pending": 1}
