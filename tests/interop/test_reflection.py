"""Nothing but reflection: list, describe, submit, watch, decide a review, with stock tools."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.conftest import missing
from tests.support.child import Child
from tests.support.cluster import Cluster, running_cluster

pytestmark = [
    pytest.mark.interop,
    pytest.mark.parallel,
    pytest.mark.asyncio(loop_scope="module"),
]

SERVICE = "stepstream.v1.DispatcherService"
LIMIT_S = 30.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with running_cluster(tmp_path_factory.mktemp("reflection")) as cluster:
        yield cluster


class Buf:
    """`buf curl`, which asks the server for its schema."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._url = f"http://{cluster.dispatchers['d-0'].address}"
        self._program = find("buf")

    async def services(self) -> str:
        return await self._run(f"{self._url}", "--list-services")

    async def describe(self, method: str) -> str:
        """buf describes only by listing the methods of all services."""
        listed = await self._run(f"{self._url}", "--list-methods")
        return next(line for line in listed.splitlines() if line.endswith(f"/{method}"))

    async def call(self, method: str, request: dict[str, object]) -> str:
        url = f"{self._url}/{SERVICE}/{method}"
        return await self._run("-d", json.dumps(request), url)

    async def _run(self, *words: str) -> str:
        options = ("--protocol", "grpc", "--http2-prior-knowledge")
        return await run(self._cluster, self._program, "curl", *options, *words)


class Grpcurl:
    """`grpcurl`, which does the same."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._address = cluster.dispatchers["d-0"].address
        self._program = find("grpcurl")

    async def services(self) -> str:
        return await self._run(self._address, "list")

    async def describe(self, method: str) -> str:
        return await self._run(self._address, "describe", f"{SERVICE}.{method}")

    async def call(self, method: str, request: dict[str, object]) -> str:
        return await self._run("-d", json.dumps(request), self._address, f"{SERVICE}/{method}")

    async def _run(self, *words: str) -> str:
        return await run(self._cluster, self._program, "-plaintext", *words)


@pytest.fixture(params=[Buf, Grpcurl])
def tool(request: pytest.FixtureRequest, cluster: Cluster) -> Buf | Grpcurl:
    return request.param(cluster)


def find(program: str) -> str:
    """The path of a tool: beside this Python, or on the PATH."""
    found = shutil.which(program, path=str(Path(sys.executable).parent)) or shutil.which(program)
    if found is None:
        missing(f"{program} is not on the PATH")
    assert found is not None
    return found


async def run(cluster: Cluster, *argv: str) -> str:
    """Runs a command to its end and returns its output.

    Raises:
        AssertionError: Its exit status is not 0.
    """
    child = Child(Path(argv[0]).name, cluster.folder / "tool.log", cluster.news)
    try:
        await child.start(argv, env={"HOME": str(cluster.folder)})
        assert await child.ended(timeout_s=LIMIT_S) == 0, child.tail()
    finally:
        await child.kill()
        child.close()
    return "\n".join(child.lines)


def messages(output: str) -> list[dict[str, object]]:
    """The JSON documents that stand one after another in an output.

    grpcurl names the fields as the proto does, buf as JSON does; both read either.
    """
    decoder, found = json.JSONDecoder(object_pairs_hook=camel_case), []
    rest = output.strip()
    while rest:
        document, end = decoder.raw_decode(rest)
        found.append(document)
        rest = rest[end:].lstrip()
    return found


def camel_case(pairs: list[tuple[str, object]]) -> dict[str, object]:
    return {re.sub("_([a-z])", lambda found: found[1].upper(), key): value for key, value in pairs}


async def answer(tool: Buf | Grpcurl, method: str, **request: object) -> dict[str, object]:
    (message,) = messages(await tool.call(method, request))
    return message


def task_input(outcome: str) -> dict[str, object]:
    return {"json": {"plans": {"translate": [{}], "verify": [{"outcome": outcome}]}}}


async def submit(tool: Buf | Grpcurl, outcome: str) -> str:
    submitted = await answer(tool, "Submit", pipeline="translation", input=task_input(outcome))
    return str(submitted["taskId"])


async def test_the_services_are_listed(tool: Buf | Grpcurl):
    listed = await tool.services()

    for service in (SERVICE, "stepstream.v1.WorkerService", "grpc.health.v1.Health"):
        assert service in listed


async def test_a_method_is_described(tool: Buf | Grpcurl):
    assert "WatchTask" in await tool.describe("WatchTask")


async def test_a_task_is_submitted_and_watched_to_its_end(tool: Buf | Grpcurl):
    task_id = await submit(tool, "passed")

    frames = messages(await tool.call("WatchTask", {"taskId": task_id, "afterSequence": "0"}))

    assert "snapshot" in frames[0]
    events = [frame["event"] for frame in frames[1:]]
    assert [int(event["sequence"]) for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["type"] == "EVENT_TYPE_DONE"


async def test_the_stats_are_read(tool: Buf | Grpcurl):
    stats = await answer(tool, "GetStats")

    assert stats["isRunning"] is True
    assert "w-0" in stats["workers"]


async def test_a_review_is_decided(tool: Buf | Grpcurl):
    task_id = await submit(tool, "rejected")
    waited = await answer(tool, "WaitTask", taskId=task_id, timeout="10s")
    assert waited["task"]["phase"] == "PHASE_WAITING_FOR_REVIEW"

    decided = await answer(
        tool,
        "DecideReview",
        taskId=task_id,
        decision="REVIEW_DECISION_APPROVED",
        reviewer="ada",
    )

    assert (decided["task"]["state"], decided["task"]["reviewer"]) == ("done", "ada")
