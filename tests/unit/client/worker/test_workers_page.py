"""The page on writing workers: its example runs, and its settings are the code's."""

from __future__ import annotations

import re

from stepstream import Worker, step
from stepstream.settings import read
from stepstream.worker.settings import WorkerSettings
from tests.support.fake_dispatcher import FakeDispatcher, assignment
from tests.support.tree import ROOT
from tests.unit.client.worker.conftest import Serving

PAGE = (ROOT / "docs" / "workers.md").read_text(encoding="utf-8")


async def test_the_example_runs(fake: FakeDispatcher, serving: Serving) -> None:
    source = re.search(r"```python\n(# worker\.py.*?)```", PAGE, re.DOTALL)
    assert source is not None
    module: dict[str, object] = {"__name__": "worker", "Worker": Worker, "step": step}
    exec(compile(source[1], "docs/workers.md", "exec"), module)  # noqa: S102 - the page's own code

    async with serving(module["shout"]):
        session = await fake.session()
        session.batch(assignment(1, "shout", value={"text": "hello"}))
        [settlement] = await session.settled(1)

        assert settlement.completed.output.json["text"] == "HELLO"


def test_the_settings_are_those_of_the_code() -> None:
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (.+?) \|", PAGE, re.MULTILINE))
    defaults = read(WorkerSettings, {})

    assert rows == {
        "STEPSTREAM_ADDRESS": f"`{defaults.address}`",
        "STEPSTREAM_WORKER_NAME": "host and process id",
        "MAX_CONCURRENT_TASKS": f"`{defaults.slots}`",
        "STEPSTREAM_WORKER_AHEAD": f"`{str(defaults.takes_ahead).lower()}`",
        "STEPSTREAM_WORKER_GRACE": f"`{defaults.grace_s:g}`",
        "STEPSTREAM_LOG_FORMAT": f"`{defaults.log_format}`",
        "DEBUG": f"`{str(defaults.debug).lower()}`",
    }
