"""A Redis that is slow, or frozen, is not down: nothing is diverted.

With STEPSTREAM_TEST_LONG=1 it is slow for 20 s.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from stepstream import AsyncClient
from tests.support.cluster import Cluster, running_cluster
from tests.support.load import Load, tell
from tests.support.proxy import running_proxy

LONG = os.environ.get("STEPSTREAM_TEST_LONG") == "1"

pytestmark = [pytest.mark.parallel, pytest.mark.timeout(150), pytest.mark.slow]

SLOW_S = 20.0 if LONG else 8.0
ANSWER_S = 2.0  # what each answer takes
FROZEN_S = 8.0
CALL_S = 6.0  # how long a caller waits


async def submits(cluster: Cluster, *, for_s: float, each_s: float) -> Load:
    """Submit one task after the other without trying again, many side by side, for a while."""
    load = Load()
    until = asyncio.get_running_loop().time() + for_s
    address = cluster.dispatchers["d-0"].address

    async def call() -> None:
        async with AsyncClient(address, timeout_s=each_s, retry_s=0) as client:
            while asyncio.get_running_loop().time() < until:
                try:
                    await load.submit(client, "single", {})
                except TimeoutError:
                    load.timeouts += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(call())
    return load


def diverted(cluster: Cluster) -> list[str]:
    return [line for line in cluster.dispatchers["d-0"].child.lines if "redis is down" in line]


async def test_a_slow_redis_never_opens_the_fallback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    cluster = Cluster(tmp_path)
    try:
        await cluster.start_redis()
        direct = cluster.redis_url
        async with running_proxy(direct) as proxy:
            cluster.redis_url = proxy.url
            await cluster.start_dispatcher("d-0")
            await cluster.start_worker()
            await cluster.client().submit("single", {})
            proxy.delay_s = ANSWER_S

            load = await submits(cluster, for_s=SLOW_S, each_s=CALL_S)

            proxy.delay_s = 0.0
            accepted = list(load.accepted())
            tasks = await cluster.finished(accepted)
            turned = diverted(cluster)
            await cluster.stop()
    finally:
        await cluster.stop()

    words = load.words(load.answers)
    with capsys.disabled():
        tell(f"{ANSWER_S:g} s an answer for {SLOW_S:g} s: {dict(words)}, {load.timeouts} timeouts")
    assert turned == []
    assert words["SYNCHRONOUS_FALLBACK"] == 0
    assert len(load.answers) + load.timeouts > 0
    assert Counter(task.state for task in tasks) == {"done": len(accepted)} or not accepted


async def test_a_frozen_redis_never_opens_the_fallback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    async with running_cluster(tmp_path) as cluster:
        assert cluster.redis_process is not None
        cluster.redis_process.tell(signal.SIGSTOP)
        try:
            load = await submits(cluster, for_s=FROZEN_S, each_s=3 * CALL_S)
        finally:
            cluster.redis_process.tell(signal.SIGCONT)
        after = await cluster.client().submit("single", {})
        (task,) = await cluster.finished([after.task_id])

        words = load.words(load.answers)
        with capsys.disabled():
            tell(f"frozen for {FROZEN_S:g} s: {dict(words)}, {load.timeouts} timeouts")
        assert diverted(cluster) == [], diverted(cluster)
        assert words.keys() == {"STORE_UNAVAILABLE"}
        assert load.timeouts == 0
        assert (after.execution_mode, task.state) == ("PARALLEL", "done")
