"""The stores of the contract suite: Redis, SQLite in memory and SQLite in a file."""

from contextlib import AsyncExitStack

import pytest

from tests.support.stores import LocalBackend, RedisBackend, opened
from tests.support.tasks_at import carry_out, prepared
from tests.support.transitions import KINDS


@pytest.fixture(params=["redis", "memory", "file"])
async def backend(request, tmp_path, key_prefix):
    """A storage that belongs to this test alone."""
    if request.param == "redis":
        made = RedisBackend(request.getfixturevalue("redis_url"), key_prefix)
    else:
        made = LocalBackend(tmp_path / "tasks.db" if request.param == "file" else ":memory:")
    yield made
    await made.close()


@pytest.fixture
async def redis(redis_url, key_prefix):
    """A key prefix of the session's server."""
    made = RedisBackend(redis_url, key_prefix)
    yield made
    await made.close()


@pytest.fixture
async def stack():
    """Closes what the test opened."""
    async with AsyncExitStack() as closing:
        yield closing


@pytest.fixture
async def store(backend, stack):
    """The store of dispatcher d1, with the lanes that the transitions use."""
    made = await opened(stack, backend.make("d1"))
    await made.ensure_lanes(["default", "checks"])
    return made


@pytest.fixture
async def peer(backend, stack):
    """The store of dispatcher d2, on the same storage."""
    made = await opened(stack, backend.make("d2"))
    await made.ensure_lanes(["default", "checks"])
    return made


@pytest.fixture
async def redis_store(redis, stack):
    """The store of dispatcher d1 on Redis."""
    made = await opened(stack, redis.make("d1"))
    await made.ensure_lanes(["default", "checks"])
    return made


@pytest.fixture
async def every_kind(redis_store):
    """A task after each kind of transition."""
    for kind in KINDS:
        await prepared(redis_store, kind, f"t-{kind}")
        await carry_out(redis_store, kind, f"t-{kind}")
    return redis_store


@pytest.fixture
async def peer_of_redis(redis, stack):
    store = redis.make("d2")
    await store.open()
    stack.push_async_callback(store.close)
    return store
