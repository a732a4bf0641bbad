"""`make soak MINUTES=n`: steady load on real processes; does anything grow?

A Valkey, a dispatcher and two workers. Every 5 s their memory, descriptors and threads, the keys
and the lanes are read. What was held early and what was held late are compared; at the end the load
stops, and everything that was kept of its tasks has to go. Exits with 1 if a bound is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

import msgspec
import redis.asyncio
from rich.console import Console

from bench.system import PIPELINES
from tests.soak.load import SteadyLoad
from tests.soak.sampling import ProcessSample, ServerSample, process_sample, server_sample
from tests.soak.verdict import Bound, Verdict, judge
from tests.support.cluster import Cluster
from tests.support.pace import lasts
from tests.support.tree import ROOT

RESULTS = ROOT / ".stepstream" / "soak"
SAMPLE_EVERY_S = 5.0
RESULT_TTL_S = 60
WARM_UP_S = 180.0  # three times the life of a result: pools, caches and arenas have their size
WARM_UP_SHARE = 2 / 3  # of a run that is too short for that
MINUTES_MIN = 2.0  # less leaves too few samples behind the warm-up
WORKERS = ("w-0", "w-1")
WORKER = (sys.executable, "-m", "bench.worker")
SLOTS = 16
LANES = ["task:stream", "task:stream:bench"]
MIB = 1024 * 1024

MEMORY = Bound(share=0.05)
HANDLES = Bound(amount=2)  # a connection that is being replaced
KEYS = Bound(share=0.05, amount=100)
ENTRIES = Bound(amount=50)  # the lanes hold what is in work, and the moment decides how much

# What a Redis keeps besides tasks, and why it is not a leak. Of every other key nothing may remain.
LASTING = {
    "task:count": "tasks by state, zeros once all are gone",
    "task:minute:": "attempts of one minute, gone three minutes later",
    "task:dispatchers": "who is alive",
    "task:swept": "there while no sweep of the reconciler is due",
    "task:workers": "workers and when they were saved",
    "task:worker:": "counters of one worker",
    "task:pipelines": "definitions by version",
    "task:stream": "a lane with its consumer group, empty",
}


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """Everything at one moment."""

    at_s: float  # since the load began
    accepted: int
    server: ServerSample
    processes: dict[str, ProcessSample]


class Soak:
    """One run."""

    def __init__(self, cluster: Cluster, console: Console, *, minutes: float, rate: int) -> None:
        self._cluster = cluster
        self._console = console
        self._length_s = minutes * 60
        self._rate = rate
        self._samples: list[Sample] = []

    async def run(self) -> bool:
        """Run; returns whether all bounds hold."""
        cluster = self._cluster
        await cluster.start_redis()
        await cluster.start_dispatcher(
            STEPSTREAM_RESULT_TTL=str(RESULT_TTL_S), STEPSTREAM_PIPELINES=str(PIPELINES)
        )
        for name in WORKERS:
            await cluster.start_worker(name, slots=SLOTS, argv=WORKER)
        async with cluster.redis() as server:
            load = SteadyLoad(cluster.client(), rate=self._rate)
            async with asyncio.TaskGroup() as group:
                group.create_task(load.run())
                await self._watch(server, load)
                load.stopping.set()
            left = await self._drained(server)
        verdicts = self._verdicts()
        self._tell(verdicts, left, load)
        self._keep(verdicts, left, load)
        return not left and not load.refused and all(one.holds for one in verdicts)

    async def _watch(self, server: redis.asyncio.Redis, load: SteadyLoad) -> None:
        began = monotonic()
        self._console.print(_HEAD)
        while (passed_s := monotonic() - began) < self._length_s:
            await lasts(SAMPLE_EVERY_S - passed_s % SAMPLE_EVERY_S)
            sample = await self._sample(server, monotonic() - began, load.accepted)
            self._samples.append(sample)
            self._console.print(_row(sample))

    async def _sample(self, server: redis.asyncio.Redis, at_s: float, accepted: int) -> Sample:
        redis_process = self._cluster.redis_process
        assert redis_process is not None
        pids = {
            "dispatcher": self._cluster.dispatchers["d-0"].child.pid,
            **{name: self._cluster.workers[name].pid for name in WORKERS},
            "redis": redis_process.pid,
        }
        return Sample(
            at_s=at_s,
            accepted=accepted,
            server=await server_sample(server, LANES),
            processes={name: process_sample(pid) for name, pid in pids.items()},
        )

    async def _drained(self, server: redis.asyncio.Redis) -> list[str]:
        """Wait until what was kept of tasks is gone; returns the keys that stay and should not."""
        left: list[str] = []
        for _ in range(int((2 * RESULT_TTL_S) / SAMPLE_EVERY_S)):
            await lasts(SAMPLE_EVERY_S)
            keys = sorted([str(key) async for key in server.scan_iter(count=1000)])
            left = [key for key in keys if not key.startswith(tuple(LASTING))]
            entries = (await server_sample(server, LANES)).entries
            left += [f"{entries} entries in the lanes"] * bool(entries)
            if not left:
                self._console.print(f"left in Redis: {', '.join(keys)}")
                break
        return left

    # --- what came of it -------------------------------------------------------------------------

    def _verdicts(self) -> list[Verdict]:
        warm_s = min(WARM_UP_S, self._length_s * WARM_UP_SHARE)
        warm = [one for one in self._samples if one.at_s >= warm_s]
        of_server = (
            ("redis used_memory", [one.server.used_bytes for one in warm], MEMORY),
            ("keys", [one.server.keys for one in warm], KEYS),
            ("XLEN", [one.server.entries for one in warm], ENTRIES),
        )
        verdicts = [judge(name, figures, bound) for name, figures, bound in of_server]
        for name in warm[0].processes:
            held = [one.processes[name] for one in warm]
            verdicts += [
                judge(f"{name} RSS", [one.rss_bytes for one in held], MEMORY),
                judge(f"{name} descriptors", [one.fds for one in held], HANDLES),
                judge(f"{name} threads", [one.threads for one in held], HANDLES),
            ]
        return verdicts

    def _tell(self, verdicts: Sequence[Verdict], left: list[str], load: SteadyLoad) -> None:
        self._console.print(
            f"{load.accepted} tasks accepted, {load.watched} watched to their end, "
            f"refused: {dict(load.refused) or 'none'}"
        )
        for one in verdicts:
            word = "ok  " if one.holds else "GREW"
            self._console.print(
                f"{word} {one.name:24} {_shown(one.name, one.first):>12} -> "
                f"{_shown(one.name, one.last):>12}  {one.growth:+.1%}"
            )
        self._console.print(f"keys that should be gone: {', '.join(left[:10]) or 'none'}")

    def _keep(self, verdicts: Sequence[Verdict], left: list[str], load: SteadyLoad) -> None:
        RESULTS.mkdir(parents=True, exist_ok=True)
        path = RESULTS / f"soak-{self._length_s / 60:g}-minutes.json"
        told = {
            "minutes": self._length_s / 60,
            "rate": self._rate,
            "accepted": load.accepted,
            "watched": load.watched,
            "refused": dict(load.refused),
            "left": left,
            "verdicts": verdicts,
            "samples": self._samples,
        }
        path.write_bytes(msgspec.json.format(msgspec.json.encode(told)))
        self._console.print(f"samples: {path.relative_to(ROOT)}")


_HEAD = (
    f"{'time':>6} {'tasks':>9} {'live':>6} {'XLEN':>5} {'keys':>7} {'used':>7} {'redis':>7} "
    f"{'dispatcher':>16} {'w-0':>14} {'w-1':>14}   (MiB; MiB/fds/threads)"
)


def _row(sample: Sample) -> str:
    held = sample.processes
    processes = {
        name: f"{one.rss_bytes / MIB:.1f}/{one.fds}/{one.threads}" for name, one in held.items()
    }
    return (
        f"{sample.at_s:6.0f} {sample.accepted:9} {sample.server.live:6} "
        f"{sample.server.entries:5} {sample.server.keys:7} "
        f"{sample.server.used_bytes / MIB:7.1f} {held['redis'].rss_bytes / MIB:7.1f} "
        f"{processes['dispatcher']:>16} {processes['w-0']:>14} {processes['w-1']:>14}"
    )


def _shown(name: str, figure: float) -> str:
    bytes_meant = name.endswith(("RSS", "memory"))
    return f"{figure / MIB:.1f} MiB" if bytes_meant else f"{figure:,.0f}"


async def main(minutes: float, rate: int) -> int:
    """Run one soak; returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="stepstream-soak-") as folder:
        cluster = Cluster(Path(folder))
        try:
            holds = await Soak(cluster, _console, minutes=minutes, rate=rate).run()
        finally:
            await cluster.stop()
    return 0 if holds else 1


_console = Console(soft_wrap=True, highlight=False, markup=False)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="of load; default 30")
    parser.add_argument("--rate", type=int, default=200, help="tasks each second; default 200")
    given = parser.parse_args()
    if given.minutes < MINUTES_MIN:
        parser.error(f"--minutes must be at least {MINUTES_MIN:g}")
    sys.exit(asyncio.run(main(given.minutes, given.rate)))
