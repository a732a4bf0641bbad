"""Section `latency`: from submit to the handler's start, and how long reads take."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from bench.figures import Figure, Measured, percentile
from bench.load import BATCH, SUBMITTERS
from bench.sections import Round
from bench.stage import Options, Stage, staged
from bench.timed_worker import BEGUN, SUBMITTED
from stepstream import SubmitItem

__all__ = ["FIGURES", "RATIOS", "opened"]

WORKERS: Final = 2
CALM_PER_S: Final = 50
CALM_S: Final = 4.0
HALF_S: Final = 2.0
TICK_S: Final = 0.005  # between two batches at half load
FLOOD: Final = 4_000  # tasks that measure the full rate
PRESENT: Final = 10_000  # tasks there while reads are timed; 100,000 with --full
PRESENT_FULL: Final = 100_000
READS: Final = 200
LIMIT_S: Final = 60.0

_START: Final = (
    "from the call of submit to the first line of the handler in another process, both by the "
    "host's monotonic clock"
)
_READ: Final = "one call after another by the SDK, with 10,000 tasks queued (100,000 with --full)"

FIGURES: Final = (
    Figure(name="latency.calm_p50", unit="ms", explains=f"50 tasks/s; {_START}", aim="≤ 2.5"),
    Figure(name="latency.calm_p99", unit="ms", explains=f"50 tasks/s; {_START}", aim="≤ 6"),
    Figure(
        name="latency.full_rate",
        unit="tasks/s",
        explains="single steps that send the time of their start; first submit to last start",
    ),
    Figure(
        name="latency.half_p50",
        unit="ms",
        explains=f"a batch every 5 ms at half of the round's latency.full_rate; {_START}",
    ),
    Figure(
        name="latency.half_p99",
        unit="ms",
        explains=f"a batch every 5 ms at half of the round's latency.full_rate; {_START}",
        aim="≤ 25",
    ),
    Figure(name="latency.stats_p50", unit="ms", explains=f"GetStats: {_READ}"),
    Figure(name="latency.stats_p99", unit="ms", explains=f"GetStats: {_READ}", aim="≤ 20"),
    Figure(name="latency.list_p50", unit="ms", explains=f"ListTasks, pages of 100: {_READ}"),
    Figure(
        name="latency.list_p99", unit="ms", explains=f"ListTasks, pages of 100: {_READ}", aim="≤ 20"
    ),
)

RATIOS: Final = ()


class Starts:
    """Hears when handlers have begun.

    Args:
        path: Of the unix socket that the worker connects to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.waits_ms: list[float] = []
        self._wanted = 0
        self._enough = asyncio.Event()

    def input(self) -> bytes:
        """Input of a task that is submitted now."""
        return SUBMITTED.pack(time.monotonic_ns()) + bytes(self.path)

    async def collected(self, amount: int) -> list[float]:
        """Milliseconds from submit to start of so many tasks, once all have begun."""
        self._wanted = amount
        self._look()
        async with asyncio.timeout(LIMIT_S):
            await self._enough.wait()
        waits_ms, self.waits_ms, self._wanted = self.waits_ms, [], 0
        self._enough.clear()
        return waits_ms

    async def hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read from one worker until it leaves."""
        rest = b""
        while part := await reader.read(BEGUN.size * 4096):
            read = rest + part
            whole = len(read) - len(read) % BEGUN.size
            rest = read[whole:]
            times = BEGUN.iter_unpack(read[:whole])
            self.waits_ms += [(begun - submitted) / 1e6 for submitted, begun in times]
            self._look()
        writer.close()

    def _look(self) -> None:
        if 0 < self._wanted <= len(self.waits_ms):
            self._enough.set()


@asynccontextmanager
async def opened(options: Options, measured: Measured) -> AsyncIterator[Mapping[str, Round]]:
    """Run a system whose workers say when they begin, with tasks queued that nobody serves."""
    with tempfile.TemporaryDirectory(prefix="stepstream-") as folder:
        starts = Starts(Path(folder) / "starts")
        async with (
            await asyncio.start_unix_server(starts.hear, starts.path),
            staged(workers=WORKERS, module="bench.timed_worker") as stage,
        ):
            await stage.submit("parked", options.amount(PRESENT_FULL if options.full else PRESENT))
            yield {"latency": lambda: _latency(options, measured, stage, starts)}


async def _latency(options: Options, measured: Measured, stage: Stage, starts: Starts) -> None:
    _add(measured, "calm", await _calm(stage, starts, options.seconds(CALM_S)))
    rate = await _flood(stage, starts, options.amount(FLOOD))
    measured.add("latency.full_rate", rate)
    _add(measured, "half", await _steady(stage, starts, rate / 2, options.seconds(HALF_S)))
    reads = options.amount(READS)
    _add(measured, "stats", await _timed_reads(stage.client.stats, reads))
    _add(measured, "list", await _timed_reads(stage.client.list, reads))


def _add(measured: Measured, name: str, samples_ms: list[float]) -> None:
    measured.add(f"latency.{name}_p50", percentile(samples_ms, 0.50))
    measured.add(f"latency.{name}_p99", percentile(samples_ms, 0.99))


async def _calm(stage: Stage, starts: Starts, seconds: float) -> list[float]:
    """Single submits at a fixed rate, whatever has become of those before."""
    amount = int(CALM_PER_S * seconds)

    async def submit() -> None:
        await stage.client.submit("stamp", starts.input())

    async with asyncio.TaskGroup() as group:
        async for _ in _ticks(1 / CALM_PER_S, amount):
            group.create_task(submit())
    return await starts.collected(amount)


async def _flood(stage: Stage, starts: Starts, amount: int) -> float:
    """Tasks a second when as many as possible are submitted."""
    sizes = iter([min(BATCH, amount - start) for start in range(0, amount, BATCH)])

    async def submitter() -> None:
        for size in sizes:
            await _submit(stage, starts, size)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(SUBMITTERS):
            group.create_task(submitter())
    await starts.collected(amount)
    return amount / (time.perf_counter() - began)


async def _steady(stage: Stage, starts: Starts, per_s: float, seconds: float) -> list[float]:
    """Batches at a fixed rate, whatever has become of those before."""
    sent = 0
    async with asyncio.TaskGroup() as group:
        began = time.perf_counter()
        async for _ in _ticks(TICK_S, int(seconds / TICK_S)):
            due = int((time.perf_counter() - began) * per_s) - sent
            if due > 0:
                sent += due
                group.create_task(_submit(stage, starts, due))
    return await starts.collected(sent)


async def _submit(stage: Stage, starts: Starts, amount: int) -> None:
    items = [SubmitItem(pipeline="stamp", input=starts.input()) for _ in range(amount)]
    for answer in await stage.client.submit_batch(items):
        if isinstance(answer, Exception):
            raise answer


async def _ticks(interval_s: float, amount: int) -> AsyncIterator[int]:
    began = time.perf_counter()
    for number in range(amount):
        await asyncio.sleep(max(began + number * interval_s - time.perf_counter(), 0))
        yield number


async def _timed_reads(read: Callable[[], Awaitable[Any]], amount: int) -> list[float]:
    samples_ms = []
    for _ in range(amount):
        began = time.perf_counter()
        await read()
        samples_ms.append((time.perf_counter() - began) * 1e3)
    return samples_ms
