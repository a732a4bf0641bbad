"""The commands of docs/http.md, run by curl itself."""

import asyncio
import json
import re
import shutil

import pytest

from tests.support.edge import Edge, serving_edge
from tests.support.tree import ROOT

pytestmark = pytest.mark.interop

SHELL = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGE = (ROOT / "docs/http.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in SHELL.findall(PAGE)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("curl")
]

# A task that was just submitted neither waits for a review nor has failed.
ALLOWED = {"", "REVIEW_CONFLICT", "TASK_NOT_FAILED", "NOT_IMPLEMENTED"}


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("command", COMMANDS)
async def test_a_documented_command_is_served(command: str):
    async with serving_edge() as edge:
        task_id = await edge.submit()

        status, answer = await run(command, edge, task_id)

    problem = str(answer.get("type", "")).removeprefix("urn:stepstream:problem:")
    assert problem in ALLOWED, answer
    assert (status < 400) == (not problem)


async def run(command: str, edge: Edge, task_id: str) -> tuple[int, dict[str, object]]:
    """Run a command of the page against a server of the test."""
    words = command.replace("localhost:3000", f"127.0.0.1:{edge.port}").replace("TASK_ID", task_id)
    process = await asyncio.create_subprocess_shell(
        f"{words} --noproxy '*' --max-time 20 -w '\\n%{{http_code}}'",
        stdout=asyncio.subprocess.PIPE,
    )
    written, _ = await process.communicate()
    body, _, status = written.decode().rpartition("\n")
    return int(status), json.loads(body)
