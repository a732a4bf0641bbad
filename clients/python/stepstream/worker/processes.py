"""Processes for handlers that compute, or that have to be killed when they are to stop.

A process takes one attempt after the other. One that was told to stop is not used again, because
nobody knows where its handler was interrupted: it is replaced. None is ever forked: threads of grpc
are alive here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection, wait

import structlog

from stepstream.v1 import worker_service_pb2 as pb
from stepstream.worker import _frames
from stepstream.worker.attempt import Attempt
from stepstream.worker.executors import ThreadPool
from stepstream.worker.pipes import STOP, Ended, Frame, Progress, Ready, Run, Setup, receive, send
from stepstream.worker.targets import Target

__all__ = ["STOP_GRACE_S", "ProcessPool", "StepProcess", "is_step_process"]

_log = structlog.get_logger("stepstream.worker")

STOP_GRACE_S = 0.5
"""From the word to stop to SIGKILL: enough to remove a file, short enough not to be noticed."""

_CHILD = "stepstream.worker.child"
_DIED = "WORKER_PROCESS_DIED"
_SIGNALS = {int(one): one.name for one in signal.Signals}  # some real-time signals have no name

Done = Callable[[pb.Settlement | None], object]


def is_step_process() -> bool:
    """Whether this is a process that runs steps for a worker."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and spec.name == _CHILD


class StepProcess:
    """One process. Constructing it starts it; `run` belongs to one thread at a time.

    It leads a process group of its own: a Ctrl-C is for the worker alone, and what a handler has
    started is killed along with it.

    Args:
        targets: The functions that it is to find.

    Raises:
        OSError: The system cannot start a process.
    """

    def __init__(self, targets: Sequence[Target]) -> None:
        (work, its_work), (control, its_control) = socket.socketpair(), socket.socketpair()
        self._work = Connection(work.detach())
        self._control = control
        self._reaping = threading.Lock()
        self._ready = False
        try:
            self._process = subprocess.Popen(
                (sys.executable, "-m", _CHILD, str(its_work.fileno()), str(its_control.fileno())),
                stdin=subprocess.DEVNULL,
                pass_fds=(its_work.fileno(), its_control.fileno()),
                process_group=0,
            )
        except OSError:
            self.hang_up()
            raise
        finally:
            its_work.close()
            its_control.close()
        self._pid_fd = os.pidfd_open(self._process.pid) if hasattr(os, "pidfd_open") else None
        self._setup = Setup(
            parent=os.getpid(), path=list(sys.path), argv=list(sys.argv), targets=list(targets)
        )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def await_ready(self) -> None:
        """Waits until it has loaded its functions, which takes as long as the user's imports.

        Raises:
            EOFError: It has ended.
            OSError: It has ended.
        """
        if not self._ready:
            send(self._work, self._setup)
            frame = self._receive()
            assert isinstance(frame, Ready)
            self._ready = True

    def run(self, attempt: Attempt) -> Ended:
        """Has an attempt done; passes on its progress.

        Raises:
            EOFError: It has ended before the attempt has.
            OSError: It has ended before the attempt has.
        """
        self.await_ready()
        send(self._work, Run(attempt.assignment.SerializeToString()))
        while not isinstance(frame := self._receive(), Ended):
            if isinstance(frame, Progress) and frame.token == attempt.token:
                attempt.report_progress(frame.fraction, frame.note)
        return frame

    def stop(self) -> None:
        """Tells the handler to stop, and kills it a little later; thread safe, returns at once."""
        with contextlib.suppress(OSError):  # it has ended
            self._control.send(STOP)
        timer = threading.Timer(STOP_GRACE_S, self.kill)
        timer.daemon = True
        timer.start()

    def kill(self) -> None:
        """Kills it, and whatever it has started; nothing once it has been reaped."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def hang_up(self) -> None:
        """Closes the pipes, upon which an idle process ends by itself."""
        self._work.close()
        self._control.close()

    def reap(self, limit_s: float = 0.0) -> int:
        """Waits for its end, at most so many seconds, kills what is left, and says how it ended.

        Returns:
            The exit status, negative for a signal.
        """
        with self._reaping:
            if self._pid_fd is not None:
                wait([self._pid_fd], limit_s)  # without reaping it: its group has to be known yet
                os.close(self._pid_fd)
                self._pid_fd = None
            elif self._process.returncode is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(limit_s)
            self.kill()
            return self._process.wait()

    def how_it_ended(self) -> str:
        """Waits for the end of one whose pipe has broken, and says for a person how it was."""
        status = self.reap(STOP_GRACE_S)
        how = f"exit status {status}" if status >= 0 else _SIGNALS.get(-status, f"signal {-status}")
        if not self._ready:
            return f"the step's process ended with {how} before it was ready: see standard error"
        return f"the step's process ended with {how}"

    def _receive(self) -> Frame:
        # What the handler has forked holds the pipe open, so its end is not waited for alone.
        if self._pid_fd is not None and self._work not in wait([self._work, self._pid_fd]):
            raise EOFError
        return receive(self._work)


class ProcessPool:
    """At most `size` processes, each started when an attempt finds none idle, and kept.

    Args:
        size: The most processes.
        targets: The functions that they are to find; without any, nothing is ever started.
    """

    def __init__(self, size: int, targets: Sequence[Target]) -> None:
        self._size = size
        self._targets = targets
        self._threads = ThreadPool(size, "stepstream-process")
        self._lock = threading.Lock()
        self._starting = 0
        self._started = threading.Condition(self._lock)
        self._idle: list[StepProcess] = []
        self._taken: dict[StepProcess, str] = {}  # with the token of the attempt; "" is none yet
        self._closed = False

    def warm_up(self) -> None:
        """Starts a process for each core, at most `size`; returns at once."""
        if self._targets:
            for _ in range(min(self._size, os.cpu_count() or 1)):
                self._threads.submit(self._add)

    def submit(self, attempt: Attempt, done: Done) -> None:
        """Has an attempt done; `done` gets its result, in some thread."""
        self._threads.submit(partial(self._drive, attempt, done))

    def stop(self, attempt: Attempt) -> None:
        """Stops an attempt whose `cancelled_because` is set; thread safe, returns at once."""
        with self._lock:
            held = [one for one, token in self._taken.items() if token == attempt.token]
        for process in held:
            process.stop()

    def close(self) -> None:
        """Ends all processes: idle ones by themselves, the others at once. Waits for them."""
        with self._lock:
            self._closed = True
            self._started.wait_for(lambda: not self._starting, STOP_GRACE_S)
            idle, taken = self._idle, list(self._taken)
            self._idle = []
        for process in taken:
            process.kill()
        for process in idle:
            process.hang_up()
        end_mono = time.monotonic() + STOP_GRACE_S
        for process in (*taken, *idle):
            process.reap(max(0.0, end_mono - time.monotonic()))
        self._threads.close()

    def _drive(self, attempt: Attempt, done: Done) -> None:
        try:
            process = self._take()
        except OSError as error:
            words = f"no process for the step: {error}"
            done(_frames.failed(attempt, _DIED, words, retryable=True))
            return
        done(self._attend(process, attempt))
        if not self._give_back(process, reusable=attempt.cancelled_because is None):
            self._add()

    def _add(self) -> None:
        """Starts a process in advance."""
        try:
            process = self._start()
        except OSError as error:
            if not self._closed:
                _log.error("no process for steps", reason=str(error))
            return
        try:
            process.await_ready()
        except (EOFError, OSError):
            if not self._closed:
                _log.error("no process for steps", reason=process.how_it_ended())
        self._give_back(process, reusable=True)

    def _attend(self, process: StepProcess, attempt: Attempt) -> pb.Settlement | None:
        """Has an attempt done by a process; returns its result."""
        with self._lock:
            if attempt.cancelled_because is not None:
                return _frames.stopped(attempt, attempt.cancelled_because)
            self._taken[process] = attempt.token
        try:
            ended = process.run(attempt)
        except (EOFError, OSError):
            ended = None
        if ended is not None and ended.settlement is not None:
            if ended.trace:
                _log_failure(attempt, ended.trace)
            return pb.Settlement.FromString(ended.settlement)
        return _unfinished(process, attempt)

    def _take(self) -> StepProcess:
        """An idle process, or a new one.

        Raises:
            OSError: The system cannot start a process, or the pool is closed.
        """
        while True:
            with self._lock:
                if not self._idle:
                    break
                process = self._idle.pop()
                self._taken[process] = ""
            if process.is_alive:
                return process
            self._give_back(process, reusable=False)
        return self._start()

    def _start(self) -> StepProcess:
        with self._being_started():
            process = StepProcess(self._targets)
            with self._lock:
                self._taken[process] = ""
                if self._closed:
                    process.kill()
        return process

    @contextlib.contextmanager
    def _being_started(self) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise OSError("the worker has ended")
            self._starting += 1
        try:
            yield
        finally:
            with self._lock:
                self._starting -= 1
                self._started.notify_all()

    def _give_back(self, process: StepProcess, *, reusable: bool) -> bool:
        """Keeps a process for the next attempt, or ends it; says whether it was kept."""
        with self._lock:
            if reusable and process.is_alive and not self._closed:
                del self._taken[process]
                self._idle.append(process)
                return True
        process.hang_up()
        process.kill()
        process.reap()
        with self._lock:
            del self._taken[process]  # only now: `close` waits for those that it finds there
        return False


def _unfinished(process: StepProcess, attempt: Attempt) -> pb.Settlement | None:
    """The result of an attempt that a process has not brought to its end."""
    if attempt.cancelled_because is not None:
        return _frames.stopped(attempt, attempt.cancelled_because)
    words = process.how_it_ended()
    _log_failure(attempt, words)
    return _frames.failed(attempt, _DIED, words, retryable=True)


def _log_failure(attempt: Attempt, words: str) -> None:
    _log.warning(
        "attempt failed",
        task_id=attempt.assignment.task_id,
        step=attempt.assignment.step,
        attempt=attempt.assignment.attempt,
        exception=words,
    )
