"""One run of chaos: start, hurt, rest, judge."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import redis.asyncio

from stepstream.errors import StepstreamError
from tests.chaos.checker import check
from tests.chaos.effects import idle, judge
from tests.chaos.history import History, Recorder, read_lines, read_runs
from tests.chaos.links import KitLinks
from tests.chaos.load import Callers, Pace, digests, orders
from tests.chaos.nemesis import Nemesis
from tests.chaos.plan import Planned, Size, plan
from tests.chaos.report import Result, result_of, versions
from tests.chaos.storage import audit, read_truth, unsettled
from tests.chaos.takeovers import takeovers
from tests.chaos.world import World, running_world
from tests.support.pace import lasts

__all__ = ["FIRST_FAULT_S", "Setup", "run"]

FIRST_FAULT_S = 4.0  # after the first Submit: there has to be work in flight
TAIL_S = 2.0  # of what is acknowledged before a kill of Redis may go: appendfsync everysec
TELL_EVERY_S = 10.0


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What is run."""

    seed: int
    name: str  # of its result
    pace: Pace
    window_s: float  # of the faults
    size: Size
    slots: int
    rest_s: float  # how long the run may take to come to rest after the last fault
    folder: Path
    command: str


async def run(setup: Setup) -> Result:
    """Run it; what it leaves is in its folder."""
    began = time.monotonic()
    started = datetime.now(UTC).isoformat(timespec="seconds")

    def say(words: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {words}", flush=True)  # noqa: T201

    faults = plan(setup.seed, setup.window_s, setup.size)
    say(f"seed {setup.seed}: {len(faults)} faults in {setup.window_s:g} s")
    say("\n" + "\n".join(map(str, faults)))
    setup.folder.mkdir(parents=True, exist_ok=True)
    recorder = Recorder(setup.folder / "history.jsonl")
    links = await KitLinks(setup.folder).start()
    world = World(setup.folder, links, setup.size, slots=setup.slots)
    async with running_world(world):
        say(f"{setup.size.workers} workers at {setup.size.dispatchers} dispatchers are ready")
        callers = Callers(world, recorder, setup.seed)
        crashes = await _hurt(setup, world, callers, recorder, faults, say)
        async with asyncio.TaskGroup() as group:
            reviewing = group.create_task(callers.review_again())
            await _rest(world, callers.accepted, setup.rest_s, say)
            reviewing.cancel()
        recorder.close()
        history = await _history(setup, world)
        async with _bytes(world) as connection:
            history.truth, counted = await read_truth(connection)
            found = await audit(connection, counted)
            info = await connection.info("server")
        await _add_outputs(world, history)
    verdict = check(history)
    taken = takeovers(history)
    judge(history, taken)
    return result_of(
        history,
        verdict,
        taken,
        audit=found,
        idle=idle(history, verdict, taken),
        about={
            "seed": setup.seed,
            "crashes": crashes,
            "seconds": round(time.monotonic() - began, 1),
            "started": started,
            "versions": versions(info),
            "settings": _settings(setup),
            "command": setup.command,
        },
    )


def _settings(setup: Setup) -> dict[str, str]:
    return {
        "workers": str(setup.size.workers),
        "slots": str(setup.slots),
        "dispatchers": str(setup.size.dispatchers),
        "longest step": f"{setup.pace.step_s:g} s",
        "appendfsync": "everysec",
    }


async def _hurt(
    setup: Setup,
    world: World,
    callers: Callers,
    recorder: Recorder,
    faults: list[Planned],
    say: Any,
) -> list[str]:
    """Load and harm; returns what ended by itself."""
    nemesis = Nemesis(world, recorder, say)
    over, healed = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        given = orders(setup.seed, setup.pace)
        await callers.run(given, at_least=setup.pace.tasks, over=healed)

    async def harm() -> None:
        await lasts(FIRST_FAULT_S)
        try:
            await nemesis.run(faults)
        finally:
            healed.set()

    async def tell() -> None:
        while not over.is_set():
            await lasts(TELL_EVERY_S)
            answers = ", ".join(f"{name} {count}" for name, count in callers.answers.items())
            say(f"submits: {answers}; waiting {callers.waiting}; faults over: {nemesis.ended}")

    async with asyncio.TaskGroup() as group:
        beside = [group.create_task(tell()), group.create_task(callers.look_around())]
        working, harming = group.create_task(work()), group.create_task(harm())
        await asyncio.wait([harming])
        await asyncio.wait([working], timeout=setup.rest_s)
        if working.cancel():
            say(f"callers gave up after {setup.rest_s:g} s: waiting {callers.waiting}")
        over.set()
        for task in beside:
            task.cancel()
    harming.result()
    if not working.cancelled():
        working.result()
    say(f"modes {callers.modes}, errors {callers.errors}")
    return nemesis.crashes + world.crashed()


async def _rest(world: World, accepted: set[str], limit_s: float, say: Any) -> None:
    """Waits until nothing is left to do; what never comes to rest shows in the verdict.

    A task of a fallback that still runs is in a journal, where Redis does not know of it.
    """
    until = time.monotonic() + limit_s
    async with _bytes(world) as connection:
        while time.monotonic() < until:
            left = await unsettled(connection, accepted)
            if not left:
                say("at rest")
                return
            await lasts(0.5)
    say(f"NOT AT REST after {limit_s:g} s: {left}")


class _bytes:  # noqa: N801 - used like a function
    """A connection to the server that answers bytes."""

    def __init__(self, world: World) -> None:
        self._connection: Any = redis.asyncio.Redis.from_url(world.cluster.redis_url)

    async def __aenter__(self) -> Any:
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        await self._connection.aclose()


async def _history(setup: Setup, world: World) -> History:
    history = read_lines(setup.folder / "history.jsonl")
    history.sessions += world.sessions()
    history.runs = read_runs(world.cluster.journal.path)
    history.volatile_s = TAIL_S
    history.dropped = {
        line["task_id"]
        for lines in world.logged("task imported").values()
        for line in lines
        if line["result"] == "dropped"
    }
    return history


async def _add_outputs(world: World, history: History) -> None:
    """Reads again what somebody saw finished."""
    client = world.client()
    for task in {sighting.task for sighting in history.sightings} & set(history.truth):
        try:
            found = await client.get(task)
        except StepstreamError:
            continue  # then the sighting differs from the truth, and says so
        truth = history.truth[task]
        outputs = digests(dict(found.outputs))
        history.truth[task] = msgspec.structs.replace(truth, outputs=outputs)
