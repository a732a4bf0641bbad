"""`stepstream start` told to leave amid work: what ran is finished or goes back uncharged."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from stepstream import AsyncClient
from stepstream.cli.probe import free_address
from stepstream.types import SubmitItem, Submitted
from tests.support.child import Child, News

pytestmark = [pytest.mark.parallel, pytest.mark.slow]

TASKS = 30
# Long enough that both workers are busy when the signal comes.
TEXT = "\n\n".join(["这个软件可以在网络上运行，并且每个文件都会保存在内存里。" * 10] * 20)  # noqa: RUF001
ITEM = SubmitItem(
    pipeline="translation",
    input={"text": TEXT, "source_lang": "zh-CN", "target_lang": "zh-TW"},
)


@asynccontextmanager
async def installed(folder: Path, address: str) -> AsyncIterator[Child]:
    """A running installation that is ready; killed at the end if it still lives."""
    argv = (sys.executable, "-m", "stepstream.cli", "start", "--embedded-redis")
    env = {"STEPSTREAM_GRPC_ADDRESS": address, "STEPSTREAM_HTTP_ADDRESS": free_address()}
    child = Child("start", folder / "start.log", News())
    try:
        await child.start([*argv, "--data-dir", str(folder)], env=env)
        await child.line("Ctrl-C stops it")
        yield child
    finally:
        await child.kill()
        child.close()


async def leave(child: Child) -> int:
    child.tell(signal.SIGTERM)
    return await child.ended(timeout_s=20)


async def test_an_installation_leaves_amid_work_and_comes_back_to_all_of_it(tmp_path: Path):
    address = free_address()
    async with AsyncClient(address) as client:
        async with installed(tmp_path, address) as installation:
            answers = await client.submit_batch([ITEM] * TASKS)
            ids = [answer.task_id for answer in answers if isinstance(answer, Submitted)]
            await client.wait(ids[0], timeout_s=20)
            done = len((await client.list(state="done")).tasks)

            assert await leave(installation) == 0, installation.tail()

        async with installed(tmp_path, address) as installation:
            tasks = [await client.wait(task_id, timeout_s=30) for task_id in ids]

            assert await leave(installation) == 0, installation.tail()

    assert 0 < done < TASKS, "it was not told to leave amid work"
    assert {task.phase for task in tasks} <= {"SUCCEEDED", "WAITING_FOR_REVIEW"}
    assert [task.errors for task in tasks if task.errors] == []
