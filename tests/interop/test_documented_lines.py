"""Each command that the documents tell a reader to type is run as it stands there."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio

from stepstream import AsyncClient
from stepstream.cli.samples import load_documents
from tests.conftest import missing
from tests.support.cluster import Cluster, running_cluster
from tests.support.tree import ROOT

pytestmark = [
    pytest.mark.parallel,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(180),
]

SHELL = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROGRAMS = {"stepstream", "grpcurl", "buf", "curl", "redis-cli"}
LIMIT_S = 30.0
ENDLESS_S = 3.0
SHIPPED_WORKER = (sys.executable, "-m", "stepstream_worker")

# Lines that cannot be run here, and what runs them instead.
ELSEWHERE = {
    r"\bstepstream (start|dispatcher|worker)\b": "they serve until Ctrl-C: test_command_line.py",
    r"\bstepstream demo\b": "test_command_line.py",
    r"--pipeline words\b": "needs the worker of README.md: test_readme_worker.py",
    r"--data-dir\b": "needs the data of a run before it: test_command_line.py",
}
# Lines that go on until Ctrl-C: they have to say something and are ended.
ENDLESS = (r"\bSUBSCRIBE\b", r"--latency-history", r"/WatchTasks\b", r"grpc.health.v1.Health/Watch")


class Line(NamedTuple):
    """One command of one document."""

    document: str
    text: str

    @property
    def program(self) -> str:
        """Its first word after settings."""
        words = self.text.split()
        return next(word for word in words if not re.fullmatch(r"[A-Z_]+=\S*", word))


def lines() -> list[Line]:
    """All commands of the programs, comments off, continued lines joined, each once."""
    found: dict[str, Line] = {}
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]):
        for block in SHELL.findall(path.read_text(encoding="utf-8")):
            for raw in block.replace("\\\n", " ").splitlines():
                text = re.sub(r"\s+#\s.*$", "", raw).strip()
                if text and not text.startswith("#"):
                    found.setdefault(text, Line(path.name, text))
    return [line for line in found.values() if line.program in PROGRAMS]


def elsewhere(line: Line) -> str:
    return next((why for what, why in ELSEWHERE.items() if re.search(what, line.text)), "")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def desk(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """The installation that the documents speak of: one dispatcher, worker-0 and worker-1."""
    folder = tmp_path_factory.mktemp("documented")
    async with running_cluster(folder, workers=0, STEPSTREAM_PIPELINES="") as cluster:
        for name in ("worker-0", "worker-1"):
            await cluster.start_worker(name, argv=SHIPPED_WORKER)
        yield cluster


def document(**changes: str) -> dict[str, str]:
    return {
        "text": "请把鼠标接到服务器上。",
        "source_lang": "zh-CN",
        "target_lang": "zh-TW",
        **changes,
    }


async def done(client: AsyncClient) -> str:
    return (await client.submit("translation", document())).task_id


async def failed(client: AsyncClient) -> str:
    return (await client.submit("translation", document(target_lang="is"))).task_id


async def scheduled(client: AsyncClient) -> str:
    return (await client.submit("translation", document(), delay_s=3600)).task_id


async def in_review(client: AsyncClient) -> str:
    (essay,) = [one for one in load_documents(ROOT / "samples") if "two names" in one.title]
    return (await client.submit("translation", document(text=essay.text))).task_id


# Which task stands for TASK_ID in a line; the first pattern that is found.
STANDS_FOR: dict[str, Callable[[AsyncClient], Awaitable[str]]] = {
    r"review|DecideReview": in_review,
    r"redrive|Redrive|UpdateInput|dead-letters": failed,
    r"cancel|Cancel": scheduled,
    r"": done,
}


async def task_for(line: Line, client: AsyncClient) -> str:
    make = next(make for what, make in STANDS_FOR.items() if re.search(what, line.text))
    task_id = await make(client)
    if make is not scheduled:
        await client.wait(task_id, timeout_s=20)
    return task_id


async def placed(line: Line, desk: Cluster, folder: Path) -> str:
    """The line with the addresses and ids of this installation in place of the documents'."""
    dispatcher = desk.dispatchers["d-0"]
    text = re.sub(r"\b(localhost|127\.0\.0\.1):50051", dispatcher.address, line.text)
    text = re.sub(r"\b(localhost|127\.0\.0\.1):3000", dispatcher.http_address, text)
    text = re.sub(r"\bredis-cli\b", f"redis-cli -s {desk.redis_url.removeprefix('unix://')}", text)
    if "TASK_ID" in text:
        text = text.replace("TASK_ID", await task_for(line, desk.client()))
    (folder / "samples").symlink_to(ROOT / "samples")
    (folder / "better.txt").write_text("更好的譯文。", encoding="utf-8")
    return text


@pytest.mark.parametrize("line", lines(), ids=lambda line: f"{line.document}: {line.text[:60]}")
async def test_line_runs(line: Line, desk: Cluster, tmp_path: Path):
    if why := elsewhere(line):
        pytest.skip(why)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if shutil.which(line.program, path=path) is None:
        missing(f"{line.program} is not installed")
    endless = any(re.search(one, line.text) for one in ENDLESS)
    environment = {
        **os.environ,
        "PATH": path,
        "STEPSTREAM_ADDRESS": desk.dispatchers["d-0"].address,
        "STEPSTREAM_HTTP_ADDRESS": desk.dispatchers["d-0"].http_address,
        "REDIS_URL": desk.redis_url,
    }

    process = await asyncio.create_subprocess_shell(
        f'exec timeout {ENDLESS_S if endless else LIMIT_S} bash -o pipefail -c "$LINE"',
        env={**environment, "LINE": await placed(line, desk, tmp_path)},
        cwd=tmp_path,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()

    expected = {0, 124} if endless else {0}
    assert process.returncode in expected, output.decode()
    assert "Traceback" not in output.decode()
