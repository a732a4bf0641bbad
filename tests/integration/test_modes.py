"""The API does not change with how tasks are run: same documents, same answers, same histories.

Nor with the door: HTTP, gRPC and the command line say the same of a task.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest

from stepstream.cli.samples import load_documents
from stepstream.types import Submitted, Task, TaskEvent
from tests.support.cluster import Cluster, running_cluster
from tests.support.tree import ROOT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.parallel]

TRANSLATION = {"STEPSTREAM_PIPELINES": ""}
SHIPPED_WORKER = (sys.executable, "-m", "stepstream_worker")
DOCUMENTS = load_documents(ROOT / "samples")
SAID_BY_ALL = ("task_id", "state", "phase", "step", "attempt", "version", "result")
LIMIT_S = 20.0


@asynccontextmanager
async def parallel(folder: Path) -> AsyncIterator[Cluster]:
    """Through Redis."""
    async with running_cluster(folder, workers=0, **TRANSLATION) as cluster:
        await cluster.start_worker(slots=1, argv=SHIPPED_WORKER)
        yield cluster


@asynccontextmanager
async def synchronous(folder: Path) -> AsyncIterator[Cluster]:
    """Without Redis."""
    cluster = Cluster(folder)
    try:
        await cluster.start_dispatcher(USE_PARALLEL_PROCESSING="false", **TRANSLATION)
        await cluster.start_worker(slots=1, argv=SHIPPED_WORKER)
        yield cluster
    finally:
        await cluster.stop()


@asynccontextmanager
async def fallback(folder: Path) -> AsyncIterator[Cluster]:
    """While Redis is down."""
    async with parallel(folder) as cluster:
        assert cluster.redis_process is not None
        await cluster.redis_process.kill()
        await cluster.dispatchers["d-0"].child.line("redis is down")
        yield cluster


MODES = {
    "PARALLEL": parallel,
    "SYNCHRONOUS": synchronous,
    "SYNCHRONOUS_FALLBACK": fallback,
}


def inputs() -> list[dict[str, Any]]:
    """The documents; a person has to look at one of them."""
    return [
        {"text": one.text, "source_lang": one.source_lang, "target_lang": one.target_lang}
        for one in DOCUMENTS
    ]


async def run(cluster: Cluster) -> tuple[list[Submitted], list[dict[str, Any]]]:
    """What is answered at once, and what can be read when all are at rest, less ids and times."""
    client = cluster.client()
    answers = [
        await client.submit("translation", one, request_id=f"modes-{number}")
        for number, one in enumerate(inputs())
    ]
    seen: list[dict[str, Any]] = []
    for answer in answers:
        task = await client.wait(answer.task_id, timeout_s=30)
        watch = client.watch(answer.task_id, after=0)
        events = [
            item async for item in watched(watch, task.version) if isinstance(item, TaskEvent)
        ]
        seen.append({"task": timeless(task), "history": [timeless(event) for event in events]})
    return answers, seen


async def watched(watch: Any, last: int) -> AsyncIterator[Any]:
    """A watch up to a sequence."""
    async for item in watch:
        yield item
        if isinstance(item, TaskEvent) and item.sequence == last:
            break


def timeless(value: Task | TaskEvent) -> dict[str, Any]:
    """A task or an event without its times, and without progress: who hears it last is chance."""
    fields = msgspec.structs.asdict(value)
    return {
        name: field
        for name, field in fields.items()
        if not name.endswith("time") and not name.startswith("progress")
    }


async def by_http(cluster: Cluster, task_id: str) -> dict[str, Any]:
    """The task in the names of the SDK, as the HTTP API says it."""
    url = f"http://{cluster.dispatchers['d-0'].http_address}/api/tasks/{task_id}?payloads=true"
    async with httpx.AsyncClient(timeout=LIMIT_S) as client:
        told = (await client.get(url)).json()
    phase = told["phase"].removeprefix("PHASE_")
    return {
        "task_id": told["taskId"],
        "state": told["state"],
        "phase": phase,
        "step": told["step"],
        "attempt": told["attempt"],
        "version": int(told["version"]),
        "result": told.get("result", {}).get("json"),
    }


async def by_command(cluster: Cluster, task_id: str) -> dict[str, Any]:
    """The task as `stepstream get --json` says it."""
    address = cluster.dispatchers["d-0"].address
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "stepstream.cli", "get", task_id, "--json", "--address", address),
        cwd=cluster.folder,
        env={"PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(LIMIT_S):
        written, _ = await process.communicate()
    assert process.returncode == 0
    told = json.loads(written)
    return {name: told[name] for name in SAID_BY_ALL}


async def by_grpc(cluster: Cluster, task_id: str) -> dict[str, Any]:
    """The task as the SDK reads it."""
    told = msgspec.structs.asdict(await cluster.client().get(task_id))
    return {name: told[name] for name in SAID_BY_ALL}


async def check_doors(cluster: Cluster, results: list[dict[str, Any]]) -> None:
    """One task of each state that they rest in is the same through every door."""
    by_state = {one["task"]["state"]: one["task"]["task_id"] for one in results}
    for task_id in by_state.values():
        told = await by_grpc(cluster, task_id)
        assert await by_http(cluster, task_id) == told
        assert await by_command(cluster, task_id) == told


async def test_outputs_and_histories_are_the_same_in_every_mode(tmp_path: Path):
    results = {}
    for mode, start in MODES.items():
        async with start(tmp_path / mode.lower()) as cluster:
            answers, results[mode] = await run(cluster)
            await check_doors(cluster, results[mode])
        assert {answer.execution_mode for answer in answers} == {mode}

    first = results["PARALLEL"]
    assert {one["task"]["state"] for one in first} == {"done", "human_review"}
    for mode in MODES:
        assert results[mode] == first, mode
