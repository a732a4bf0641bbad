"""What is destroyed in Redis under load is healed by itself: every task ends, and all agrees."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from stepstream import AsyncClient
from stepstream_dispatcher.core.record import TERMINAL_STATES
from stepstream_dispatcher.store.keys import GROUP, Keys
from tests.support.audit import audit
from tests.support.cluster import Cluster, running_cluster
from tests.support.load import Load, running_load, tell
from tests.support.pace import before_the_next_look, lasts

pytestmark = [pytest.mark.parallel, pytest.mark.slow, pytest.mark.timeout(240)]

HEALED_S = 60.0  # what is promised
LOAD_S = 4.0  # before and after the fault
PLAN = {"plans": {"first": [{"retry_after": 1.0}, {}], "second": [{"sleep": 0.05}]}}
KEYS = Keys()
LANE = KEYS.stream("work")
SETS = (KEYS.delayed, KEYS.count, KEYS.index, KEYS.ended, KEYS.state("failed"))

FAULTS = {
    "trimmed": [("XTRIM", LANE, "MAXLEN", "0")],
    "lane deleted": [("DEL", LANE)],
    "group destroyed": [("XGROUP", "DESTROY", LANE, GROUP)],
    "sets deleted": [("DEL", key) for key in SETS],
    "all at once": [("DEL", LANE, *SETS)],
}


async def destroy_one_entry(redis) -> None:
    """Take away the youngest entry, which nobody has read yet."""
    for entry_id, _ in await redis.xrevrange(LANE, count=1):
        await redis.xdel(LANE, entry_id)


async def ended(cluster: Cluster, task_ids: Iterable[str], began: float) -> float:
    """Wait until all tasks have ended; how long that took since the fault."""
    waiting = list(task_ids)
    async with asyncio.timeout(2 * HEALED_S), cluster.redis() as redis:
        while waiting:
            await before_the_next_look()
            states = [await redis.hget(KEYS.record(one), "state") for one in waiting]
            waiting = [
                one
                for one, state in zip(waiting, states, strict=True)
                if state not in TERMINAL_STATES
            ]
    return time.monotonic() - began


async def agreed(cluster: Cluster) -> list[str]:
    """What does not agree, once a sweep has had its time; retries are not counted again."""
    found: list[str] = ["nobody has looked"]
    try:
        async with asyncio.timeout(HEALED_S):
            while found := await audit(cluster.redis_url):
                await before_the_next_look()
    except TimeoutError:
        return found
    return []


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_is_destroyed_under_load_is_healed(tmp_path: Path, fault: str):
    async with running_cluster(tmp_path, dispatchers=2, workers=2, slots=8) as cluster:
        client: AsyncClient = cluster.client()
        load: Load
        async with (
            running_load(client, "chain", PLAN, callers=20) as load,
            cluster.redis() as redis,
        ):
            await lasts(LOAD_S)
            await destroy_one_entry(redis)
            for command in FAULTS[fault]:
                await redis.execute_command(*command)
            began = time.monotonic()
            await lasts(LOAD_S)
        healed_s = await ended(cluster, load.accepted(), began)

        assert await agreed(cluster) == []
        assert healed_s < HEALED_S
        async with cluster.redis() as redis:
            assert await redis.hget(KEYS.count, "live") in {None, "0"}
        tell(f"{fault}: {len(load.accepted())} tasks, all ended {healed_s:.1f} s after it")
        report = await client.operator.repair()
        assert (report.repaired, report.counted) == ({}, True)


async def test_killed_workers_are_no_damage(tmp_path: Path):
    """30 s of load with workers that are killed: nothing differs, nothing is repaired."""
    async with running_cluster(tmp_path, dispatchers=2, workers=3, slots=4) as cluster:
        async with running_load(cluster.client(), "chain", PLAN, callers=10) as load:
            for number in range(6):
                await lasts(5.0)
                name = f"w-{number % 3}"
                await cluster.workers[name].kill()
                await cluster.start_worker(name, slots=4)
        await ended(cluster, load.accepted(), time.monotonic())

        for name in cluster.dispatchers:
            log = (cluster.folder / f"{name}.log").read_text(encoding="utf-8")
            assert "counts and indexes differ" not in log
            assert "redis repaired" not in log
        assert await agreed(cluster) == []
