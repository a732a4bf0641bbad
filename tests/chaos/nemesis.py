"""Carries out a plan of faults, and writes down what each was seen to do.

A fault is a function that begins it, lets it last, and mends it; it answers with the words of its
effect at once where that can be seen at once. What shows only in the histories is judged at the
end, in `effects.py`.
"""

from __future__ import annotations

import asyncio
import resource
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from tests.chaos.history import Fault, Recorder, now
from tests.chaos.plan import Planned
from tests.chaos.world import World
from tests.support.child import Child
from tests.support.pace import lasts

__all__ = ["Nemesis"]

SLOW_S = 0.15  # of each chunk on a slow link
SLOW_BYTES_A_SECOND = 100_000
CUT_TRIES = 100  # a tenth of a second apart
TRIES = 50  # looks at whether somebody has felt a fault: all dispatchers may be away just now
LOOK_S = 0.1
STARTS_MAX = 20  # of one process that does not stay
DRAIN_LIMIT_S = 40.0  # that a process may take to leave; its grace is 30 s

Act = Callable[["Nemesis", Planned], Awaitable[str]]


class Nemesis:
    """All faults of one run.

    Args:
        world: What is hurt.
        recorder: Told of each fault when it is over.
        say: Told of each begin and end, for a person.
    """

    def __init__(self, world: World, recorder: Recorder, say: Callable[[str], None]) -> None:
        self.world, self._recorder, self._say = world, recorder, say
        self._busy: dict[str, asyncio.Lock] = {}
        self.begun = self.ended = 0
        self.crashes: list[str] = []  # processes that ended by themselves

    async def run(self, planned: Sequence[Planned]) -> None:
        """Carry out all faults at their times; returns when everything is mended."""
        start_mono = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for fault in planned:
                await lasts(max(start_mono + fault.start_s - time.monotonic(), 0.0))
                group.create_task(self._carry_out(fault))

    async def _carry_out(self, planned: Planned) -> None:
        kind = _ACTS[planned.kind]
        names = self.world.dispatchers if planned.target == "dispatchers" else [planned.target]
        for name in sorted(names):  # what is being restarted is waited for
            await self._lock(name).acquire()
        try:
            self._say(f"begins  {planned.kind} {planned.target} {planned.detail}".rstrip())
            self.begun += 1
            fault = Fault(
                kind=planned.kind,
                target=planned.target,
                began=now(),
                ended=0.0,
                paths=kind.paths(self.world, planned),
                of=kind.of(planned),
            )
            fault.effect = await kind.act(self, planned)
            fault.ended = now()
        finally:
            for name in names:
                self._lock(name).release()
        self._recorder.add(fault)
        self.ended += 1
        self._say(f"is over {planned.kind} {planned.target}: {fault.effect or 'see the history'}")

    def _lock(self, name: str) -> asyncio.Lock:
        return self._busy.setdefault(name, asyncio.Lock())

    # --- processes -------------------------------------------------------------------------------

    async def kill(self, planned: Planned) -> str:
        """SIGKILL, and another start after a while."""
        name = planned.target
        to_it = [f"link:{one}:{name}" for one in ("client", *self.world.workers)]
        carried = await self._counted(to_it, "carried") if name in self.world.dispatchers else 0
        await self.world.process(name).kill()
        await lasts(planned.lasts_s)
        await self._start(name)
        return f"{carried} connections died with it" if carried else ""

    async def kill_redis(self, planned: Planned) -> str:
        async with self.world.redis() as connection:
            before = (await connection.info("server"))["run_id"]
        await self.world.process("redis").kill()
        await lasts(planned.lasts_s)
        await self.world.cluster.start_redis()
        async with self.world.redis() as connection:
            after = await connection.info()
        return f"another run with {after['db0']['keys']} keys" if after["run_id"] != before else ""

    async def kill_all_dispatchers(self, planned: Planned) -> str:
        async with asyncio.TaskGroup() as group:
            for name in self.world.dispatchers:
                group.create_task(self.world.process(name).kill())
        await lasts(planned.lasts_s)
        async with asyncio.TaskGroup() as group:
            for name in self.world.dispatchers:
                group.create_task(self._start(name))
        return ""

    async def drain(self, planned: Planned) -> str:
        """SIGTERM, and another start after it has left."""
        child = self.world.process(planned.target)
        child.tell(signal.SIGTERM)
        try:
            code = await child.ended(timeout_s=DRAIN_LIMIT_S)
        except AssertionError:
            self.crashes.append(f"{planned.target} does not leave in {DRAIN_LIMIT_S:g} s")
            self._say(f"{self.crashes[-1]}:\n{child.tail()}")
            await child.kill()
            code = 1
        await lasts(planned.lasts_s)
        await self._start(planned.target)
        return f"left with {code}"

    async def freeze(self, planned: Planned) -> str:
        """SIGSTOP, and SIGCONT after a while."""
        child = self.world.process(planned.target)
        child.tell(signal.SIGSTOP)
        try:
            await lasts(planned.lasts_s)
            stopped = _state_of(child) == "T"
        finally:
            child.tell(signal.SIGCONT)
        if planned.kind in {"pause-worker", "stop-redis"}:
            return "it stood still" if stopped else ""
        return ""  # more has to follow from a long one

    async def _start(self, name: str) -> None:
        start = (
            self.world.start_worker if name in self.world.workers else self.world.start_dispatcher
        )
        for _ in range(STARTS_MAX):
            try:
                return await start(name)
            except AssertionError:
                child = self.world.process(name)
                if child.exit_code is None:
                    return None  # not ready in time, beside other faults: it goes on trying
                self.crashes.append(f"{name} ended with {child.exit_code} while it started")
                self._say(f"{self.crashes[-1]}:\n{child.tail()}")
                await lasts(1.0)  # as a supervisor would
        raise RuntimeError(f"{name} does not start")

    # --- links -----------------------------------------------------------------------------------

    def _links_of(self, planned: Planned) -> list[str]:
        if planned.kind.endswith("-redis"):
            return [f"link:{planned.target}:redis"]
        if planned.kind.endswith("-client"):
            return [f"link:client:{planned.target}"]
        return [f"link:{planned.target}:{one}" for one in self.world.dispatchers]

    async def cut(self, planned: Planned) -> str:
        """As soon as there is something to cut: what is starting may have no connection yet."""
        for _ in range(CUT_TRIES):
            count = sum([await self.world.links.cut(link) for link in self._links_of(planned)])
            if count:
                return f"{count} connections reset"
            await lasts(0.1)
        return ""

    async def half_cut(self, planned: Planned) -> str:
        directions = {"up", "down"} if planned.detail == "both" else {planned.detail}
        links = self._links_of(planned)
        before = await self._counted(links, "held")
        for link in links:
            await self.world.links.hold(link, directions)
        await lasts(planned.lasts_s)
        held = await self._counted(links, "held") - before
        for link in links:
            await self.world.links.heal(link)
        return f"{held} messages held" if held else ""

    async def slow(self, planned: Planned) -> str:
        links = self._links_of(planned)
        before = await self._counted(links, "slowed")
        for link in links:
            await self.world.links.slow(link, delay_s=SLOW_S, bytes_a_second=SLOW_BYTES_A_SECOND)
        await lasts(planned.lasts_s)
        slowed = await self._counted(links, "slowed") - before
        for link in links:
            await self.world.links.heal(link)
        return f"{slowed} messages delayed" if slowed else ""

    async def _counted(self, links: Sequence[str], name: str) -> int:
        return sum([(await self.world.links.counts(link))[name] for link in links])

    # --- what a server of Redis can do -----------------------------------------------------------

    async def script_flush(self, planned: Planned) -> str:
        before = await self._errors("NOSCRIPT")
        async with self.world.redis() as connection:
            await connection.script_flush()
        found = await self._errors_after("NOSCRIPT", before)
        return f"{found} NOSCRIPT" if found else ""

    async def client_kill(self, planned: Planned) -> str:
        kind = planned.kind.rpartition("-")[2]
        count = 0
        async with self.world.redis() as connection:
            for _ in range(TRIES):
                count = await connection.client_kill_filter(_type=kind, skipme=True)
                if count:
                    break
                await lasts(LOOK_S)
        return f"{count} connections killed" if count else ""

    async def maxmemory(self, planned: Planned) -> str:
        before = await self._errors("OOM")
        async with self.world.redis() as connection:
            await connection.config_set("maxmemory", 1_000_000)  # less than an empty server has
            try:
                await lasts(planned.lasts_s)
                await self._errors_after("OOM", before)
            finally:
                await connection.config_set("maxmemory", 0)
        refused = await self._errors("OOM") - before
        return f"{refused} OOM" if refused else ""

    async def full_disk(self, planned: Planned) -> str:
        """No file of the server may grow: what a full disk is to it. It answers MISCONF."""
        before = await self._errors("MISCONF")
        child = self.world.process("redis")
        size = max(path.stat().st_size for path in _append_only_files(self.world))
        unlimited = resource.prlimit(child.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (size, unlimited[1]))
        try:
            await lasts(planned.lasts_s)
            await self._errors_after("MISCONF", before)
        finally:
            resource.prlimit(child.pid, resource.RLIMIT_FSIZE, unlimited)
        refused = await self._errors("MISCONF") - before
        async with asyncio.timeout(10), self.world.redis() as connection:
            while (await connection.info("persistence"))["aof_last_write_status"] != "ok":
                await lasts(0.05)
        return f"{refused} MISCONF" if refused else ""

    async def _errors(self, word: str) -> int:
        """Errors of a kind that the server has answered since it started."""
        async with self.world.redis() as connection:
            told: dict[str, Any] = await connection.info("errorstats")
        return int(told.get(f"errorstat_{word}", {}).get("count", 0))

    async def _errors_after(self, word: str, before: int) -> int:
        """How many errors of a kind come within seconds."""
        for _ in range(TRIES):
            found = await self._errors(word) - before
            if found:
                return found
            await lasts(LOOK_S)
        return 0


def _state_of(child: Child) -> str:
    """The kernel's word for what a process does: T when it is stopped (Linux)."""
    stat = Path(f"/proc/{child.pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0]


def _append_only_files(world: World) -> list[Path]:
    return sorted((world.cluster.folder / "redis" / "appendonlydir").glob("*.incr.aof"))


class _Kind:
    """What a kind does, what it stands in the way of, and which takeovers follow."""

    def __init__(self, act: Act, path: str, of: str = "") -> None:
        self.act, self._path, self._of = act, path, of

    def paths(self, world: World, planned: Planned) -> list[str]:
        if planned.target == "dispatchers":
            return [f"dispatcher:{name}" for name in world.dispatchers]
        if self._path == "worker-links":
            return [f"link:{planned.target}:{name}" for name in world.dispatchers]
        return [self._path.format(planned.target)]

    def of(self, planned: Planned) -> str:
        # A worker that is heard and hears nothing is not silent: it gives back by itself.
        return "" if planned.detail == "down" else self._of


_WORKER, _DISPATCHER = "worker:{}", "dispatcher:{}"
_TO_REDIS, _TO_CLIENT, _TO_WORKER = "link:{}:redis", "link:client:{}", "worker-links"

_ACTS: dict[str, _Kind] = {
    "kill-worker": _Kind(Nemesis.kill, _WORKER, "stream"),
    "drain-worker": _Kind(Nemesis.drain, _WORKER),
    "pause-worker": _Kind(Nemesis.freeze, _WORKER),
    "freeze-worker": _Kind(Nemesis.freeze, _WORKER, "frozen"),
    "half-cut-worker": _Kind(Nemesis.half_cut, _TO_WORKER, "frozen"),
    "cut-worker": _Kind(Nemesis.cut, _TO_WORKER),
    "slow-worker": _Kind(Nemesis.slow, _TO_WORKER),
    "kill-dispatcher": _Kind(Nemesis.kill, _DISPATCHER, "dispatcher"),
    "freeze-dispatcher": _Kind(Nemesis.freeze, _DISPATCHER, "dispatcher"),
    "drain-dispatcher": _Kind(Nemesis.drain, _DISPATCHER),
    "kill-all-dispatchers": _Kind(Nemesis.kill_all_dispatchers, _DISPATCHER, "dispatcher"),
    "kill-redis": _Kind(Nemesis.kill_redis, "redis"),
    "stop-redis": _Kind(Nemesis.freeze, "redis"),
    "script-flush": _Kind(Nemesis.script_flush, "nothing"),
    "client-kill-normal": _Kind(Nemesis.client_kill, "redis"),
    "client-kill-pubsub": _Kind(Nemesis.client_kill, "nothing"),
    "maxmemory": _Kind(Nemesis.maxmemory, "nothing"),
    "full-disk": _Kind(Nemesis.full_disk, "redis"),
    "cut-redis": _Kind(Nemesis.cut, _TO_REDIS),
    "half-cut-redis": _Kind(Nemesis.half_cut, _TO_REDIS),
    "slow-redis": _Kind(Nemesis.slow, _TO_REDIS),
    "cut-client": _Kind(Nemesis.cut, _TO_CLIENT),
    "half-cut-client": _Kind(Nemesis.half_cut, _TO_CLIENT),
    "slow-client": _Kind(Nemesis.slow, _TO_CLIENT),
}
