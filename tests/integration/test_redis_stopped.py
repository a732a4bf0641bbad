"""Redis stops, or comes and goes, under load: nearly all is answered, and recorded once.

With STEPSTREAM_TEST_LONG=1 the stop lasts 30 s, and the flapping a minute.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.support.cluster import Cluster, running_cluster
from tests.support.load import Load, running_load, tell
from tests.support.pace import before_the_next_look, lasts
from tests.support.recount import Recount, recount

LONG = os.environ.get("STEPSTREAM_TEST_LONG") == "1"

pytestmark = [pytest.mark.parallel, pytest.mark.timeout(240 if LONG else 90), pytest.mark.slow]

STOP_S = 30.0 if LONG else 6.0
FLAPS = 15 if LONG else 3
FLAP_S = 2.0
TURNED_S = 2.0  # from then on the promise holds
RECORDED_S = 30.0
CALLERS = 12  # below the default cap of 64
CHAIN = {"plan": [{"sleep": 0.02}]}


async def stop(cluster: Cluster) -> float:
    """Stop Redis in an orderly way; returns when it was gone."""
    assert cluster.redis_process is not None
    await cluster.terminate(cluster.redis_process)
    return time.monotonic()


async def recorded(cluster: Cluster, load: Load) -> dict[str, float]:
    """When each accepted task was first seen in its final state in Redis, polled from now on."""
    seen: dict[str, float] = {}
    async with Redis.from_url(cluster.redis_url) as redis, asyncio.timeout(RECORDED_S + 15):
        while not load.over or load.accepted().keys() - seen.keys():
            missing = list(load.accepted().keys() - seen.keys())
            async with redis.pipeline(transaction=False) as asked:
                for task_id in missing:
                    asked.hget(f"task:record:{task_id}", "state")
                states = await asked.execute()
            now = time.monotonic()
            seen |= {
                one: now for one, state in zip(missing, states, strict=True) if state == b"done"
            }
            await before_the_next_look()
    return seen


async def counted(cluster: Cluster) -> Recount:
    """Count all again once nothing lives any more."""
    async with Redis.from_url(cluster.redis_url) as redis, asyncio.timeout(RECORDED_S):
        while int(await redis.hget("task:count", "live") or 0):
            await before_the_next_look()
        return await recount(redis)


def check(found: Recount, load: Load) -> None:
    """Each accepted task is recorded, once, and the counts agree."""
    assert load.accepted().keys() <= found.records.keys()
    assert found.twice == []
    assert found.kept == found.counted
    assert found.worker_totals == found.steps_recorded
    assert found.steps_recorded == (3 * len(found.records), 0)
    assert (found.entries, found.pending) == (0, 0)


async def test_a_stop_under_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Tasks that were running in Redis at the stop go on when it is back."""
    async with running_cluster(tmp_path, workers=2, slots=8) as cluster:
        client = cluster.client()
        slow = {"plan": [{"sleep": 1.0}]}
        held = [await client.submit("chain", slow) for _ in range(8)]
        async with (
            asyncio.TaskGroup() as group,
            running_load(client, "chain", CHAIN, callers=CALLERS) as load,
        ):
            await load.until(30)
            stopped = await stop(cluster)
            await lasts(STOP_S)
            back = time.monotonic()
            await cluster.start_redis()
            seeing = group.create_task(recorded(cluster, load))
            await lasts(2.0)
        seen = seeing.result()
        await cluster.finished([one.task_id for one in held])
        found = await counted(cluster)

    meant = [one for one in load.answers if stopped + TURNED_S <= one.began < back]
    words = load.words(meant)
    took = sorted(one.ended - one.began for one in meant)
    fallback = [
        task_id for task_id, one in load.accepted().items() if one.mode == "SYNCHRONOUS_FALLBACK"
    ]
    after = max(seen[task_id] - back for task_id in fallback)
    with capsys.disabled():
        tell(
            f"stop of {STOP_S:g} s: {len(meant)} submits from {TURNED_S:g} s on: {dict(words)}; "
            f"median {took[len(took) // 2]:.3f} s, slowest {took[-1]:.3f} s; "
            f"in all {dict(load.words(load.answers))}; {len(fallback)} imported, the last "
            f"{after:.1f} s after redis was started; "
            f"{len(found.records)} records, twice: {len(found.twice)}"
        )
    assert words["SYNCHRONOUS_FALLBACK"] >= 0.9 * len(meant) > 0
    states = Counter(one.state for one in meant if one.is_ok)
    assert states == {"done": words["SYNCHRONOUS_FALLBACK"]}
    assert after <= RECORDED_S
    check(found, load)


async def test_flapping_does_no_harm(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    async with running_cluster(tmp_path, workers=2, slots=8) as cluster:
        async with running_load(cluster.client(), "chain", CHAIN, callers=CALLERS) as load:
            await load.until(20)
            for _ in range(FLAPS):
                await stop(cluster)
                await lasts(FLAP_S)
                await cluster.start_redis()
                await lasts(FLAP_S)
        await recorded(cluster, load)
        found = await counted(cluster)

    took = sorted(one.ended - one.began for one in load.answers)
    with capsys.disabled():
        tell(
            f"{FLAPS} flaps of {FLAP_S:g} s: {dict(load.words(load.answers))}; "
            f"median {took[len(took) // 2]:.3f} s, slowest {took[-1]:.3f} s; "
            f"{len(found.records)} records, twice: {len(found.twice)}"
        )
    assert all(one.is_ok for one in load.answers)
    assert load.words(load.answers)["SYNCHRONOUS_FALLBACK"] > 0
    check(found, load)
