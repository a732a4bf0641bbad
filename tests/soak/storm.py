"""`python -m tests.soak.storm`: every worker of a dispatcher comes back at once, after its restart.

The sessions are raw streams that dial as the SDK does, with its back-off, and then say nothing.
Meanwhile Submits are made one after the other, and each is timed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path
from time import monotonic
from typing import Any

import grpc
from rich.console import Console

from stepstream.v1 import worker_service_pb2 as api
from stepstream.v1.worker_service_pb2_grpc import WorkerServiceStub
from stepstream.worker.backoff import Backoff
from tests.support.cluster import Cluster
from tests.support.pace import lasts

BACK_WITHIN_S = 90.0
QUIET = {"STEPSTREAM_HEARTBEAT_INTERVAL": "60", "STEPSTREAM_SILENCE_LIMIT": "600"}
SUBMITS_AFTER = 100  # once all are back: what a quiet dispatcher takes, for comparison


class Storm:
    """So many sessions that stay connected."""

    def __init__(self, address: str, amount: int) -> None:
        self._address = address
        self._amount = amount
        self._connected = 0
        self.refused = 0
        self.news = asyncio.Event()

    def start(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Begin to dial."""
        return [group.create_task(self._stay(number)) for number in range(self._amount)]

    async def until(self, connected: int) -> None:
        """Wait until exactly so many are connected."""
        async with asyncio.timeout(BACK_WITHIN_S):
            while self._connected != connected:
                self.news.clear()
                await self.news.wait()

    async def _stay(self, number: int) -> None:
        backoff = Backoff(random.Random(number))
        while True:
            await lasts(backoff.next_delay_s(monotonic()))
            if await self._session(f"storm-{number}"):
                backoff.reset()

    async def _session(self, name: str) -> bool:
        """Register and hear until the stream breaks; returns whether it was answered."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(self._address, options=options) as channel:
            call: Any = WorkerServiceStub(channel).Work()
            answered = False
            try:
                await call.write(api.WorkRequest(register=_register(name)))
                answered = await call.read() is not grpc.aio.EOF
                self._count(answered)
                while answered and await call.read() is not grpc.aio.EOF:
                    pass
            except grpc.aio.AioRpcError as error:
                self.refused += error.code() is not grpc.StatusCode.UNAVAILABLE
            finally:
                self._count(-answered)
        return answered

    def _count(self, change: int) -> None:
        self._connected += change
        self.news.set()


def _register(name: str) -> api.Register:
    return api.Register(
        worker_name=name,
        instance_id=name,
        protocol_version=1,
        queues=["work"],
        step_types=["first"],  # not all of the queue's, so that nothing is handed out
        max_in_flight=1,
    )


async def _submits(cluster: Cluster, amount: int | None = None) -> list[float]:
    """Seconds that each Submit took; without an amount until cancelled."""
    took: list[float] = []
    client = cluster.client()
    try:
        while amount is None or len(took) < amount:
            began = monotonic()
            await client.submit("single", {})
            took.append(monotonic() - began)
    except asyncio.CancelledError:
        if amount is not None:
            raise
    return took


async def _run(cluster: Cluster, amount: int) -> None:
    await cluster.start_redis()
    dispatcher = await cluster.start_dispatcher(**QUIET)
    storm = Storm(dispatcher.address, amount)
    async with asyncio.TaskGroup() as group:
        tasks = storm.start(group)
        await storm.until(amount)
        quiet = await _submits(cluster, SUBMITS_AFTER)
        await dispatcher.child.kill()
        await storm.until(0)
        await cluster.start_dispatcher(**QUIET)
        began = monotonic()
        submits = group.create_task(_submits(cluster))
        await storm.until(amount)
        back_s = monotonic() - began
        submits.cancel()
        meanwhile = await submits
        for task in tasks:
            task.cancel()
    _console.print(
        f"{amount} sessions back {back_s:.1f} s after the restart, {storm.refused} refused"
    )
    _tell("Submit before", quiet)
    _tell("Submit meanwhile", meanwhile)


def _tell(name: str, took: list[float]) -> None:
    ordered = sorted(took)
    p50, p99 = (ordered[int(len(ordered) * part)] * 1000 for part in (0.5, 0.99))
    _console.print(f"{name}: {len(took)} calls, p50 {p50:.0f} ms, p99 {p99:.0f} ms")


async def main(amount: int) -> int:
    """Run one storm; returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="stepstream-storm-") as folder:
        cluster = Cluster(Path(folder))
        try:
            await _run(cluster, amount)
        finally:
            await cluster.stop()
    return 0


_console = Console(soft_wrap=True, highlight=False, markup=False)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.soak.storm", description=__doc__)
    parser.add_argument("--sessions", type=int, default=500, help="default 500")
    given = parser.parse_args()
    sys.exit(asyncio.run(main(given.sessions)))
