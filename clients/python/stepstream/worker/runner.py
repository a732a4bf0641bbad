"""Runs handlers: async ones on the event loop that it lives on, plain ones in threads.

This is one of the three places in the project that catch every exception: here it is the user's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import Context, copy_context
from functools import partial

import msgspec
import structlog

from stepstream.v1 import worker_service_pb2 as pb
from stepstream.worker import _frames
from stepstream.worker.attempt import Attempt
from stepstream.worker.context import StepContext
from stepstream.worker.executors import ThreadPool
from stepstream.worker.mailbox import Mailbox
from stepstream.worker.outcomes import Cancelled
from stepstream.worker.registry import Step

__all__ = ["Cancel", "Command", "ReleaseWaiting", "Runner", "Start"]

_log = structlog.get_logger("stepstream.worker")

Ended = Callable[[Attempt, pb.Settlement | None], None]


class Start(msgspec.Struct, frozen=True):
    """Run these."""

    attempts: list[Attempt]


class Cancel(msgspec.Struct, frozen=True):
    """Stop this one; its `cancelled_because` says why."""

    attempt: Attempt


class ReleaseWaiting(msgspec.Struct, frozen=True):
    """Give back what has not started."""


Command = Start | Cancel | ReleaseWaiting


class Runner:
    """Runs at most `slots` handlers at once; what comes beyond them waits its turn.

    Args:
        steps: The handlers by step type.
        slots: The most handlers at once, async and plain ones together.
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
        self._thread_ends = Mailbox(asyncio.get_running_loop(), self._threads_ended)
        self._waiting: deque[Attempt] = deque()
        self._running: dict[str, asyncio.Task[None] | None] = {}  # by token; None is a thread

    def handle(self, commands: list[Command]) -> None:
        """Does what the gRPC side asks; call it on the runner's loop."""
        for command in commands:
            match command:
                case Start(attempts):
                    self._waiting.extend(attempts)
                    self._start_waiting()
                case Cancel(attempt):
                    self._cancel(attempt)
                case ReleaseWaiting():
                    self._release_waiting()

    def stop(self) -> None:
        """Cancels the async handlers that still run, and lets the threads end when they can."""
        self._waiting.clear()
        for task in self._running.values():
            if task is not None:
                task.cancel()
        self._threads.close()

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
        elif step.is_async:
            self._running[attempt.token] = self._group.create_task(
                self._drive(attempt, step), context=self._begin(attempt)
            )
        else:
            self._running[attempt.token] = None
            context = self._begin(attempt)
            self._threads.submit(partial(context.run, self._drive_in_thread, attempt, step))

    def _cancel(self, attempt: Attempt) -> None:
        task = self._running.get(attempt.token)
        if task is not None:
            task.cancel()
        elif attempt in self._waiting:
            self._waiting.remove(attempt)
            self._start(attempt)  # which sees that it is cancelled

    def _release_waiting(self) -> None:
        while self._waiting:
            attempt = self._waiting.popleft()
            self._ended(attempt, _frames.released(attempt, "never started: the worker is leaving"))

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
        settlement: pb.Settlement | None
        try:
            settlement = _frames.completed(attempt, step.function(StepContext(attempt)))
        except BaseException as error:  # noqa: BLE001 - a thread that died would take its slot along
            settlement = _failure(attempt, error)
        # The loop hears of the free slot before the dispatcher can fill it.
        self._thread_ends.put(attempt)
        self._ended(attempt, settlement)

    def _threads_ended(self, attempts: list[Attempt]) -> None:
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
