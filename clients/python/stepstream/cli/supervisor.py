"""Runs the processes of one installation on one host: starts, restarts and stops them in order.

Children come in stages: a stage starts when the one before is ready, and stops when the one after
has ended (Valkey 0, dispatcher 1, workers 2).
A child that dies is started again after 0.2 s, doubling up to 5 s; ten seconds of life reset that.
A child that exits with 2 soon after its start has refused its configuration: that ends everything.
The first SIGTERM or SIGINT stops in order, a second one kills.
Should the supervisor itself be killed, the kernel ends its children (see `lifeline`).
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from stepstream.cli.lifeline import end_with_parent
from stepstream.settings import child_environment

__all__ = ["ChildSpec", "Supervisor", "print_line"]

EXIT_REFUSED = 2  # what a process answers to settings that it cannot accept
_BACKOFF_FIRST_S = 0.2
_BACKOFF_MAX_S = 5.0
_STABLE_S = 10.0
_READY_INTERVAL_S = 0.02
_KILL_WAIT_S = 5.0
_OUTPUT_WAIT_S = 1.0  # a grandchild may hold the pipe open for longer than its parent lived
_READ_BYTES = 64 * 1024
_LINE_BYTES_MAX = 64 * 1024

Emit = Callable[[str, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """One process to keep running."""

    name: str  # stands before each line of its output
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)  # added to the supervisor's environment
    ready: Callable[[], bool] | None = None  # quick and not raising; None: ready when started
    stage: int = 0  # lower stages start earlier and stop later
    pass_fds: tuple[int, ...] = ()


def print_line(name: str, line: str) -> None:
    """Writes one line of a child's output to standard output, behind the child's name."""
    sys.stdout.write(f"{name:<12} | {line}\n")
    sys.stdout.flush()


class Supervisor:
    """Keeps a list of children running until it is told to stop.

    Args:
        specs: the children; the order within a stage is the order of their start.
        emit: takes (child name, output line); news of the supervisor itself come from "supervisor".
        grace_s: seconds that a stage has to end after SIGTERM before it is killed.
        ready_timeout_s: seconds that a stage has to become ready at the start.
        on_ready: called once, when every child has become ready.
    """

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        *,
        emit: Emit = print_line,
        grace_s: float = 30.0,
        ready_timeout_s: float = 60.0,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        ordered = sorted(specs, key=lambda spec: spec.stage)
        self._stages = [
            [_Child(spec, emit) for spec in stage]
            for _, stage in groupby(ordered, key=lambda spec: spec.stage)
        ]
        self._emit = emit
        self._grace_s = grace_s
        self._ready_timeout_s = ready_timeout_s
        self._on_ready = on_ready
        self._ending = asyncio.Event()
        self._exit_code = 0
        self.ready = asyncio.Event()

    def run(self) -> int:
        """Serves until a signal arrives; returns the exit status. Call it from the main thread."""
        return asyncio.run(self.serve(handle_signals=True))

    async def serve(self, *, handle_signals: bool = False) -> int:
        """Starts the children, keeps them running, and stops them after `request_stop`.

        Returns:
            0 after a clean stop; 2 when a child refused its configuration; 1 when a stage did not
            become ready, or a child had to be killed at the end; 128 + n after a second signal n.
        """
        if handle_signals:
            self._handle_signals()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._start_stages(tasks))
            await self._ending.wait()
            await self._stop_stages()
        return self._exit_code

    def request_stop(self, exit_code: int = 0) -> None:
        """Stops everything in order; the first exit status that is not 0 stays. From the loop."""
        self._exit_code = self._exit_code or exit_code
        self._ending.set()

    def pid(self, name: str) -> int | None:
        """The process id of the child of that name; None while it is not running."""
        return next(child.pid for child in self._children() if child.spec.name == name)

    def _children(self) -> list["_Child"]:
        return [child for stage in self._stages for child in stage]

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._on_signal, signum)

    def _on_signal(self, signum: signal.Signals) -> None:
        if not self._ending.is_set():
            self._emit("supervisor", f"{signum.name}: stopping")
            self.request_stop()
            return
        self._emit("supervisor", f"{signum.name} again: killing")
        self._exit_code = 128 + signum
        for child in self._children():
            child.tell(signal.SIGKILL)

    async def _start_stages(self, tasks: asyncio.TaskGroup) -> None:
        for stage in self._stages:
            for child in stage:
                tasks.create_task(self._keep_running(child))
            if not await self._stage_ready(stage):
                return
        self.ready.set()
        if self._on_ready is not None:
            self._on_ready()

    async def _stage_ready(self, stage: list["_Child"]) -> bool:
        """Waits for the stage; asks for the stop of everything when it takes too long."""
        give_up_mono = time.monotonic() + self._ready_timeout_s
        waiting = list(stage)
        while waiting and not self._ending.is_set():
            waiting = [child for child in waiting if not child.is_ready()]
            if waiting and time.monotonic() > give_up_mono:
                names = ", ".join(child.spec.name for child in waiting)
                self._emit("supervisor", f"not ready in {self._ready_timeout_s:g} s: {names}")
                self.request_stop(1)
            elif waiting:
                await _wait_for(self._ending, _READY_INTERVAL_S)
        return not self._ending.is_set()

    async def _keep_running(self, child: "_Child") -> None:
        """Runs the child again and again, with back-off, until everything ends."""
        backoff_s = _BACKOFF_FIRST_S
        while not self._ending.is_set():
            started_mono = time.monotonic()
            code = await child.run_once()
            lived_s = time.monotonic() - started_mono
            if self._ending.is_set():
                return
            if code == EXIT_REFUSED and lived_s < _STABLE_S:
                self._emit("supervisor", f"{child.spec.name} refused its configuration (exit 2)")
                self.request_stop(EXIT_REFUSED)
                return
            if lived_s >= _STABLE_S:
                backoff_s = _BACKOFF_FIRST_S
            news = f"{child.spec.name} ended with {code}; starting it again in {backoff_s:g} s"
            self._emit("supervisor", news)
            await _wait_for(self._ending, backoff_s)
            backoff_s = min(backoff_s * 2, _BACKOFF_MAX_S)

    async def _stop_stages(self) -> None:
        for stage in reversed(self._stages):
            for child in stage:
                child.tell(signal.SIGTERM)
            if not await self._stage_ended(stage):
                for child in stage:
                    child.tell(signal.SIGKILL)
                    await _wait_for(child.ended, _KILL_WAIT_S)

    async def _stage_ended(self, stage: list["_Child"]) -> bool:
        """Waits until the stage has ended by itself; false when it has to be killed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._grace_s):
                for child in stage:
                    await child.ended.wait()
        late = [child.spec.name for child in stage if not child.ended.is_set()]
        if late:
            self._emit("supervisor", f"still running after {self._grace_s:g} s: {', '.join(late)}")
            self._exit_code = self._exit_code or 1
        return not late


class _Child:
    """The process of one specification, which may be started many times."""

    def __init__(self, spec: ChildSpec, emit: Emit) -> None:
        self.spec = spec
        self.ended = asyncio.Event()
        self.ended.set()
        self._emit = emit
        self._process: asyncio.subprocess.Process | None = None
        self._told: signal.Signals | None = None  # kept for a process that is just being spawned

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def is_ready(self) -> bool:
        if self._process is None:
            return False
        return self.spec.ready is None or self.spec.ready()

    async def run_once(self) -> int:
        """Starts the process, forwards its output, and returns its exit status."""
        self.ended.clear()
        try:
            self._process = await self._spawn()
            if self._told is not None:
                self._signal(self._told)
            return await self._attend(self._process)
        except OSError as error:
            self._emit("supervisor", f"cannot start {self.spec.name}: {error}")
            return EXIT_REFUSED
        finally:
            self._process = None
            self.ended.set()

    async def _attend(self, process: asyncio.subprocess.Process) -> int:
        async with asyncio.TaskGroup() as tasks:
            output = tasks.create_task(self._forward_output(process))
            try:
                code = await process.wait()
                await asyncio.wait((output,), timeout=_OUTPUT_WAIT_S)
            finally:
                # Alive here only when the supervisor itself was cancelled: leave nothing behind.
                self._signal(signal.SIGKILL)
                await process.wait()
            output.cancel()
        return code

    async def _spawn(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self.spec.argv,
            env=child_environment({"PYTHONUNBUFFERED": "1", **self.spec.env}),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            pass_fds=self.spec.pass_fds,
            # A group of its own: Ctrl-C reaches the supervisor alone, which then stops in order.
            process_group=0,
            preexec_fn=end_with_parent(signal.SIGTERM),
        )

    def tell(self, signum: signal.Signals) -> None:
        """Signals the process or the one that is being spawned; no other will follow it."""
        self._told = signum
        self._signal(signum)

    def _signal(self, signum: signal.Signals) -> None:
        """Signals the process; SIGKILL goes to its whole group, whose leader cannot pass it on."""
        if self._process is None or self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if signum is signal.SIGKILL:
                os.killpg(self._process.pid, signum)
            else:
                self._process.send_signal(signum)

    async def _forward_output(self, process: asyncio.subprocess.Process) -> None:
        """Emits each line; one that is longer than the limit comes in pieces."""
        assert process.stdout is not None
        rest = b""
        while chunk := await process.stdout.read(_READ_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > _LINE_BYTES_MAX:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._emit(self.spec.name, line.decode(errors="replace").rstrip("\r"))
        if rest:
            self._emit(self.spec.name, rest.decode(errors="replace"))


async def _wait_for(event: asyncio.Event, timeout_s: float) -> None:
    """Returns when the event is set, at the latest after timeout_s seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
