"""The processes of one installation: how each is started, and when it counts as ready."""

import importlib.util
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stepstream.cli.exits import CommandError, Exit
from stepstream.cli.lifeline import end_with_parent
from stepstream.cli.probe import Roster, dialable, free_address, is_ready
from stepstream.cli.supervisor import ChildSpec
from stepstream.cli.valkey import EmbeddedValkey
from stepstream.settings import LocalSettings, child_environment, read

__all__ = [
    "DISPATCHER",
    "WORKER",
    "Stack",
    "embedded_valkey",
    "is_installed",
    "missing_parts",
    "require",
    "temporary_dispatcher",
]

DISPATCHER = "stepstream_dispatcher"
WORKER = "stepstream_worker"

_NEEDS = {
    DISPATCHER: ("redis", "starlette", "uvicorn", "grpc_reflection", "grpc_health"),
    WORKER: ("opencc", "sacrebleu"),
}
_READY_TIMEOUT_S = 30.0
_READY_INTERVAL_S = 0.02
_STOP_GRACE_S = 10.0
_LOG_LINES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A dispatcher and its workers on one host."""

    redis_url: str
    grpc_address: str
    http_address: str
    data_dir: Path
    worker_count: int
    slots: int  # of each worker
    extra: Mapping[str, str]  # more environment, for all
    parallel: bool = True  # False: synchronous, without Redis

    @property
    def address(self) -> str:
        """Where clients and workers call."""
        return dialable(self.grpc_address)

    def children(self) -> list[ChildSpec]:
        """The specifications for the supervisor: dispatcher (stage 1), workers (stage 2)."""
        roster = Roster(self.http_address)
        names = [f"worker-{number}" for number in range(self.worker_count)]
        return [self._dispatcher(), *(self._worker(name, roster) for name in names)]

    def dispatcher_environment(self) -> dict[str, str]:
        """What the dispatcher is told beside what it inherits."""
        return {
            "USE_PARALLEL_PROCESSING": str(self.parallel).lower(),
            **({"REDIS_URL": self.redis_url} if self.parallel else {}),
            "STEPSTREAM_GRPC_ADDRESS": self.grpc_address,
            "STEPSTREAM_HTTP_ADDRESS": self.http_address,
            "STEPSTREAM_DATA_DIR": str(self.data_dir),
            **self.extra,
        }

    def _dispatcher(self) -> ChildSpec:
        return ChildSpec(
            name="dispatcher",
            argv=(sys.executable, "-m", DISPATCHER),
            env=self.dispatcher_environment(),
            ready=lambda: is_ready(self.http_address),
            stage=1,
        )

    def _worker(self, name: str, roster: Roster) -> ChildSpec:
        environment = {
            "STEPSTREAM_ADDRESS": self.address,
            "STEPSTREAM_WORKER_NAME": name,
            "MAX_CONCURRENT_TASKS": str(self.slots),
            **self.extra,
        }
        return ChildSpec(
            name=name,
            argv=(sys.executable, "-m", WORKER),
            env=environment,
            ready=lambda: roster.has(name),
            stage=2,
        )


def missing_parts(module: str) -> list[str]:
    """The libraries of a service that are not installed."""
    return [name for name in _NEEDS[module] if importlib.util.find_spec(name) is None]


def is_installed(module: str) -> bool:
    """Whether a service can be started."""
    return not missing_parts(module)


def require(module: str) -> None:
    """Checks that the libraries of a service are installed.

    Raises:
        CommandError: one is missing; the message says what to install.
    """
    if missing := missing_parts(module):
        extra = module.removeprefix("stepstream_")
        words = f"{', '.join(missing)} not installed: pip install 'stepstream[{extra}]'"
        raise CommandError(words, Exit.USAGE)


def embedded_valkey(data_dir: Path) -> EmbeddedValkey:
    """The embedded server of an installation's data directory."""
    return EmbeddedValkey(data_dir / "valkey")


@contextmanager
def temporary_dispatcher(data_dir: Path) -> Iterator[str]:
    """Runs what is needed, without workers, on data that is there already: see `_server_on`.

    Yields:
        The gRPC address.

    Raises:
        CommandError: there is no data, or the dispatcher does not become ready.
        EmbeddedValkeyError: the data is in use, or the server does not start.
    """
    with _server_on(data_dir) as redis_url:
        require(DISPATCHER)
        stack = Stack(
            redis_url=redis_url,
            grpc_address=free_address(),
            http_address=free_address(),
            data_dir=data_dir / "dispatcher",
            worker_count=0,
            slots=1,
            extra={"ENABLE_METRICS": "false", "STEPSTREAM_DISPATCHER_ID": "review"},
            parallel=bool(redis_url),
        )
        with _dispatcher_process(stack, data_dir / "review.log"):
            yield stack.address


@contextmanager
def _server_on(data_dir: Path) -> Iterator[str]:
    """Runs the embedded server on its data; yields its URL, empty for data of synchronous mode.

    Raises:
        CommandError: there is neither.
    """
    kept = (data_dir / "valkey").is_dir(), (data_dir / "dispatcher" / "tasks.sqlite").is_file()
    if not any(kept):
        message = f"no data in {data_dir}: `stepstream demo` and `stepstream start` make some"
        raise CommandError(message, Exit.NOT_FOUND)
    if kept == (False, True) or (all(kept) and not read(LocalSettings).parallel):
        yield ""
        return
    with embedded_valkey(data_dir) as server:
        yield server.url


@contextmanager
def _dispatcher_process(stack: Stack, log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            (sys.executable, "-m", DISPATCHER),
            env=child_environment(stack.dispatcher_environment()),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
            preexec_fn=end_with_parent(),  # noqa: PLW1509 - it makes system calls only
        )
        try:
            _await_ready(process, stack.http_address, log)
            yield
        finally:
            _stop(process)


def _await_ready(process: subprocess.Popen[bytes], http_address: str, log: Path) -> None:
    give_up_mono = time.monotonic() + _READY_TIMEOUT_S
    while not is_ready(http_address):
        if process.poll() is not None or time.monotonic() > give_up_mono:
            lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
            raise CommandError(f"the dispatcher did not start: {' / '.join(lines)}")
        time.sleep(_READY_INTERVAL_S)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
