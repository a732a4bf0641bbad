"""What tracing costs: no-op tasks a second and CPU per task, without it, sampled out, and with it.

The three ways take turns within one run, each time with a system of its own, so that what else
happens on the machine happens to all of them. The collector throws away what it is sent.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import msgspec
from rich.console import Console
from rich.table import Table

from bench.load import BATCH, SUBMITTERS
from bench.system import System
from stepstream import AsyncClient
from stepstream.types import SubmitItem

ROUNDS: Final = 5
TASKS: Final = 10_000
LOOK_S: Final = 0.02
START_LIMIT_S: Final = 30
EXPORT: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


class Figures(msgspec.Struct, frozen=True):
    """One turn."""

    tasks_per_s: float
    cpu_us: float  # of dispatcher, workers and Valkey together, for each task


def main() -> None:
    """Measure and print."""
    with _collector() as endpoint:
        ways: dict[str, Mapping[str, str]] = {
            "off": {},
            "every trace sampled out": {
                "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
                "OTEL_TRACES_SAMPLER": "always_off",
            },
            "on": {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint},
        }
        turns: dict[str, list[Figures]] = {way: [] for way in ways}
        for turn in range(ROUNDS):
            order = list(ways) if turn % 2 else list(reversed(ways))
            for way in order:
                turns[way].append(_measured(ways[way]))
    _print(turns)


def _print(turns: Mapping[str, list[Figures]]) -> None:
    title = f"tracing, medians of {ROUNDS} turns of {TASKS:,} no-op tasks"
    table = Table("tracing", "tasks/s", "of off", "CPU per task", "more than off", title=title)
    off = _medians(turns["off"])
    for way, figures in turns.items():
        here = _medians(figures)
        table.add_row(
            way,
            f"{here.tasks_per_s:,.0f}",
            f"{here.tasks_per_s / off.tasks_per_s:.2f}",
            f"{here.cpu_us:,.0f} us",
            f"{here.cpu_us - off.cpu_us:+,.0f} us",
        )
    Console().print(table)


def _medians(figures: list[Figures]) -> Figures:
    return Figures(
        statistics.median(one.tasks_per_s for one in figures),
        statistics.median(one.cpu_us for one in figures),
    )


def _measured(environment: Mapping[str, str]) -> Figures:
    os.environ.update(environment)
    try:
        with System() as system:
            return asyncio.run(_turn(system))
    finally:
        for name in environment:
            del os.environ[name]


async def _turn(system: System) -> Figures:
    async with AsyncClient(system.address, timeout_s=60.0) as client:
        async with asyncio.timeout(START_LIMIT_S):
            await client.stats()
        async with system.workers(client, 2, 256):
            await _timed(client, TASKS // 10)  # what happens once is over by then
            cpu_s = _cpu_s()
            took_s = await _timed(client, TASKS)
            cpu_s = _cpu_s() - cpu_s
    return Figures(TASKS / took_s, cpu_s / TASKS * 1e6)


async def _timed(client: AsyncClient, amount: int) -> float:
    before = (await client.stats()).states.get("done")
    wanted = amount + (before.depth if before else 0)
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(SUBMITTERS):
            group.create_task(_submit(client, amount // SUBMITTERS))
        while (await _done(client)) < wanted:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)
    return time.perf_counter() - began


async def _submit(client: AsyncClient, amount: int) -> None:
    while amount > 0:
        items = [SubmitItem(pipeline="noop", input=b"x") for _ in range(min(BATCH, amount))]
        await client.submit_batch(items)
        amount -= len(items)


async def _done(client: AsyncClient) -> int:
    state = (await client.stats()).states.get("done")
    return state.depth if state else 0


def _cpu_s() -> float:
    """CPU time of our children and theirs, by now."""
    ticks = 0
    for pid in _children(os.getpid()):
        fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _children(pid: int) -> Iterator[int]:
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text("ascii").split():
            yield int(child)
            yield from _children(int(child))


@contextmanager
def _collector() -> Iterator[str]:
    """A collector that throws away what it is sent, unread."""

    class Handler(grpc.GenericRpcHandler):
        def service(self, handler_call_details: Any) -> Any:
            if handler_call_details.method != EXPORT:
                return None
            return grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"")

    server = grpc.server(ThreadPoolExecutor(4), handlers=[Handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop(0)


if __name__ == "__main__":
    main()
