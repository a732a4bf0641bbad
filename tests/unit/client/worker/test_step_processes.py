"""Steps in processes, of a worker that is a process itself: its program, its death, its output."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from tests.support.fake_dispatcher import FakeDispatcher, FakeSession, assignment
from tests.support.processes import children_of, ended_within

STEPS = """
import ctypes, os, time
from stepstream import Worker, step

@step("say", runs_in="process")
def say(ctx):
    print("said by", os.getpid())
    ctx.logger.info("logged")
    return {"pid": os.getpid(), "module": say.function.__module__}

@step("hold", runs_in="process")
def hold(ctx):
    print("held by", os.getpid(), flush=True)
    ctx.progress(0.5)
    ctypes.PyDLL(None).usleep(int(float(ctx.input) * 1e6))

@step("wait", runs_in="process")
def wait(ctx):
    ctx.progress(0.5)
    time.sleep(float(ctx.input))
    return "waited"

"""
GUARDED = STEPS + 'if __name__ == "__main__":\n    Worker([say, hold, wait], slots=1).run()\n'
UNGUARDED = STEPS + "Worker([say, hold, wait], slots=1).run()\n"
LIMIT_S = 15.0

Process = asyncio.subprocess.Process
Starting = Callable[..., AbstractAsyncContextManager[Process]]


@pytest.fixture
def starting(fake: FakeDispatcher, tmp_path: Path) -> Starting:
    """Starts a program in a folder of its own; kills it at the end if it is still there."""
    fake.heartbeat_interval_s = 0.1

    @asynccontextmanager
    async def start(*argv: str, program: str = GUARDED) -> AsyncIterator[Process]:
        (tmp_path / "words.py").write_text(program)
        process = await asyncio.create_subprocess_exec(
            *argv,
            cwd=tmp_path,
            env={**os.environ, "STEPSTREAM_ADDRESS": fake.address},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    return start


async def begun(session: FakeSession) -> None:
    await session.until(lambda one: [h for b in one.heartbeats for h in b.held if h.progress])


async def line(stream: asyncio.StreamReader | None, words: str) -> str:
    assert stream is not None
    async with asyncio.timeout(LIMIT_S):
        async for found in stream:
            if words in found.decode():
                return found.decode()
    raise AssertionError(f"never said {words!r}")


async def exit_code(process: Process) -> int:
    async with asyncio.timeout(LIMIT_S):
        return await process.wait()


PROGRAMS = {
    "file": ([sys.executable, "words.py"], "__stepstream_main__"),
    "module": ([sys.executable, "-m", "words"], "words"),
    "command": ([sys.executable, "-m", "stepstream.cli", "worker", "words.py"], "words"),
}


@pytest.mark.parametrize("how", PROGRAMS)
async def test_the_steps_of_a_program_are_found(
    fake: FakeDispatcher, starting: Starting, how: str
) -> None:
    argv, module = PROGRAMS[how]
    async with starting(*argv) as process:
        session = await fake.session()
        session.batch(assignment(1, "say"))
        [settlement] = await session.settled(1)
        said = await line(process.stdout, "said by")
        logged = await line(process.stderr, "logged")
        process.send_signal(signal.SIGTERM)

        assert await exit_code(process) == 0

    output = settlement.completed.output.json
    assert output["module"] == module
    assert said.split() == ["said", "by", f"{output['pid']:.0f}"]
    assert '"task_id": "task-1"' in logged


async def test_a_program_that_would_start_itself_again_is_told_so(
    fake: FakeDispatcher, starting: Starting
) -> None:
    async with starting(sys.executable, "words.py", program=UNGUARDED) as process:
        session = await fake.session()
        session.batch(assignment(1, "say"))
        [settlement] = await session.settled(1)
        told = await line(process.stderr, "RuntimeError: ")

    assert 'if __name__ == "__main__":' in told
    assert settlement.failed.code == "WORKER_PROCESS_DIED"
    assert "exit status 1 before it was ready" in settlement.failed.message


async def test_a_program_without_a_file_is_refused(starting: Starting) -> None:
    async with starting(sys.executable, "-c", GUARDED) as process:
        _, error = await process.communicate()

    assert process.returncode == 1
    assert b"cannot import say from a program without a file" in error


@pytest.mark.parametrize("name", ["wait", "hold"])
async def test_a_worker_that_is_killed_takes_its_processes_along(
    fake: FakeDispatcher, starting: Starting, name: str
) -> None:
    async with starting(sys.executable, "words.py") as process:
        session = await fake.session()
        session.batch(assignment(1, name, value="1000"))
        await begun(session)
        pids = children_of(process.pid)
        assert pids
        process_fds = [os.pidfd_open(pid) for pid in pids]
        process.kill()

        ended = [await asyncio.to_thread(ended_within, one, LIMIT_S) for one in process_fds]
        assert all(ended)


async def test_a_signal_for_everybody_lets_a_running_step_finish(
    fake: FakeDispatcher, starting: Starting
) -> None:
    """As from a service manager that signals every process of a service."""
    async with starting(sys.executable, "words.py") as process:
        session = await fake.session()
        session.batch(assignment(1, "wait", value="1"))
        await begun(session)
        for pid in children_of(process.pid):
            os.kill(pid, signal.SIGTERM)
        process.send_signal(signal.SIGTERM)

        assert await exit_code(process) == 0

    [settlement] = session.settlements
    assert settlement.completed.output.text == "waited"


async def test_a_step_that_outlasts_the_grace_is_given_back(
    fake: FakeDispatcher, starting: Starting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEPSTREAM_WORKER_GRACE", "0.2")
    async with starting(sys.executable, "words.py") as process:
        session = await fake.session()
        session.batch(assignment(1, "hold", value="1000"))
        await begun(session)
        process.send_signal(signal.SIGTERM)

        assert await exit_code(process) == 0

    [settlement] = session.settlements
    assert settlement.HasField("released")
