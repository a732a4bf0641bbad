"""A process that runs steps for a worker: `python -m stepstream.worker.child WORK_FD CONTROL_FD`.

The main thread takes one attempt after the other from `work` and runs it, so that handlers may use
signals and what else belongs there. A second thread listens on `control`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from queue import SimpleQueue
from types import FrameType
from typing import Any

import structlog

from stepstream.settings import read
from stepstream.v1 import worker_service_pb2 as pb
from stepstream.worker import _frames
from stepstream.worker.attempt import Attempt, Why
from stepstream.worker.context import StepContext
from stepstream.worker.logs import configure_logs
from stepstream.worker.pipes import STOP, Ended, Progress, Ready, Run, Setup, receive, send
from stepstream.worker.runner import run_handler
from stepstream.worker.settings import WorkerSettings
from stepstream.worker.targets import load

__all__ = ["Child"]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_EXIT_ORPHANED = 125
_ORPHAN_GRACE_S = 1.0  # for an idle process to end by itself
_PROGRESS_SPACING_S = 0.05  # heartbeats carry four a second; this is less than they notice
_TRACE_CHARACTERS_MAX = 8192

Handler = Callable[[StepContext], Any]


class Interrupted(BaseException):
    """The attempt is to stop. No Exception, because handlers catch those."""


class Child:
    """This process, as its worker sees it.

    Args:
        work: Attempts in; progress and results out.
        handlers: The functions by step type.
    """

    def __init__(self, work: Connection, handlers: Mapping[str, Handler]) -> None:
        self._work = work
        self._handlers = handlers
        self._sending = threading.Lock()
        self._attempt: Attempt | None = None
        self._progress_mono = float("-inf")
        self._late: SimpleQueue[Attempt] = SimpleQueue()

    def serve(self) -> None:
        """Runs attempts until the worker closes, or until one was told to stop."""
        threading.Thread(target=self._tell_late_progress, daemon=True).start()
        self._send(Ready())
        stopped = False
        while not stopped and (assignment := self._next()) is not None:
            stopped = self._run(assignment)

    def listen(self, control_fd: int) -> None:
        """Passes on the word to stop; ends the process some time after its worker has gone."""
        while os.read(control_fd, 1) == STOP:
            self._stop()
        time.sleep(_ORPHAN_GRACE_S)
        os._exit(_EXIT_ORPHANED)

    def on_signal(self, _number: int, _frame: FrameType | None) -> None:
        """Interrupts the handler if the worker wants it; a signal from elsewhere is not for us."""
        if self._attempt is not None and self._attempt.cancelled_because is not None:
            raise Interrupted

    def _next(self) -> pb.Assignment | None:
        try:
            frame = receive(self._work)
        except (EOFError, OSError):
            return None
        assert isinstance(frame, Run)
        return pb.Assignment.FromString(frame.assignment)

    def _run(self, assignment: pb.Assignment) -> bool:
        """Runs one attempt and reports it; True when it was told to stop."""
        attempt = Attempt(assignment, self._progressed)
        self._attempt = attempt
        result = run_handler(attempt, self._handlers[assignment.step])
        self._attempt = None
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        stopped = attempt.cancelled_because is not None
        self._send(_ended(attempt, result, stopped=stopped))
        return stopped

    def _stop(self) -> None:
        attempt = self._attempt
        if attempt is not None:
            attempt.cancelled_because = Why.REQUESTED
            # From within, so that the flag is up before the main thread looks.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def _progressed(self, attempt: Attempt) -> None:
        """Tells at once, unless something was told a moment ago: then the latest, a little later.

        At once, because a handler may hold the interpreter's lock right after.
        """
        if time.monotonic() - self._progress_mono >= _PROGRESS_SPACING_S:
            self._tell_progress(attempt)
        else:
            self._late.put(attempt)

    def _tell_late_progress(self) -> None:
        while True:
            attempt = self._late.get()
            time.sleep(_PROGRESS_SPACING_S)
            self._tell_progress(attempt)

    def _tell_progress(self, attempt: Attempt) -> None:
        self._progress_mono = time.monotonic()
        self._send(Progress(attempt.token, *attempt.read_progress()))

    def _send(self, frame: Ready | Progress | Ended) -> None:
        with self._sending:
            send(self._work, frame)


def _ended(attempt: Attempt, result: pb.Settlement | BaseException, *, stopped: bool) -> Ended:
    if not isinstance(result, BaseException):
        return Ended(settlement=result.SerializeToString())
    if stopped:
        return Ended(settlement=None)
    trace = "".join(traceback.format_exception(result))[-_TRACE_CHARACTERS_MAX:]
    return Ended(settlement=_frames.failure(attempt, result).SerializeToString(), trace=trace)


def _end_with(parent: int) -> None:
    """Asks the kernel to kill this process when its worker is killed; the pipes do it elsewhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(_EXIT_ORPHANED)


def _main(work: Connection, control_fd: int) -> None:
    setup = receive(work)
    assert isinstance(setup, Setup)
    _end_with(setup.parent)
    sys.path[:], sys.argv[:] = setup.path, setup.argv
    child = Child(work, {target.step: load(target) for target in setup.targets})
    if not structlog.is_configured():
        settings = read(WorkerSettings)
        configure_logs(settings.log_format, debug=settings.debug)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, child.on_signal)
    threading.Thread(target=child.listen, args=[control_fd], daemon=True).start()
    child.serve()


if __name__ == "__main__":
    try:
        _main(Connection(int(sys.argv[1])), int(sys.argv[2]))
    except (Interrupted, BrokenPipeError):  # a stop that came late, or a worker that is gone
        sys.exit(0)
