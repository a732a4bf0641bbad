"""A worker as a process of its own: signals and exit codes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import grpc
import pytest

from tests.support.fake_dispatcher import FakeDispatcher, assignment

PROGRAM = """
import asyncio, threading
from stepstream import Worker, step

@step("quick")
async def quick(ctx):
    await asyncio.sleep(float(ctx.input))
    return "done"

@step("block")
async def block(ctx):
    threading.Event().wait(float(ctx.input))

@step("stubborn")
async def stubborn(ctx):
    while True:
        try:
            await asyncio.sleep(float(ctx.input))
        except asyncio.CancelledError:
            pass

@step("thread")
def thread(ctx):
    threading.Event().wait(float(ctx.input))

Worker([quick, block, stubborn, thread]).run()
"""
LIMIT_S = 15.0

Process = asyncio.subprocess.Process
Starting = Callable[..., AbstractAsyncContextManager[Process]]


@pytest.fixture
def starting(fake: FakeDispatcher) -> Starting:
    """Starts the program; kills it at the end if it is still there."""

    @asynccontextmanager
    async def start(**environment: str) -> AsyncIterator[Process]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            PROGRAM,
            env={**os.environ, "STEPSTREAM_ADDRESS": fake.address, **environment},
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


async def exit_code(process: Process) -> int:
    async with asyncio.timeout(LIMIT_S):
        return await process.wait()


async def test_sigterm_lets_a_running_step_finish(fake: FakeDispatcher, starting: Starting) -> None:
    fake.heartbeat_interval_s = 0.05
    async with starting() as process:
        session = await fake.session()
        session.batch(assignment(1, "quick", value="1"))
        await session.until(lambda one: any(beat.held for beat in one.heartbeats))
        process.send_signal(signal.SIGTERM)

        assert await exit_code(process) == 0
        assert session.drained
        assert [one.completed.output.text for one in session.settlements] == ["done"]


@pytest.mark.parametrize("kind", ["stubborn", "thread", "block"])
async def test_a_step_that_does_not_stop_does_not_hold_the_process(
    fake: FakeDispatcher, starting: Starting, kind: str
) -> None:
    fake.heartbeat_interval_s = 0.1
    async with starting(STEPSTREAM_WORKER_GRACE="0.2") as process:
        session = await fake.session()
        session.batch(assignment(1, kind, value="30"))
        await session.until(lambda one: any(beat.held for beat in one.heartbeats))
        process.send_signal(signal.SIGTERM)

        assert await exit_code(process) == 0
        assert session.half_closed
        [settlement] = session.settlements
        assert settlement.HasField("released")


async def test_a_dismissal_ends_it_well(fake: FakeDispatcher, starting: Starting) -> None:
    async with starting() as process:
        (await fake.session()).drain(leave=True)

        assert await exit_code(process) == 0


async def test_a_second_signal_ends_it_at_once(fake: FakeDispatcher, starting: Starting) -> None:
    fake.heartbeat_interval_s = 0.1
    async with starting() as process:
        session = await fake.session()
        session.batch(assignment(1, "quick", value="30"))
        await session.until(lambda one: any(beat.held for beat in one.heartbeats))
        process.send_signal(signal.SIGTERM)
        await session.until(lambda one: one.drained)
        process.send_signal(signal.SIGINT)

        assert await exit_code(process) == 128 + signal.SIGINT


async def test_sigterm_ends_a_worker_that_nobody_answers(starting: Starting) -> None:
    async with starting(STEPSTREAM_ADDRESS="127.0.0.1:1") as process:
        assert process.stderr is not None
        line = await process.stderr.readline()
        process.send_signal(signal.SIGTERM)

        assert b"reconnecting" in line
        assert await exit_code(process) == 0


async def test_a_bad_setting_ends_it_with_one_line(starting: Starting) -> None:
    async with starting(MAX_CONCURRENT_TASKS="0") as process:
        _, error = await process.communicate()

        assert process.returncode == 2
        assert error.decode().startswith("MAX_CONCURRENT_TASKS: ")
        assert error.count(b"\n") == 1


async def test_a_refusal_for_good_ends_it_with_an_error(
    fake: FakeDispatcher, starting: Starting
) -> None:
    fake.refusal = (grpc.StatusCode.FAILED_PRECONDITION, "protocol version 1 is not served")
    async with starting() as process:
        _, error = await process.communicate()

        assert process.returncode == 1
        assert b"protocol version 1 is not served" in error
