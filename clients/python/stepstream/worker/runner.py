"""Runs handlers: on the event loop that it lives on, in threads or in processes.

This is one of the three places in the project that catch every exception: here it is the user's.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import Context, copy_context
from functools import partial
from time import monotonic
from typing import Any

import msgspec
import structlog

from stepstream.v1 import worker_service_pb2 as pb
from stepstream.worker import _frames
from stepstream.worker.attempt import Attempt
from stepstream.worker.context import StepContext
from stepstream.worker.executors import ThreadPool
from stepstream.worker.mailbox import Mailbox
from stepstream.worker.outcomes import Cancelled
from stepstream.worker.processes import ProcessPool
from stepstream.worker.registry import RunsIn, Step
from stepstream.worker.targets import target_of

__all__ = ["Cancel", "Command", "ReleaseWaiting", "Runner", "Start", "run_handler"]

_log = structlog.get_logger("stepstream.worker")

Ended = Callable[[Attempt, pb.Settlement | None], None]
Stop = Callable[[], object]


class Start(msgspec.Struct, frozen=True):
    """Run these."""

    attempts: list[Attempt]


class Cancel(msgspec.Struct, frozen=True):
    """Stop this one; its `cancelled_because` says why."""

    attempt: Attempt


class ReleaseWaiting(msgspec.Struct, frozen=True):
    """Give back what has not started."""

    why: str
    received_before_mono: float = math.inf  # only what came until then


Command = Start | Cancel | ReleaseWaiting


class Runner:
    """Runs at most `slots` handlers at once; what comes beyond them waits its turn.

    Args:
        steps: The handlers by step type.
        slots: The most handlers at once, wherever they run.
        group: Parent of the async handlers' tasks; lives on the loop that `handle` is called on.
        ended: Called once for each attempt, from any thread, with its result.
        begin: Called when an attempt begins; returns the context that its handler runs in.
    """

    def __init__(
        self,
        steps: Mapping[str, Step],
        slots: int,
        group: asyncio.TaskGroup,
        ended: Ended,
        begin: Callable[[Attempt], Context] = lambda _: copy_context(),
    ) -> None:
        self._steps = steps
        self._slots = slots
        self._group = group
        self._ended = ended
        self._begin = begin
        self._threads = ThreadPool(slots, "stepstream-step")
        apart = [target_of(one) for one in steps.values() if one.runs_in is RunsIn.PROCESS]
        self._processes = ProcessPool(slots, apart)
        self._far_ends = Mailbox(asyncio.get_running_loop(), self._ended_elsewhere)
        self._waiting: deque[Attempt] = deque()
        self._running: dict[str, Stop] = {}  # by token: how to stop it
        self._executors: dict[RunsIn, Callable[[Attempt, Step], Stop]] = {
            RunsIn.LOOP: self._start_on_loop,
            RunsIn.THREAD: self._start_in_thread,
            RunsIn.PROCESS: self._start_in_process,
        }

    def warm_up(self) -> None:
        """Starts processes in advance, where there are steps for them; returns at once."""
        self._processes.warm_up()

    def handle(self, commands: list[Command]) -> None:
        """Does what the gRPC side asks; call it on the runner's loop."""
        for command in commands:
            match command:
                case Start(attempts):
                    self._waiting.extend(attempts)
                    self._start_waiting()
                case Cancel(attempt):
                    self._cancel(attempt)
                case ReleaseWaiting(why, received_before_mono):
                    self._release_waiting(why, received_before_mono)

    def stop(self) -> None:
        """Stops what still runs and ends the processes; threads end when they can.

        Waits for the processes, for a bounded time.
        """
        self._waiting.clear()
        for stop in self._running.values():
            stop()
        self._threads.close()
        self._processes.close()

    def _start_waiting(self) -> None:
        while self._waiting and len(self._running) < self._slots:
            self._start(self._waiting.popleft())

    def _start(self, attempt: Attempt) -> None:
        step = self._steps.get(attempt.assignment.step)
        if attempt.cancelled_because is not None:
            self._ended(attempt, _frames.stopped(attempt, attempt.cancelled_because))
        elif step is None:
            words = f"this worker has no step {attempt.assignment.step!r}"
            self._ended(attempt, _frames.failed(attempt, "UNKNOWN_STEP", words, retryable=True))
        else:
            attempt.began_mono = monotonic()
            self._running[attempt.token] = self._executors[step.runs_in](attempt, step)

    def _start_on_loop(self, attempt: Attempt, step: Step) -> Stop:
        context = self._begin(attempt)
        task = self._group.create_task(self._drive(attempt, step), context=context)
        # Not at once: a task that is cancelled before its first step never takes it.
        return lambda: asyncio.get_running_loop().call_soon(task.cancel)

    def _start_in_thread(self, attempt: Attempt, step: Step) -> Stop:
        context = self._begin(attempt)
        self._threads.submit(partial(context.run, self._drive_in_thread, attempt, step))
        return _wait_for_it

    def _start_in_process(self, attempt: Attempt, _step: Step) -> Stop:
        self._begin(attempt)
        self._processes.submit(attempt, partial(self._end_elsewhere, attempt))
        return partial(self._processes.stop, attempt)

    def _cancel(self, attempt: Attempt) -> None:
        stop = self._running.get(attempt.token)
        if stop is not None:
            stop()
        elif attempt in self._waiting:
            self._waiting.remove(attempt)
            self._start(attempt)  # which sees that it is cancelled

    def _release_waiting(self, why: str, before_mono: float) -> None:
        while self._waiting and self._waiting[0].received_mono <= before_mono:
            attempt = self._waiting.popleft()
            self._ended(attempt, _frames.released(attempt, f"never started: {why}"))

    async def _drive(self, attempt: Attempt, step: Step) -> None:
        settlement: pb.Settlement | None
        try:
            settlement = _frames.completed(attempt, await step.function(StepContext(attempt)))
        except asyncio.CancelledError as error:
            settlement = self._cancelled(attempt, error)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's code, any error
            settlement = _failure(attempt, error)
        del self._running[attempt.token]
        self._ended(attempt, settlement)
        self._start_waiting()

    def _drive_in_thread(self, attempt: Attempt, step: Step) -> None:
        result = run_handler(attempt, step.function)
        if isinstance(result, BaseException):
            self._end_elsewhere(attempt, _failure(attempt, result))
        else:
            self._end_elsewhere(attempt, result)

    def _end_elsewhere(self, attempt: Attempt, settlement: pb.Settlement | None) -> None:
        # The loop hears of the free slot before the dispatcher can fill it.
        self._far_ends.put(attempt)
        self._ended(attempt, settlement)

    def _ended_elsewhere(self, attempts: list[Attempt]) -> None:
        for attempt in attempts:
            del self._running[attempt.token]
        self._start_waiting()

    def _cancelled(self, attempt: Attempt, error: asyncio.CancelledError) -> pb.Settlement | None:
        """A cancelled handler; one that nobody cancelled has let an inner cancellation escape."""
        if attempt.cancelled_because is not None:
            return _frames.stopped(attempt, attempt.cancelled_because)
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise error
        return _failure(attempt, error)


def run_handler(
    attempt: Attempt, function: Callable[[StepContext], Any]
) -> pb.Settlement | BaseException:
    """Runs a plain handler to its end; returns its result, or what it raised."""
    try:
        return _frames.completed(attempt, function(StepContext(attempt)))
    except BaseException as error:  # noqa: BLE001 - what died of it would take its slot along
        return error


def _wait_for_it() -> None:
    """How to stop a thread: it looks at `StepContext.cancelled`, or it does not."""


def _failure(attempt: Attempt, error: BaseException) -> pb.Settlement | None:
    if (
        isinstance(error, Cancelled | asyncio.CancelledError)
        and attempt.cancelled_because is not None
    ):
        return _frames.stopped(attempt, attempt.cancelled_because)
    _log.warning(
        "attempt failed",
        task_id=attempt.assignment.task_id,
        step=attempt.assignment.step,
        attempt=attempt.assignment.attempt,
        exc_info=error,
    )
    return _frames.failure(attempt, error)
