import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from stepstream.cli.supervisor import ChildSpec, Supervisor
from tests.support.processes import ended_within

LIMIT_S = 20.0
STAY = "import signal; print('up', flush=True); signal.pause()"
# A child that says goodbye: what a real process does on SIGTERM.
POLITE = """
import signal, sys
def leave(*_):
    print('bye', flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
print('up', flush=True)
while True:
    signal.pause()
"""
STUBBORN = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('up', flush=True)
while True:
    signal.pause()
"""


class Output:
    """Collects what the supervisor emits and lets a test wait for a line."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.times_mono: list[float] = []
        self._more = asyncio.Event()

    def __call__(self, name: str, line: str) -> None:
        self.lines.append((name, line))
        self.times_mono.append(time.monotonic())
        self._more.set()

    async def wait_for(self, name: str, text: str, times: int = 1) -> None:
        async with asyncio.timeout(LIMIT_S):
            while self.count(name, text) < times:
                self._more.clear()
                await self._more.wait()

    def count(self, name: str, text: str) -> int:
        return sum(1 for who, line in self.lines if who == name and text in line)

    def index(self, name: str, text: str) -> int:
        return next(i for i, (who, line) in enumerate(self.lines) if who == name and text in line)


def child(
    name: str,
    code: str,
    *arguments: str,
    stage: int = 0,
    env: dict[str, str] | None = None,
    ready: Callable[[], bool] | None = None,
) -> ChildSpec:
    argv = (sys.executable, "-S", "-c", code, *arguments)
    return ChildSpec(name=name, argv=argv, stage=stage, env=env or {}, ready=ready)


@asynccontextmanager
async def serving(supervisor: Supervisor) -> AsyncIterator[asyncio.Task[int]]:
    """Runs the supervisor for the block; the block or this end asks it to stop."""
    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(supervisor.serve())
        yield task
        supervisor.request_stop()


async def test_output_is_forwarded_line_by_line_with_the_name():
    output = Output()
    supervisor = Supervisor([child("talker", f"print('one'); print('two'); {STAY}")], emit=output)

    async with serving(supervisor) as task:
        await output.wait_for("talker", "up")

    assert output.lines[:3] == [("talker", "one"), ("talker", "two"), ("talker", "up")]
    assert task.result() == 0


async def test_standard_error_and_an_unfinished_line_are_forwarded_too():
    output = Output()
    code = "import sys; sys.stderr.write('warned\\n'); sys.stdout.write('no newline')"
    supervisor = Supervisor([child("talker", code)], emit=output)

    async with serving(supervisor):
        await output.wait_for("talker", "no newline")

    assert output.count("talker", "warned") >= 1


async def test_a_very_long_line_comes_in_pieces():
    output = Output()
    supervisor = Supervisor([child("talker", f"print('x' * 300_000); {STAY}")], emit=output)

    async with serving(supervisor):
        await output.wait_for("talker", "up")

    pieces = [line for _, line in output.lines[: output.index("talker", "up")]]
    assert "".join(pieces) == "x" * 300_000
    assert len(pieces) > 1


async def test_the_environment_is_added_to_ours(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FROM_PARENT", "inherited")
    output = Output()
    code = f"import os; print(os.environ['FROM_PARENT'], os.environ['OWN']); {STAY}"
    supervisor = Supervisor([child("talker", code, env={"OWN": "added"})], emit=output)

    async with serving(supervisor):
        await output.wait_for("talker", "up")

    assert output.lines[0] == ("talker", "inherited added")


async def test_what_dies_is_started_again_at_once_and_then_with_back_off():
    output = Output()
    supervisor = Supervisor([child("mayfly", "raise SystemExit(3)")], emit=output)

    async with serving(supervisor):
        await output.wait_for("supervisor", "mayfly ended", times=3)

    waits = [line.rsplit(" in ", 1)[1] for who, line in output.lines if who == "supervisor"]
    assert waits[:3] == ["0.2 s", "0.4 s", "0.8 s"]
    assert output.times_mono[1] - output.times_mono[0] >= 0.2


async def test_a_long_life_resets_the_back_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stepstream.cli.supervisor._STABLE_S", 0.0)
    output = Output()
    supervisor = Supervisor([child("mayfly", "raise SystemExit(3)")], emit=output)

    async with serving(supervisor):
        await output.wait_for("supervisor", "mayfly ended", times=3)

    waits = [line.rsplit(" in ", 1)[1] for who, line in output.lines if who == "supervisor"]
    assert waits[:3] == ["0.2 s", "0.2 s", "0.2 s"]


async def test_a_killed_child_comes_back_as_another_process():
    output = Output()
    supervisor = Supervisor([child("worker", STAY)], emit=output)

    async with serving(supervisor) as task:
        await output.wait_for("worker", "up")
        first = supervisor.pid("worker")
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await output.wait_for("worker", "up", times=2)
        assert supervisor.pid("worker") not in (None, first)

    assert task.result() == 0


async def test_stages_start_in_order_each_when_the_one_before_is_ready(tmp_path: Path):
    output = Output()
    mark = tmp_path / "ready"
    early = child(
        "early",
        f"import pathlib, sys; print('first'); pathlib.Path(sys.argv[1]).touch(); {STAY}",
        str(mark),
        ready=mark.exists,
    )
    supervisor = Supervisor([child("late", STAY, stage=1), early], emit=output)

    async with serving(supervisor):
        await output.wait_for("late", "up")

    assert output.index("early", "first") < output.index("late", "up")


async def test_ready_is_told_once_when_every_child_is_ready():
    told: list[str] = []
    specs = [child("a", STAY), child("b", STAY, stage=1)]
    supervisor = Supervisor(specs, emit=Output(), on_ready=lambda: told.append("ready"))

    async with serving(supervisor):
        await supervisor.ready.wait()
        pids = [supervisor.pid("a"), supervisor.pid("b")]

    assert None not in pids
    assert told == ["ready"]


async def test_a_stage_that_does_not_become_ready_ends_everything():
    output = Output()
    supervisor = Supervisor(
        [child("slow", STAY, ready=lambda: False)], emit=output, ready_timeout_s=0.1
    )

    async with asyncio.timeout(LIMIT_S):
        code = await supervisor.serve()

    assert code == 1
    assert output.count("supervisor", "not ready in 0.1 s: slow") == 1


async def test_stages_stop_in_reverse_order():
    output = Output()
    specs = [child("store", POLITE), child("dispatcher", POLITE, stage=1)]
    specs += [child(f"worker-{i}", POLITE, stage=2) for i in range(2)]
    supervisor = Supervisor(specs, emit=output)

    async with serving(supervisor) as task:
        for spec in specs:
            await output.wait_for(spec.name, "up")

    byes = [who for who, line in output.lines if line == "bye"]
    assert set(byes[:2]) == {"worker-0", "worker-1"}
    assert byes[2:] == ["dispatcher", "store"]
    assert task.result() == 0


async def test_a_child_that_does_not_stop_is_killed_after_the_grace():
    output = Output()
    supervisor = Supervisor([child("stubborn", STUBBORN)], emit=output, grace_s=0.1)

    async with serving(supervisor) as task:
        await output.wait_for("stubborn", "up")

    assert task.result() == 1
    assert output.count("supervisor", "still running after 0.1 s: stubborn") == 1


async def test_a_refused_configuration_ends_everything_with_its_message():
    output = Output()
    specs = [child("good", POLITE), child("bad", "print('PORT: 0..65535'); raise SystemExit(2)")]
    supervisor = Supervisor(specs, emit=output)

    async with asyncio.timeout(LIMIT_S):
        code = await supervisor.serve()

    assert code == 2
    assert output.count("bad", "PORT: 0..65535") == 1
    assert output.count("supervisor", "bad refused its configuration") == 1


async def test_a_program_that_does_not_exist_ends_everything():
    output = Output()
    supervisor = Supervisor([ChildSpec(name="none", argv=("/no/such/program",))], emit=output)

    async with asyncio.timeout(LIMIT_S):
        code = await supervisor.serve()

    assert code == 2
    assert output.count("supervisor", "cannot start none") == 1


async def test_a_stop_before_the_start_is_not_lost():
    supervisor = Supervisor([child("stubborn", STAY)], emit=Output())
    supervisor.request_stop()

    async with asyncio.timeout(LIMIT_S):
        assert await supervisor.serve() == 0


async def test_a_stop_while_a_child_is_being_spawned_is_not_lost():
    supervisor = Supervisor([child("stay", STAY)], emit=Output())

    async with serving(supervisor) as task:
        await asyncio.sleep(0)
        supervisor.request_stop()

    assert task.result() == 0
    assert supervisor.pid("stay") is None


async def test_cancelling_the_supervisor_leaves_no_child_behind():
    output = Output()
    supervisor = Supervisor([child("stubborn", STUBBORN)], emit=output)

    async with serving(supervisor) as task:
        await output.wait_for("stubborn", "up")
        pid = supervisor.pid("stubborn")
        assert pid is not None
        process_fd = os.pidfd_open(pid)
        task.cancel()

    assert ended_within(process_fd, LIMIT_S)


# ── as a process: signals and the death of the supervisor itself ─────────────────────────────────

PROGRAM = """
import sys
from stepstream.cli.supervisor import ChildSpec, Supervisor
spec = ChildSpec(name="only", argv=(sys.executable, "-S", "-c", sys.argv[1]))
sys.exit(Supervisor([spec]).run())
"""


class SupervisorProcess:
    """A supervisor with one child, as a process of its own."""

    def __init__(self, code: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, code], stdout=subprocess.PIPE, text=True
        )

    def wait_for_line(self, text: str) -> str:
        assert self.process.stdout is not None
        return next(line for line in self.process.stdout if text in line)

    def end(self) -> tuple[int, str]:
        output, _ = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, output


REPORTS_PID = "import os; print('pid', os.getpid(), flush=True);"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_cleanly(signum: signal.Signals):
    supervisor = SupervisorProcess(POLITE)
    supervisor.wait_for_line("up")

    supervisor.process.send_signal(signum)

    code, output = supervisor.end()
    assert code == 0
    assert f"{signum.name}: stopping" in output
    assert "only         | bye" in output


def test_a_second_signal_kills():
    supervisor = SupervisorProcess(STUBBORN)
    supervisor.wait_for_line("up")

    supervisor.process.send_signal(signal.SIGTERM)
    supervisor.wait_for_line("stopping")
    supervisor.process.send_signal(signal.SIGTERM)

    code, output = supervisor.end()
    assert code == 128 + signal.SIGTERM
    assert "SIGTERM again: killing" in output


@pytest.mark.skipif(
    sys.platform != "linux", reason="the kernel's parent-death signal is Linux only"
)
def test_children_end_when_the_supervisor_is_killed():
    supervisor = SupervisorProcess(REPORTS_PID + STAY)
    pid = int(supervisor.wait_for_line("pid").split()[-1])
    process_fd = os.pidfd_open(pid)

    supervisor.process.kill()

    assert ended_within(process_fd, LIMIT_S)
    supervisor.end()
