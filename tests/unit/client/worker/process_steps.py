"""Steps that run in processes; their tests are in test_processes.py."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from stepstream.worker import Cancelled, Completed, NotRetryable, RetryAfter, StepContext, step

UNTIL_KILLED_S = 1000


@step("look", runs_in="process")
def look(ctx: StepContext) -> Completed:
    """Says what it was given, and where it runs."""
    seen = {
        "pid": os.getpid(),
        "names": [ctx.task_id, ctx.pipeline, ctx.step, ctx.assignment_id, ctx.idempotency_key],
        "attempt": ctx.attempt,
        "input": ctx.input,
        "outputs": ctx.outputs,
        "feedback": ctx.feedback,
        "labels": ctx.labels,
        "cancelled": ctx.cancelled,
    }
    return Completed(seen, outcome="passed")


@step("fail", runs_in="process")
def fail(ctx: StepContext) -> None:
    """Raises what its input says."""
    errors = {
        "not_retryable": NotRetryable("no such page", code="NO_PAGE"),
        "retry_after": RetryAfter(3, "busy"),
        "any": KeyError("x"),
        "exit": SystemExit(3),
    }
    raise errors[str(ctx.input)]


@step("die", runs_in="process")
def die(ctx: StepContext) -> None:
    """Ends its process: by a signal, or with an exit status."""
    if ctx.input == "exit":
        os._exit(3)
    number = getattr(signal, str(ctx.input), None) or signal.SIGRTMIN + 1
    os.kill(os.getpid(), number)


@step("sleep", runs_in="process")
def sleep(ctx: StepContext) -> None:
    """Waits in one call."""
    ctx.progress(0.5)
    time.sleep(UNTIL_KILLED_S)


@step("spin", runs_in="process")
def spin(ctx: StepContext) -> None:
    """Computes with every signal blocked."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    ctx.progress(0.5)
    while True:
        pass


@step("hold", runs_in="process")
def hold(ctx: StepContext) -> None:
    """Keeps the interpreter's lock in C, for as many seconds as its input says."""
    ctx.progress(0.5)
    ctypes.PyDLL(None).usleep(int(float(str(ctx.input)) * 1e6))


@step("tidy", runs_in="process")
def tidy(ctx: StepContext) -> None:
    """Removes its file when it is interrupted."""
    made = Path(str(ctx.input))
    made.touch()
    try:
        ctx.progress(0.5)
        time.sleep(UNTIL_KILLED_S)
    finally:
        made.unlink()


@step("polite", runs_in="process")
def polite(ctx: StepContext) -> None:
    """Looks whether it is to stop, and cannot be interrupted otherwise."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    ctx.progress(0.5)
    while not ctx.cancelled:
        pass
    raise Cancelled


@step("parent", runs_in="process")
def parent(ctx: StepContext) -> None:
    """Starts a process of its own and notes its id."""
    code = f"import time; time.sleep({UNTIL_KILLED_S})"
    started = subprocess.Popen([sys.executable, "-c", code])
    Path(str(ctx.input)).write_text(str(started.pid))
    ctx.progress(0.5)
    started.wait()


@step("steps", runs_in="process")
def steps(ctx: StepContext) -> None:
    """Reports progress more often than anybody wants to hear, and goes on."""
    for done in range(10_001):
        ctx.progress(done / 10_000, f"{done} of 10000")
    time.sleep(UNTIL_KILLED_S)


ALL = [look, fail, die, sleep, spin, hold, tidy, polite, parent, steps]
