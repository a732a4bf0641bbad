"""Redis dies between the delivery of a Submit and its answer: the task is recorded once.

With STEPSTREAM_TEST_LONG=1 until a hundred Submits have been cut off so, else twenty.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from stepstream_dispatcher.store.redis_scripts import SUBMIT
from tests.support.cluster import Cluster
from tests.support.load import Load, tell
from tests.support.pace import before_the_next_look
from tests.support.proxy import Proxy, running_proxy
from tests.support.recount import recount

pytestmark = [pytest.mark.parallel, pytest.mark.slow]

CUT_OFF = 100 if os.environ.get("STEPSTREAM_TEST_LONG") == "1" else 20
AT_ONCE = 40  # Submits of one cut, below the default cap of 64
SLOW_S = 0.05  # of each answer, so that a call carries many Submits
ANSWERED = 1  # calls before the one that is cut: it carries one or two, and the others wait
MARKER = SUBMIT.digest.encode()
LIMIT_S = 30.0


@asynccontextmanager
async def behind_a_proxy(
    folder: Path, *, another: bool
) -> AsyncGenerator[tuple[Cluster, Proxy, Redis], None]:
    """A dispatcher that reaches Redis through a proxy, and perhaps one that does so directly."""
    cluster = Cluster(folder)
    try:
        await cluster.start_redis()
        direct = cluster.redis_url
        async with running_proxy(direct) as proxy, Redis.from_url(direct) as redis:
            cluster.redis_url = proxy.url
            await cluster.start_dispatcher("d-0")
            await cluster.start_worker("w-0", at=["d-0"], slots=16)
            if another:
                cluster.redis_url = direct
                await cluster.start_dispatcher("d-1")
                await cluster.start_worker("w-1", at=["d-1"], slots=16)
            await cluster.client().submit("single", {})  # so that the script is known
            yield cluster, proxy, redis
            await cluster.stop()
    finally:
        await cluster.stop()


async def one_cut(cluster: Cluster, proxy: Proxy, redis: Redis, load: Load) -> int:
    """Submit many at once, and cut; returns how many were delivered and not answered."""
    child = cluster.dispatchers["d-0"].child
    seen = len(child.lines)
    before = {key async for key in redis.scan_iter(match="task:record:*", count=1000)}
    told = len(load.answers)
    client = cluster.client()
    proxy.delay_s = SLOW_S
    proxy.cut_at(MARKER, after=ANSWERED)
    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(load.submit(client, "chain", {}))
        await proxy.cut.wait()
        proxy.delay_s = 0.0
        delivered = {key async for key in redis.scan_iter(match="task:record:*", count=1000)}
    answers = load.answers[told:]
    await proxy.accept()
    await child.line("redis is back", after=seen)
    known = {f"task:record:{one.task_id}".encode() for one in answers if one.mode == "PARALLEL"}
    return len(delivered - before - known)


async def imports(cluster: Cluster) -> Counter[str]:
    """What became of the journal's tasks, by the log."""
    lines = [line for line in cluster.dispatchers["d-0"].child.lines if "task imported" in line]
    words = ("created", "superseded", "dropped", "already")
    return Counter(word for line in lines for word in words if f'"{word}"' in line)


@pytest.mark.parametrize("another", [False, True], ids=["nobody else", "another dispatcher"])
async def test_submits_whose_answer_was_lost(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    another: bool,
):
    """Each comes again with its request id, runs in the fallback, and meets its own record.

    Another dispatcher that still has Redis may have run it meanwhile: then its result stays.
    """
    load, cut_off = Load(), 0
    async with behind_a_proxy(tmp_path, another=another) as (cluster, proxy, redis):
        cuts = 0
        while cut_off < CUT_OFF:
            cut_off += await one_cut(cluster, proxy, redis, load)
            cuts += 1
            assert cuts <= CUT_OFF, "no Submit was cut off"
        await asyncio.wait_for(settled(redis, load), LIMIT_S)
        fallback = load.words(load.answers)["SYNCHRONOUS_FALLBACK"]
        await cluster.news.until(
            lambda: (
                sum("task imported" in line for line in cluster.dispatchers["d-0"].child.lines)
                == fallback
            ),
            timeout_s=LIMIT_S,
        )
        found = await recount(redis)
        words = await imports(cluster)

    with capsys.disabled():
        tell(
            f"{cuts} cuts, {cut_off} submits delivered and not answered: "
            f"{dict(load.words(load.answers))}, imports {dict(words)}; twice: {len(found.twice)}"
        )
    assert all(one.is_ok for one in load.answers)
    assert load.accepted().keys() <= found.records.keys()
    assert found.twice == []
    assert found.kept == found.counted
    assert found.worker_totals == found.steps_recorded
    assert (found.entries, found.pending) == (0, 0)
    # A later cut may lose the answer of an import too: asked again, it was made already.
    assert words["superseded"] + words["dropped"] + words["already"] >= cut_off
    assert words["dropped"] == 0 or another


async def settled(redis: Redis, load: Load) -> None:
    """Wait until nothing lives any more, and every accepted task is recorded."""
    while int(await redis.hget("task:count", "live") or 0) or not all(
        [await redis.exists(f"task:record:{task_id}") for task_id in load.accepted()]
    ):
        await before_the_next_look()
