"""A worker process: handlers on the caller's event loop, gRPC on a loop and thread of its own.

The two loops meet in two mailboxes and nowhere else, so a handler that blocks its loop delays other
handlers and never a heartbeat.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from types import FrameType

import structlog

from stepstream._telemetry import WORKER_SERVICE
from stepstream.errors import InternalError, StepstreamError
from stepstream.session import STREAM_AGE_S
from stepstream.settings import SettingsError, read
from stepstream.telemetry import open_telemetry
from stepstream.worker._frames import Identity
from stepstream.worker.desk import Handlers
from stepstream.worker.lag import LagMeter
from stepstream.worker.link import Abort, Ended, Leave, Link, Moved, News
from stepstream.worker.logs import configure_logs
from stepstream.worker.mailbox import Mailbox
from stepstream.worker.processes import is_step_process
from stepstream.worker.registry import RunsIn, Step, steps_by_name
from stepstream.worker.runner import Command, Runner
from stepstream.worker.settings import WorkerSettings, default_name
from stepstream.worker.targets import target_of
from stepstream.worker.tracing import AttemptSpans

__all__ = ["Worker"]

_STOP_LIMIT_S = 1.0  # how long handlers that were given back may keep a process alive
_JOIN_LIMIT_S = 3.0  # an aborted gRPC loop ends in milliseconds


class Worker:
    """Serves steps. Constructing it reads nothing and starts nothing.

    Args:
        steps: Handlers made with `@step`.
        name: Stable name for people and counters. None: STEPSTREAM_WORKER_NAME, else the
            host and the process.
        queues: Queues to be fed from.
        slots: The most attempts at once. None: MAX_CONCURRENT_TASKS, else 3.
        address: `host:port` of a dispatcher, or several. None: STEPSTREAM_ADDRESS.
        labels: Up to 16 labels.

    Raises:
        ValueError: There is no step or queue, two handlers serve one step, or the function of a
            step that runs in a process cannot be found by its name.
        TypeError: One of the steps is not a step.
    """

    def __init__(
        self,
        steps: Iterable[Step],
        *,
        name: str | None = None,
        queues: Sequence[str] = ("default",),
        slots: int | None = None,
        address: str | Sequence[str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        if not queues or (slots is not None and slots < 1):
            raise ValueError("a worker needs at least one queue and one slot")
        self.stream_age_s = STREAM_AGE_S
        self._steps = steps_by_name(steps)
        for one in self._steps.values():
            if one.runs_in is RunsIn.PROCESS:
                target_of(one)
        self._name = name
        self._queues = tuple(queues)
        self._slots = slots
        self._address = address
        self._labels = dict(labels or {})
        self._to_link: Mailbox[News] | None = None
        self._leave: Leave | None = None
        self._exit_timer: threading.Timer | None = None

    def run(self) -> None:
        """Serves until SIGTERM or SIGINT: the first drains, the second exits at once.

        Call it in the main thread. A setting that cannot be used ends the process with status 2.

        Raises:
            StepstreamError: A dispatcher refuses this worker for good.
        """
        _refuse_step_process()
        before = {one: signal.signal(one, self._on_signal) for one in _SIGNALS}
        try:
            settings = read(WorkerSettings)
            if not structlog.is_configured():
                configure_logs(settings.log_format, debug=settings.debug)
            asyncio.run(self._serve(leaves_process=True))
        except SettingsError as error:
            sys.stderr.write(f"{error}\n")
            raise SystemExit(2) from error
        finally:
            if self._exit_timer is not None:
                self._exit_timer.cancel()
            for one, handler in before.items():
                signal.signal(one, handler)

    async def serve(self) -> None:
        """Serves on the running loop until `drain` has been called and done.

        Cancelling it drops the session at once; the dispatcher then counts what ran as lost.

        Raises:
            StepstreamError: A dispatcher refuses this worker for good.
            SettingsError: The environment has a value that cannot be used.
        """
        _refuse_step_process()
        await self._serve(leaves_process=False)

    def drain(self, grace_s: float | None = None) -> None:
        """Begins to leave: takes nothing more, finishes what runs. Thread safe; may come early.

        Args:
            grace_s: Seconds for what runs; then it is given back uncharged. None:
                STEPSTREAM_WORKER_GRACE.
        """
        if self._leave is None:
            self._leave = Leave(read(WorkerSettings).grace_s if grace_s is None else grace_s)
        if self._to_link is not None:
            self._to_link.put(self._leave)

    async def _serve(self, *, leaves_process: bool) -> None:
        settings = read(WorkerSettings)
        slots = self._slots or settings.slots
        lag = LagMeter(asyncio.get_running_loop())
        identity = self._identity(settings)
        telemetry = open_telemetry(service=WORKER_SERVICE, instance=identity.name)
        spans = AttemptSpans(telemetry, identity.name)

        def gone() -> None:
            spans.close()
            if leaves_process:
                self._gone()

        async with asyncio.TaskGroup() as group:
            thread = _LinkThread(gone)
            runner = Runner(
                self._steps, slots, group, lambda *end: to_link.put(Ended(*end)), spans.begin
            )
            to_handlers: Mailbox[Command] = Mailbox(asyncio.get_running_loop(), runner.handle)
            handlers = Handlers(
                slots=slots,
                takes_ahead=settings.takes_ahead,
                send=to_handlers.put,
                moved=lambda attempt: to_link.put(Moved(attempt)),
                loop_lag_s=lag.lag_s,
                spans=spans,
            )
            link = Link(
                identity,
                self._addresses(settings),
                handlers,
                stream_age_s=self.stream_age_s,
            )
            to_link: Mailbox[News] = Mailbox(thread.loop, link.handle)
            runner.warm_up()
            thread.start(link)
            self._to_link = to_link
            if self._leave is not None:
                to_link.put(self._leave)
            try:
                await thread.done.wait()
            finally:
                to_link.put(Abort())
                runner.stop()
                lag.stop()
                thread.join()
        thread.raise_error()

    def _identity(self, settings: WorkerSettings) -> Identity:
        return Identity(
            name=self._name or settings.name or default_name(),
            instance_id=uuid.uuid4().hex,
            sdk=f"stepstream-python/{version('stepstream')}",
            queues=self._queues,
            step_types=tuple(self._steps),
            labels=self._labels,
        )

    def _addresses(self, settings: WorkerSettings) -> Sequence[str]:
        if self._address is None:
            return settings.addresses
        return (self._address,) if isinstance(self._address, str) else self._address

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._leave is not None:
            os._exit(128 + number)
        self.drain()

    def _gone(self) -> None:
        """The session is over: a handler that ignores its cancellation may not hold the process."""
        self._exit_timer = threading.Timer(_STOP_LIMIT_S, os._exit, [0 if self._leave else 1])
        self._exit_timer.daemon = True
        self._exit_timer.start()


class _LinkThread:
    """The thread on which gRPC lives.

    Args:
        gone: Called in that thread when the link has ended.
    """

    def __init__(self, gone: Callable[[], None]) -> None:
        self.loop = asyncio.new_event_loop()
        self.done = asyncio.Event()
        self._gone = gone
        self._ended: Mailbox[None] = Mailbox(asyncio.get_running_loop(), lambda _: self.done.set())
        self._error: StepstreamError | TimeoutError | None = InternalError(
            "the worker's gRPC loop broke; its traceback is on standard error"
        )
        self._thread: threading.Thread | None = None

    def start(self, link: Link) -> None:
        """Runs the link; `done` is set when it has ended."""
        self._thread = threading.Thread(
            target=self._main, args=[link], name="stepstream-grpc", daemon=True
        )
        self._thread.start()

    def join(self) -> None:
        """Waits for the end of an aborted link, for a bounded time."""
        if self._thread is not None:
            self._thread.join(_JOIN_LIMIT_S)

    def raise_error(self) -> None:
        """Raises what ended the link, if anything did."""
        if self._error is not None:
            raise self._error

    def _main(self, link: Link) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
                runner.run(link.run())
            self._error = None
        except (StepstreamError, TimeoutError) as error:
            self._error = error
        finally:
            self._gone()
            self._ended.put(None)


def _refuse_step_process() -> None:
    if is_step_process():
        raise RuntimeError(
            "a step's process imports the program that defines the step, and must not start a "
            'worker there: put `Worker(...).run()` under `if __name__ == "__main__":`'
        )


_SIGNALS = (signal.SIGTERM, signal.SIGINT)
