"""`python -m tests.soak.cycles`: streams opened and cut, thousands of times; does anything grow?

Three rounds: WatchTask is opened, its snapshot read, and cancelled; a worker registers, and is cut;
and the same at a server of grpc.aio with nothing behind it, so that what is gRPC's own is told from
what is ours. Exits with 1 if a bound is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import msgspec
from rich.console import Console

from stepstream.v1 import dispatcher_service_pb2 as api
from stepstream.v1 import worker_service_pb2 as worker_api
from stepstream.v1.dispatcher_service_pb2_grpc import DispatcherServiceStub
from stepstream.v1.worker_service_pb2_grpc import WorkerServiceStub
from tests.soak import bare_server
from tests.soak.sampling import ProcessSample, process_sample
from tests.soak.verdict import Bound, Verdict, judge
from tests.support.child import Child
from tests.support.cluster import Cluster
from tests.support.pace import lasts
from tests.support.tree import ROOT

RESULTS = ROOT / ".stepstream" / "soak"
AT_ONCE = 10  # callers side by side
ON_ONE_CHANNEL = 50  # cycles before a caller takes a new connection
SAMPLES = 50  # of one round
WARM_UP = 10  # samples that are not judged: pools and arenas get their size
SETTLE_S = 2.0  # what was cut last is cleaned up, sessions after 1.5 s
MEMORY = Bound(share=0.05)
# Connections that are closing, and those to Redis of its pool.
HANDLES = Bound(amount=AT_ONCE * 2 + 50)

Cycle = Callable[[grpc.aio.Channel, str], Awaitable[None]]


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """What one round did to one process."""

    name: str
    cycles: int
    samples: list[ProcessSample]
    verdicts: list[Verdict]

    @property
    def bytes_each(self) -> float:
        """What each judged cycle left behind."""
        judged = self.samples[WARM_UP:]
        grown = judged[-1].rss_bytes - judged[0].rss_bytes
        return grown / (self.cycles * (len(judged) - 1) / SAMPLES)


# --- one cycle -----------------------------------------------------------------------------------


def watching(task_id: str) -> Cycle:
    """Open a watch, read the snapshot, leave."""

    async def cycle(channel: grpc.aio.Channel, _name: str) -> None:
        call: Any = DispatcherServiceStub(channel).WatchTask(api.WatchTaskRequest(task_id=task_id))
        frame = await call.read()
        assert frame.HasField("snapshot"), frame
        await _cut(call)

    return cycle


async def working(channel: grpc.aio.Channel, name: str) -> None:
    """Register, be answered, and be cut."""
    call: Any = WorkerServiceStub(channel).Work()
    register = worker_api.Register(
        worker_name=name,
        instance_id=name,
        protocol_version=1,
        queues=["work"],
        step_types=["first"],  # not all of the queue's, so that nothing is handed out
        max_in_flight=1,
    )
    await call.write(worker_api.WorkRequest(register=register))
    frame = await call.read()
    assert frame.HasField("registered"), frame
    await _cut(call)


async def bare_watching(channel: grpc.aio.Channel, _name: str) -> None:
    """The same as a watch, with nothing behind it."""
    watch: Any = channel.unary_stream(f"/{bare_server.SERVICE}/Watch")
    call = watch(b"")
    await call.read()
    await _cut(call)


async def bare_working(channel: grpc.aio.Channel, _name: str) -> None:
    """The same as a worker, with nothing behind it."""
    call: Any = channel.stream_stream(f"/{bare_server.SERVICE}/Work")()
    await call.write(b"register")
    await call.read()
    await _cut(call)


async def _cut(call: Any) -> None:
    call.cancel()
    code = await call.code()
    assert code is grpc.StatusCode.CANCELLED, code


# --- rounds --------------------------------------------------------------------------------------


async def run_round(name: str, cycle: Cycle, address: str, pid: int, cycles: int) -> Round:
    """Do a cycle so many times, and look at the server's process in between."""
    samples = []
    for _ in range(SAMPLES):
        async with asyncio.TaskGroup() as group:
            for caller in range(AT_ONCE):
                group.create_task(
                    _call(cycle, address, f"cut-{caller}", cycles // SAMPLES // AT_ONCE)
                )
        samples.append(process_sample(pid))
    await lasts(SETTLE_S)
    samples[-1] = process_sample(pid)
    judged = samples[WARM_UP:]
    verdicts = [
        judge(f"{name}: RSS", [one.rss_bytes for one in judged], MEMORY),
        judge(f"{name}: descriptors", [one.fds for one in judged], HANDLES),
        judge(f"{name}: threads", [one.threads for one in judged], HANDLES),
    ]
    return Round(name=name, cycles=cycles, samples=samples, verdicts=verdicts)


async def _call(cycle: Cycle, address: str, name: str, cycles: int) -> None:
    for start in range(0, cycles, ON_ONE_CHANNEL):
        async with grpc.aio.insecure_channel(address, options=_OWN_CONNECTION) as channel:
            for _ in range(min(ON_ONE_CHANNEL, cycles - start)):
                await cycle(channel, name)


_OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


@asynccontextmanager
async def _bare(cluster: Cluster) -> AsyncGenerator[tuple[str, int], None]:
    child = Child("bare", cluster.folder / "bare.log", cluster.news)
    await child.start([sys.executable, "-m", bare_server.MODULE], env={})
    try:
        line = await child.line("port ")
        yield f"127.0.0.1:{line.split()[1]}", child.pid
    finally:
        await child.kill()
        child.close()


async def _rounds(cluster: Cluster, watches: int, workers: int) -> AsyncGenerator[Round, None]:
    await cluster.start_redis()
    dispatcher = await cluster.start_dispatcher()
    task_id = (await cluster.client().submit("single", {"plan": [{}]})).task_id  # nobody works
    ours = dispatcher.address, dispatcher.child.pid
    yield await run_round("WatchTask", watching(task_id), *ours, watches)
    yield await run_round("worker", working, *ours, workers)
    async with _bare(cluster) as bare:
        yield await run_round("bare watch", bare_watching, *bare, watches)
        yield await run_round("bare worker", bare_working, *bare, workers)


async def main(watches: int, workers: int) -> int:
    """Run all rounds; returns the exit code."""
    rounds: list[Round] = []
    with tempfile.TemporaryDirectory(prefix="stepstream-cycles-") as folder:
        cluster = Cluster(Path(folder))
        try:
            async for one in _rounds(cluster, watches, workers):
                rounds.append(one)
                _tell(one)
        finally:
            await cluster.stop()
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"cycles-{watches}-{workers}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(rounds)))
    _console.print(f"samples: {path.relative_to(ROOT)}")
    return 0 if all(verdict.holds for one in rounds for verdict in one.verdicts) else 1


def _tell(one: Round) -> None:
    memory, *handles = one.verdicts
    words = ", ".join(f"{v.name.split(': ')[1]} {v.first:.0f} -> {v.last:.0f}" for v in handles)
    _console.print(
        f"{'ok  ' if all(v.holds for v in one.verdicts) else 'GREW'} {one.name}: "
        f"{one.cycles} cycles, RSS {memory.first / MIB:.1f} -> {memory.last / MIB:.1f} MiB "
        f"({memory.growth:+.1%}, {one.bytes_each:.0f} bytes each), {words}"
    )


MIB = 1024 * 1024
_console = Console(soft_wrap=True, highlight=False, markup=False)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.soak.cycles", description=__doc__)
    parser.add_argument("--watches", type=int, default=20_000, help="default 20000")
    parser.add_argument("--workers", type=int, default=5_000, help="default 5000")
    given = parser.parse_args()
    sys.exit(asyncio.run(main(given.watches, given.workers)))
