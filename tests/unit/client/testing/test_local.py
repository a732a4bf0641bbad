"""A dispatcher for a test: real processes, which leave nothing behind."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from stepstream import Client, StepContext, step
from stepstream.testing import LocalStepstream, MissingExtra, StartFailed
from tests.support.processes import children_of, ended_within

PIPELINES = """
[pipeline.single]
[[pipeline.single.step]]
name = "work"
state = "working"
queue = "lane"
on = { completed = "done" }
"""
LIMIT_S = 20.0


@step("work")
async def work(ctx: StepContext) -> object:
    """Gives back what it got, late enough to run out of time if its limit is short."""
    await asyncio.sleep(0.2)
    return ctx.input


@pytest.fixture
def no_process_left() -> Iterator[None]:
    before = children_of(os.getpid())
    yield
    assert children_of(os.getpid()) - before == set()


def test_a_task_goes_through(no_process_left: None):
    with LocalStepstream(pipelines=PIPELINES, steps=[work]) as local:
        submitted = local.client.submit("single", {"text": "hello"})
        task = local.client.wait(submitted.task_id, timeout_s=LIMIT_S)

    assert (task.state, task.result, task.worker) == ("done", {"text": "hello"}, "")


async def test_it_is_an_asynchronous_context_manager_too(no_process_left: None, redis_url: str):
    settings = {"PROCESSING_TIMEOUT": "50"}
    async with LocalStepstream(
        pipelines=PIPELINES, steps=[work], settings=settings, redis_url=redis_url
    ) as local:
        client = local.async_client
        submitted = await client.submit("single", {"text": "hello"}, max_retries=0)
        task = await client.wait(submitted.task_id, timeout_s=LIMIT_S)

    assert [error.code for error in task.errors] == ["DEADLINE_EXCEEDED"]


def test_a_pipeline_with_a_mistake_is_told(no_process_left: None, redis_url: str):
    local = LocalStepstream(pipelines="[pipeline.empty]\n", redis_url=redis_url)

    with pytest.raises(StartFailed, match=r"dispatcher ended:\n.*step"), local:
        pass


def test_a_step_that_nobody_serves_is_told(no_process_left: None, redis_url: str):
    """A worker is fed from a queue only if it serves every step on it, so the test would hang."""
    other = step("other")(work.function)

    with (
        pytest.raises(
            ValueError, match="single has the step 'work', which none of the steps serves"
        ),
        LocalStepstream(pipelines=PIPELINES, steps=[other], redis_url=redis_url),
    ):
        pass


def test_an_address_before_the_start_is_refused():
    with pytest.raises(RuntimeError, match="not started"):
        _ = LocalStepstream().address


def test_a_missing_extra_is_told(monkeypatch: pytest.MonkeyPatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "starlette" else find_spec(name)
    )

    with (
        pytest.raises(MissingExtra, match=r"starlette.*pip install 'stepstream\[dispatcher,embedd"),
        LocalStepstream(),
    ):
        pass


PROGRAM = """
import sys, threading
from stepstream.testing import LocalStepstream

with LocalStepstream() as local:
    print(local.address, flush=True)
    threading.Event().wait()
"""


def test_a_test_that_is_killed_leaves_nothing():
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        address = process.stdout.readline().decode().strip()
        with Client(address) as client:
            assert client.stats().is_running
        started = [os.pidfd_open(pid) for pid in children_of(process.pid)]
        process.send_signal(signal.SIGKILL)

        assert len(started) == 2
        assert all(ended_within(one, LIMIT_S) for one in started)
