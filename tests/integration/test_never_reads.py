"""Peers that open streams and never read them: the dispatcher's memory stays bounded.

gRPC's client reads as the flow control of HTTP/2 lets it, and passes nothing on; what the
dispatcher cannot write any more waits in its own mailboxes, which have limits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from stepstream import AsyncClient
from stepstream.types import SubmitItem
from stepstream.v1 import dispatcher_service_pb2 as api
from stepstream.v1 import worker_service_pb2 as worker_api
from stepstream.v1.dispatcher_service_pb2_grpc import DispatcherServiceStub
from stepstream.v1.worker_service_pb2_grpc import WorkerServiceStub
from tests.soak.sampling import process_sample
from tests.support.cluster import Cluster, running_cluster
from tests.support.load import tell
from tests.support.pace import before_the_next_look

pytestmark = [pytest.mark.parallel, pytest.mark.timeout(150), pytest.mark.slow]

MIB = 1024 * 1024
WATCHERS = 300
FOLLOWERS = 20  # of all tasks
TASKS = 500
GROWTH_MAX = 100 * MIB
SUBMIT_P99_S = 0.5  # on a machine that runs other tests, too
PAYLOAD = "x" * (MIB // 2)
BIG_TASKS = 100
# An unread stream of the smallest window, so that what waits is the dispatcher's to hold.
NARROW = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.lookahead_bytes", 16_384)]


def rss(cluster: Cluster) -> int:
    return process_sample(cluster.dispatchers["d-0"].child.pid).rss_bytes


@asynccontextmanager
async def channel_to(cluster: Cluster) -> AsyncIterator[grpc.aio.Channel]:
    address = cluster.dispatchers["d-0"].address
    async with grpc.aio.insecure_channel(address, options=NARROW) as channel:
        yield channel


async def submit_times(client: AsyncClient, amount: int) -> list[float]:
    """Seconds that each of so many Submits takes, in order of length."""
    took = []
    for _ in range(amount):
        began = time.monotonic()
        await client.submit("single", {})
        took.append(time.monotonic() - began)
    return sorted(took)


async def test_watchers_that_never_read_cost_bounded_memory_and_harm_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    async with running_cluster(tmp_path, slots=16) as cluster, channel_to(cluster) as channel:
        client, stub = cluster.client(), DispatcherServiceStub(channel)
        task_id = (await client.submit("threaded", {"plan": [{"sleep": 60}]})).task_id
        before = rss(cluster)

        watch, follow = api.WatchTaskRequest(task_id=task_id), api.WatchTasksRequest()
        calls: list[Any] = [stub.WatchTask(watch) for _ in range(WATCHERS)]
        calls += [stub.WatchTasks(follow) for _ in range(FOLLOWERS)]
        for call in calls:
            await call.initial_metadata()
        for _ in range(TASKS // 500):
            await client.submit_batch([SubmitItem(pipeline="single", input={})] * 500)
        took = await submit_times(client, 200)
        while (await client.stats()).totals.processed < TASKS:
            await before_the_next_look()
        grown = rss(cluster) - before
        seen = await cluster.history((await client.submit("single", {})).task_id)
        for call in calls:
            call.cancel()

    with capsys.disabled():
        tell(
            f"{WATCHERS} watchers and {FOLLOWERS} followers that never read, {TASKS} tasks: "
            f"{grown / MIB:+.1f} MiB, Submit p99 {took[-3] * 1000:.0f} ms"
        )
    assert grown < GROWTH_MAX
    assert took[-3] < SUBMIT_P99_S
    assert seen[-1].state == "done"


async def test_a_worker_that_never_reads_is_handed_a_bounded_amount(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """It asks for everything; another one works through what it does not get."""
    async with running_cluster(tmp_path, workers=0) as cluster, channel_to(cluster) as channel:
        client = cluster.client()
        stream: Any = WorkerServiceStub(channel).Work()
        register = worker_api.Register(
            worker_name="deaf",
            instance_id="deaf",
            protocol_version=1,
            queues=["work"],
            step_types=["first", "second", "third", "work", "block"],
            max_in_flight=10_000,
        )
        await stream.write(worker_api.WorkRequest(register=register))
        async with asyncio.timeout(10):
            while "deaf" not in (await client.stats()).workers:
                await before_the_next_look()
        before = rss(cluster)
        for _ in range(BIG_TASKS):
            await client.submit("single", {"padding": PAYLOAD})
        held = (await client.stats()).workers["deaf"].current_tasks
        grown = rss(cluster) - before
        await cluster.start_worker("hears")
        async with asyncio.timeout(30):
            while (await client.stats()).totals.processed < BIG_TASKS - held:
                await before_the_next_look()
        stream.cancel()
        async with asyncio.timeout(30):
            while (await client.stats()).totals.processed < BIG_TASKS:
                await before_the_next_look()

    with capsys.disabled():
        tell(f"a deaf worker holds {held} of {BIG_TASKS} tasks, {grown / MIB:+.1f} MiB")
    assert 0 < held < BIG_TASKS / 2
    assert grown < GROWTH_MAX
