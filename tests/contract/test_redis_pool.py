"""More callers than connections: they wait and are refused, and nobody takes Redis for down."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from stepstream.errors import StoreUnavailable
from stepstream_dispatcher.engine.fallback import Fallback
from stepstream_dispatcher.engine.switch import SwitchStore
from stepstream_dispatcher.store.local import LocalStore
from stepstream_dispatcher.store.local_database import LocalDatabase
from stepstream_dispatcher.store.redis import RedisStore
from stepstream_dispatcher.store.redis_link import Link
from tests.support.proxy import running_proxy
from tests.support.stores import RedisBackend
from tests.support.transitions import build

CALLERS = 40  # ten times the connections for commits


async def nothing() -> None:
    return


async def outcome(switch: SwitchStore, task_id: str) -> str:
    made = build("create", task_id, None, now_ms=switch.now_ms())
    try:
        await switch.commit([made], kind="submit")
    except StoreUnavailable as error:
        return type(error).__name__
    else:
        return "accepted"


@pytest.mark.slow
async def test_an_exhausted_pool_opens_no_fallback(redis: RedisBackend):
    """Commits are held back, so that those behind them get no connection in time."""
    async with running_proxy(redis.url) as proxy:
        remote = RedisStore(proxy.url, dispatcher_id="d1", prefix=redis.prefix)
        journal = LocalStore(LocalDatabase(now_ms=remote.now_ms), dispatcher_id="d1")
        switch = SwitchStore(remote, journal, running_max=CALLERS)
        await switch.open()
        fallback = Fallback(switch, returned=nothing, turned=nothing, serves=lambda _queue: True)
        proxy.hold_request(b"EVALSHA", until_reply_to=b"")
        async with asyncio.TaskGroup() as group:
            probe = group.create_task(fallback.probe())
            calls = [group.create_task(outcome(switch, f"t{n}")) for n in range(CALLERS)]
            await asyncio.wait(calls)
            probe.cancel()
        proxy.release()
        diverted, journaled = switch.diverted, switch.journaled
        await switch.close()

    assert Counter(call.result() for call in calls) == {StoreUnavailable.__name__: CALLERS}
    assert (diverted, journaled) == (False, 0)


async def test_a_cancelled_reader_always_ends(redis: RedisBackend):
    """Before Python 3.12 `asyncio.wait_for`, under which the driver writes, swallows some."""
    link = Link(redis.url, connections_max=4, name="cancelled")

    async def read_for_ever() -> None:
        while True:
            await link.ask(("PING",))

    ends = []
    for turns in range(200):
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(read_for_ever())
            for _ in range(turns % 20):
                await asyncio.sleep(0)
            reader.cancel()
            done, _ = await asyncio.wait([reader], timeout=0.5)
            ends.append(reader in done)
            while not reader.done():
                reader.cancel()
                await asyncio.sleep(0)
    replies = await link.ask(*[("ECHO", str(number)) for number in range(4)])
    await link.close()

    assert ends == [True] * 200
    assert replies == [b"0", b"1", b"2", b"3"]
