"""A Redis at maxmemory: nothing new is accepted, what was accepted ends, and then it goes on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from stepstream import AsyncClient
from stepstream.errors import QueueFull
from tests.support.audit import audit
from tests.support.cluster import Cluster, running_cluster
from tests.support.load import Load, running_load, tell
from tests.support.pace import before_the_next_look

pytestmark = [pytest.mark.slow, pytest.mark.parallel, pytest.mark.timeout(120)]

PLAN = {"plan": [{"sleep": 0.05}], "padding": "x" * 20_000}


async def fill(redis: Any) -> None:
    """From now on every command that may need memory is refused."""
    used = (await redis.info("memory"))["used_memory"]
    await redis.config_set("maxmemory", str(int(used) // 2))


async def until_refused(load: Load, times: int) -> None:
    while load.words(load.answers)["QUEUE_FULL"] < times:
        load.news.clear()
        await load.news.wait()


async def until_nothing_is_live(redis: Any) -> None:
    while int(await redis.hget("task:count", "live")) > 0:
        await before_the_next_look()


async def ended_well(cluster: Cluster, load: Load) -> Counter[str]:
    tasks = await cluster.finished(list(load.accepted()))
    return Counter(task.state for task in tasks)


async def test_a_full_redis_refuses_drains_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """A worker that comes while it is full works, too: else nothing would ever drain."""
    async with (
        running_cluster(tmp_path, slots=2) as cluster,
        cluster.redis() as redis,
        AsyncClient(cluster.dispatchers["d-0"].address, retry_s=0) as client,
    ):
        async with running_load(client, "single", PLAN, callers=8, pause_s=0.01) as load:
            await load.until(100)
            await fill(redis)
            await until_refused(load, 50)
            accepted = len(load.accepted())
            await cluster.start_worker("late", slots=4)
            await until_nothing_is_live(redis)
            with pytest.raises(QueueFull) as refused:
                await client.submit("single", PLAN)
            accepted_while_full = len(load.accepted()) - accepted

            await redis.config_set("maxmemory", "0")
            await load.until(len(load.answers) + 100)
        states = await ended_well(cluster, load)
        found = await audit(cluster.redis_url)
        words = load.words(load.answers)

    with capsys.disabled():
        tell(f"full redis: {dict(words)}, {accepted} accepted before, {dict(states)}")
    assert refused.value.retry_after_s == 1.0
    assert accepted_while_full == 0
    assert set(words) == {"PARALLEL", "QUEUE_FULL"}
    assert states == {"done": words["PARALLEL"]}
    assert words["PARALLEL"] > accepted
    assert found == []
