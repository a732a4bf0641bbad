"""Steps in processes, by a worker on this process's loop and real children."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from stepstream.v1 import worker_service_pb2 as pb
from stepstream.worker import StepContext, Worker, step
from stepstream.worker.processes import ProcessPool
from stepstream.worker.targets import target_of
from tests.support.fake_dispatcher import FakeDispatcher, FakeSession, assignment
from tests.support.processes import children_of, ended_within
from tests.unit.client.worker.conftest import Serving
from tests.unit.client.worker.process_steps import ALL, look

AT_ONCE_S = 1.0
LIMIT_S = 10.0


@pytest.fixture(autouse=True)
def quick_heartbeats(fake: FakeDispatcher) -> None:
    fake.heartbeat_interval_s = 0.1


async def begun(session: FakeSession) -> None:
    """Waits until a handler has reported progress."""
    await session.until(lambda one: [h for b in one.heartbeats for h in b.held if h.progress])


async def test_the_context_is_that_of_any_handler(fake: FakeDispatcher, serving: Serving) -> None:
    async with serving(*ALL):
        session = await fake.session()
        sent = assignment(1, "look", value={"text": "hello"})
        sent.outputs["before"].text = "earlier"
        sent.feedback = "again, please"
        session.batch(sent)
        [settlement] = await session.settled(1)

    seen = settlement.completed.output.json
    assert settlement.completed.outcome == "passed"
    assert seen["pid"] != os.getpid()
    names = ["task-1", "test", "look", "task-1/look/1", "task-1/look"]
    assert list(seen["names"]) == names
    assert (seen["attempt"], seen["feedback"], seen["cancelled"]) == (1, "again, please", False)
    assert (seen["input"]["text"], seen["outputs"]["before"]) == ("hello", "earlier")
    assert seen["labels"]["n"] == "1"


async def test_a_process_is_used_again(fake: FakeDispatcher, serving: Serving) -> None:
    async with serving(*ALL, slots=1):
        session = await fake.session()
        session.batch(*[assignment(n, "look") for n in range(5)])
        settlements = await session.settled(5)

    assert len({one.completed.output.json["pid"] for one in settlements}) == 1


async def test_no_more_processes_than_slots(fake: FakeDispatcher, serving: Serving) -> None:
    before = children_of(os.getpid())
    async with serving(*ALL, slots=2):
        session = await fake.session()
        session.batch(*[assignment(n, "look") for n in range(20)])
        await session.settled(20)

        assert 1 <= len(children_of(os.getpid()) - before) <= 2


@pytest.mark.parametrize(
    ("case", "code", "message", "retryable"),
    [
        ("not_retryable", "NO_PAGE", "no such page", False),
        ("retry_after", "RETRY_AFTER", "busy", True),
        ("any", "HANDLER_ERROR", "KeyError: 'x'", True),
        ("exit", "HANDLER_ERROR", "SystemExit: 3", True),
    ],
)
async def test_what_a_handler_raises_becomes_a_failure(
    fake: FakeDispatcher, serving: Serving, case: str, code: str, message: str, retryable: bool
) -> None:
    async with serving(*ALL, slots=1):
        session = await fake.session()
        session.batch(assignment(1, "fail", value=case))
        [settlement] = await session.settled(1)

    failed = settlement.failed
    assert (failed.code, failed.message, failed.retryable) == (code, message, retryable)
    assert failed.HasField("retry_after") is (case == "retry_after")


async def test_progress_comes_through_to_the_last(fake: FakeDispatcher, serving: Serving) -> None:
    async with serving(*ALL, slots=1):
        session = await fake.session()
        session.batch(assignment(1, "steps"))

        [held] = await session.until(
            lambda one: [h for b in one.heartbeats for h in b.held if h.progress == 1]
        )
        assert held.note == "10000 of 10000"


@pytest.mark.parametrize("name", ["sleep", "spin", "hold", "polite"])
@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (pb.CANCEL_REASON_REQUESTED, "CANCELLED"),
        (pb.CANCEL_REASON_TIMEOUT, "DEADLINE_EXCEEDED"),
    ],
)
async def test_a_handler_that_is_to_stop_does(
    fake: FakeDispatcher, serving: Serving, name: str, reason: pb.CancelReason.ValueType, code: str
) -> None:
    """And its slot is free for the next attempt, in a process of its own."""
    async with serving(*ALL, slots=1):
        session = await fake.session()
        session.batch(assignment(1, name, value="1000"))
        await begun(session)

        asked_mono = time.monotonic()
        session.cancel(f"task-1/{name}/1", reason)
        [settlement] = await session.settled(1)
        took_s = time.monotonic() - asked_mono
        session.batch(assignment(2, "look"))
        [_, after] = await session.settled(2)

    assert settlement.failed.code == code
    assert took_s < AT_ONCE_S
    assert after.HasField("completed")
    assert set(session.pulls) <= {0, 1}
    assert session.pulls[0] == 1


async def test_a_handler_may_tidy_up(
    fake: FakeDispatcher, serving: Serving, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    async with serving(*ALL, slots=1):
        session = await fake.session()
        session.batch(assignment(1, "tidy", value=str(made)))
        await begun(session)
        assert made.exists()

        session.cancel("task-1/tidy/1", pb.CANCEL_REASON_REQUESTED)
        await session.settled(1)

        assert not made.exists()


async def test_what_a_handler_has_started_is_killed_with_it(
    fake: FakeDispatcher, serving: Serving, tmp_path: Path
) -> None:
    noted = tmp_path / "pid"
    async with serving(*ALL, slots=1):
        session = await fake.session()
        session.batch(assignment(1, "parent", value=str(noted)))
        await begun(session)
        started = os.pidfd_open(int(noted.read_text()))

        session.cancel("task-1/parent/1", pb.CANCEL_REASON_REQUESTED)
        await session.settled(1)

        assert await asyncio.to_thread(ended_within, started, LIMIT_S)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("exit", "exit status 3"),
        ("SIGSEGV", "SIGSEGV"),
        ("SIGKILL", "SIGKILL"),
        ("one without a name", f"signal {signal.SIGRTMIN + 1}"),
    ],
)
async def test_a_process_that_dies_fails_its_attempt_alone(
    fake: FakeDispatcher, serving: Serving, how: str, words: str
) -> None:
    async with serving(*ALL, slots=1):
        session = await fake.session()
        session.batch(assignment(1, "die", value=how), assignment(2, "look"))
        died, after = await session.settled(2)

    assert (died.failed.code, died.failed.retryable) == ("WORKER_PROCESS_DIED", True)
    assert died.failed.message == f"the step's process ended with {words}"
    assert after.HasField("completed")


async def test_an_idle_process_that_died_harms_nobody(
    fake: FakeDispatcher, serving: Serving
) -> None:
    async with serving(*ALL, slots=1):
        session = await fake.session()
        session.batch(assignment(1, "look"))
        [first] = await session.settled(1)
        pid = int(first.completed.output.json["pid"])
        process_fd = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        assert await asyncio.to_thread(ended_within, process_fd, LIMIT_S)

        session.batch(assignment(2, "look"))
        [_, second] = await session.settled(2)

    assert second.completed.output.json["pid"] not in {0, pid}


async def test_heartbeats_go_on_while_a_handler_holds_the_interpreter(
    fake: FakeDispatcher, serving: Serving
) -> None:
    async with serving(*ALL, slots=1):
        session = await fake.session()
        session.batch(assignment(1, "hold", value="1"))
        await begun(session)
        before = len(session.heartbeats)
        await session.settled(1)

        assert len(session.heartbeats) - before >= 6


@pytest.mark.parametrize("name", ["", "sleep", "spin"])
async def test_no_process_is_left_behind(fake: FakeDispatcher, serving: Serving, name: str) -> None:
    before = children_of(os.getpid())
    async with serving(*ALL, slots=2):
        session = await fake.session()
        if name:
            session.batch(assignment(1, name))
            await begun(session)
        assert children_of(os.getpid()) - before

    assert children_of(os.getpid()) - before == set()


def test_an_end_waits_for_processes_that_are_about_to_start() -> None:
    before = children_of(os.getpid())
    for _ in range(10):
        pool = ProcessPool(2, [target_of(look)])
        pool.warm_up()
        while not children_of(os.getpid()) - before:
            os.sched_yield()
        pool.close()

        assert children_of(os.getpid()) - before == set()


async def test_a_drain_waits_for_what_runs(fake: FakeDispatcher, serving: Serving) -> None:
    async with serving(*ALL, slots=1) as worker:
        session = await fake.session()
        session.batch(assignment(1, "hold", value="0.5"))
        await begun(session)
        worker.drain(grace_s=20)
        [settlement] = await session.settled(1)

    assert settlement.HasField("completed")


def test_a_function_that_has_no_name_is_refused() -> None:
    @step("inner", runs_in="process")
    def inner(ctx: StepContext) -> None: ...

    with pytest.raises(ValueError, match=r"'inner' runs in a process.*inner by module and name"):
        Worker([inner])


def test_an_async_function_does_not_run_in_a_process() -> None:
    with pytest.raises(ValueError, match="'wait' in a process: a plain function wanted"):

        @step("wait", runs_in="process")
        async def wait(ctx: StepContext) -> None: ...


def test_a_step_in_a_process_can_be_called_without_a_worker() -> None:
    assert look.runs_in == "process"
