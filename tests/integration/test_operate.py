"""What an operator types, against a real dispatcher and real workers."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from stepstream.settings import child_environment
from tests.support.cluster import Cluster, running_cluster

pytestmark = [pytest.mark.parallel, pytest.mark.timeout(180)]

_LIMIT_S = 60.0
_BAD = '{"text": "软件", "source_lang": "xx", "target_lang": "yy"}'
_GOOD = '{"text": "软件", "source_lang": "zh-CN", "target_lang": "zh-TW"}'
_SHIPPED_WORKER = (sys.executable, "-m", "stepstream_worker")


class Shell:
    """Runs commands against one dispatcher."""

    def __init__(self, address: str, folder: Path) -> None:
        self._environment = child_environment({"STEPSTREAM_ADDRESS": address})
        self._folder = folder

    async def run(self, *words: str, status: int = 0) -> str:
        """Runs a command that has to end with the status; returns what it wrote."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "stepstream.cli", *words),
            cwd=self._folder,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(_LIMIT_S):
            out, complaint = await process.communicate()
        assert process.returncode == status, (words, out, complaint)
        return out.decode()

    async def ask(self, *words: str) -> object:
        """Runs a command with --json."""
        return json.loads(await self.run(*words, "--json"))


async def _shell(cluster: Cluster, tmp_path: Path) -> Shell:
    return Shell(cluster.dispatchers["d-0"].address, tmp_path)


async def test_a_queue_is_paused_explained_and_resumed(tmp_path):
    async with running_cluster(tmp_path / "c", dispatchers=1, workers=0) as cluster:
        shell = await _shell(cluster, tmp_path)
        task_id = (await shell.run("submit", "-p", "single", "--input-json", "{}")).strip()
        assert (await shell.ask("explain", task_id))["reason"] == "NO_WORKER"

        await shell.run("pause", "work")
        assert (await shell.ask("explain", task_id))["reason"] == "QUEUE_PAUSED"
        loaded = await shell.ask("pipelines")
        paused = {step["queue"] for one in loaded for step in one["steps"] if step["paused"]}
        assert paused == {"work"}

        await cluster.start_worker("w-0")
        await shell.run("resume", "work")
        await cluster.client().wait(task_id, timeout_s=_LIMIT_S)
        assert (await shell.ask("explain", task_id))["reason"] == "FINISHED"
        await shell.run("pause", "nobody", status=3)


async def test_a_dead_letter_is_listed_mended_and_redriven(tmp_path):
    (tmp_path / "good.json").write_text(_GOOD, encoding="utf-8")
    async with running_cluster(tmp_path / "c", dispatchers=1, workers=0) as cluster:
        await cluster.start_worker("w-0", argv=_SHIPPED_WORKER)
        shell = await _shell(cluster, tmp_path)
        await shell.run("submit", "--input-json", _BAD, "--wait", status=5)

        (dead,) = await shell.ask("dead-letters")
        again = await shell.run("redrive", dead["task_id"], "--input", "good.json", "--wait")

        assert dead["errors"][-1]["code"] == "NO_ENGINE"
        assert again == f"{dead['task_id']}\tdone\n"
        assert (await shell.ask("get", dead["task_id"]))["result"]["text"] == "軟體"
        assert await shell.ask("dead-letters") == []
        await shell.run("redrive", dead["task_id"], status=1)


async def test_a_worker_is_shown_drained_and_gone(tmp_path):
    async with running_cluster(tmp_path / "c", dispatchers=1, workers=2) as cluster:
        shell = await _shell(cluster, tmp_path)
        before = await shell.ask("workers")
        assert {one["name"] for one in before if one["dispatcher_id"]} == {"w-0", "w-1"}

        await shell.run("drain", "w-0", "--wait")

        after = await shell.ask("workers")
        assert {one["name"] for one in after if one["dispatcher_id"]} == {"w-1"}
        await shell.run("drain", "nobody", status=3)
