"""A task that Redis gives up half-way through each of its changes holds up no other."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from stepstream_dispatcher.core.facts import Completed
from stepstream_dispatcher.core.record import Stage
from stepstream_dispatcher.store.port import Store
from tests.support.engine import Dispatcher, close_databases, database
from tests.support.stores import RedisBackend

LIMIT_S = 20.0


class OnRedis(Dispatcher):
    """An engine on Redis, with hand-made workers."""

    def __init__(self, redis: RedisBackend) -> None:
        self._redis = redis
        super().__init__(database(), "committer", "feeder", "settling")

    def _engine_store(self) -> Store:
        return self._redis.make("dispatcher-1")


@asynccontextmanager
async def engine_on(redis: RedisBackend) -> AsyncIterator[Dispatcher]:
    try:
        async with asyncio.timeout(LIMIT_S), OnRedis(redis) as dispatcher:
            yield dispatcher
    finally:
        close_databases()


async def submitted(redis: RedisBackend, dispatcher: Dispatcher, count: int) -> list[str]:
    """Tasks, of which the first fails once its record is written: its history is no list."""
    tasks = [await dispatcher.submit(b"%d" % number) for number in range(count)]
    await redis.client.set(redis.keys.history(tasks[0]), "not a list")
    return tasks


async def test_the_healthy_of_its_round_are_leased_and_done(redis):
    async with engine_on(redis) as dispatcher:
        broken, *others = await submitted(redis, dispatcher, 6)
        session = await dispatcher.connect(slots=6)

        for outcome in ("completed", "passed"):
            for handout in await dispatcher.handed_out(session, 5):
                lease = handout.attempt.record.lease
                fact = Completed(token=lease, outcome=outcome, output=b"x")
                assert await dispatcher.report(session, handout, fact) == "ACCEPTED"

        records = await dispatcher.engine.store.records([broken, *others])
        assert [record.state for record in records] == ["translating", *["done"] * 5]
        while session.free < 6:  # its slot comes back after a pause; the test has a limit
            await dispatcher.engine.sessions.stirred()
        assert not dispatcher.engine.feeder.in_hand


async def test_work_of_a_dead_dispatcher_beside_it_is_taken_over(redis, peer_of_redis):
    async with engine_on(redis) as dispatcher:
        broken, good = await submitted(redis, dispatcher, 2)
        taken = {one.task_id: one.entry_id for one in await peer_of_redis.read("default", 2)}
        await redis.client.zadd(redis.keys.dispatchers, {"d2": 1})

        await dispatcher.engine.recovery.sweep_dead()

        records = await dispatcher.engine.store.records([broken, good])
        assert [record.stage for record in records] == [Stage.QUEUED] * 2
        left = await peer_of_redis.pending("default", consumer="d2", after="", count=10)
        assert [one.entry_id for one in left] == [taken[broken]]
        assert records[1].entry != taken[good]

        await dispatcher.engine.recovery.sweep_dead()
        await dispatcher.engine.recovery.sweep_dead()

        assert "d2" not in await dispatcher.engine.store.dispatchers()
