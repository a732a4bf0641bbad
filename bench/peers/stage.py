"""The processes of one measurement: a fresh Valkey, a peer's workers, and its enqueuing process."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Final, Self

from bench.peers.install import python_of
from bench.peers.peer import ADAPTERS, Peer
from bench.peers.reports import Report, Reports
from stepstream.cli.lifeline import end_with_parent
from stepstream.cli.valkey import EmbeddedValkey

__all__ = ["Stage", "StalledError"]

READY_S: Final = 60.0
WARM_TASKS: Final = 100  # at once, until each worker has done one
WARM_S: Final = 5.0  # after which more are sent, for a worker that has not begun to read


class StalledError(Exception):
    """A peer did not do its work in time; the message has the last words of its processes."""


class Stage:
    """A peer ready to work; a context manager that ends everything that it started.

    Args:
        peer: whose processes.
        home: its environment.
        workers: how many worker processes.
        slots: of each of them.
        short: whether its tasks take no time, for peers that are set up by that.
    """

    def __init__(self, peer: Peer, home: Path, workers: int, slots: int, *, short: bool) -> None:
        self._peer = peer
        self._home = home
        self._workers = workers
        self._slots = slots
        self._short = short
        self._next = 0
        self._stack = ExitStack()
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._stack = stack
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="stepstream-"))
            self._log = stack.enter_context((Path(folder) / "log").open("w+b"))
            port = _free_port()
            stack.enter_context(EmbeddedValkey(Path(folder) / "valkey", tcp_port=port))
            self.reports = stack.enter_context(Reports(Path(folder) / "reports"))
            self._environment = self._variables(folder, f"redis://127.0.0.1:{port}/0")
            self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def submit(self, kind: str, amount: int) -> range:
        """Have the producer enqueue tasks; answers at once with their numbers."""
        tasks = range(self._next, self._next + amount)
        self._next = tasks.stop
        assert self._producer.stdin is not None
        self._producer.stdin.write(f"{kind} {tasks.start} {amount}\n".encode())
        self._producer.stdin.flush()
        return tasks

    def sent(self, limit_s: float) -> None:
        """Wait until the producer has enqueued what it was asked for."""
        self._answer(b"sent\n", limit_s)

    def all_ended(self, tasks: range, limit_s: float) -> float:
        """Wait until all tasks have ended; the time of time.perf_counter then.

        Raises:
            StalledError: some had not within `limit_s`.
        """
        until_s = time.perf_counter() + limit_s
        left = set(tasks)
        while left:
            heard = self.reports.read(until_s)
            if not heard:
                raise StalledError(f"{len(left)} of {len(tasks)} tasks not done: {self._words()}")
            left.difference_update(report.task for report in heard if report.has_ended)
        return time.perf_counter()

    def kill_worker(self, index: int) -> None:
        """End a worker with all its processes, as a container is killed."""
        _kill(self._running[index])

    def _start(self) -> None:
        if self._peer.server:
            self._spawn(self._peer.server, {})
        for index in range(self._workers):
            self._running.append(self._spawn(self._peer.worker, self._worker_variables(index)))
        self._producer = self._spawn(self._peer.producer, {}, pipes=True)
        self._answer(b"ready\n", READY_S)
        self._warm()

    def _warm(self) -> None:
        """Do tasks until every worker has done one: they all are there, and connected."""
        until_s = time.perf_counter() + READY_S
        seen: set[str] = set()
        while len(seen) < self._workers:
            if time.perf_counter() > until_s:
                raise StalledError(f"workers heard of: {sorted(seen)}: {self._words()}")
            tasks = self.submit("noop", WARM_TASKS)
            self.sent(READY_S)
            seen.update(report.worker for report in self._some(len(tasks)))

    def _some(self, amount: int) -> list[Report]:
        until_s = time.perf_counter() + WARM_S
        heard: list[Report] = []
        while len(heard) < amount and (more := self.reports.read(until_s)):
            heard += more
        return heard

    def _spawn(
        self, command: tuple[str, ...], variables: dict[str, str], *, pipes: bool = False
    ) -> subprocess.Popen[bytes]:
        filled = [
            word.format(
                python=python_of(self._peer, self._home),
                home=self._home,
                slots=self._slots,
                index=variables.get("BENCH_WORKER", ""),
                redis=self._environment["BENCH_REDIS_URL"],
            )
            for word in command
        ]
        process = subprocess.Popen(
            filled,
            cwd=ADAPTERS,
            env={**os.environ, **self._environment, **variables},
            stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipes else self._log,
            stderr=self._log,
            start_new_session=True,
            preexec_fn=end_with_parent(signal.SIGKILL),  # noqa: PLW1509 - no other threads here
        )
        self._stack.callback(_kill, process)
        return process

    def _variables(self, folder: str, redis_url: str) -> dict[str, str]:
        address = f"127.0.0.1:{_free_port()}"
        return {
            "BENCH_REDIS_URL": redis_url,
            "BENCH_REPORTS": str(self.reports.path),
            "BENCH_SLOTS": str(self._slots),
            "BENCH_TASKS": "short" if self._short else "long",
            "REDIS_URL": redis_url,
            "STEPSTREAM_ADDRESS": address,
            "STEPSTREAM_DATA_DIR": folder,
            "STEPSTREAM_GRPC_ADDRESS": address,
            "STEPSTREAM_HTTP_ADDRESS": "127.0.0.1:0",
            "STEPSTREAM_PIPELINES": str(ADAPTERS / "stepstream.toml"),
        }

    def _worker_variables(self, index: int) -> dict[str, str]:
        return {
            "BENCH_WORKER": str(index),
            "STEPSTREAM_WORKER_NAME": f"worker-{index}",
            "MAX_CONCURRENT_TASKS": str(self._slots),
        }

    def _answer(self, expected: bytes, limit_s: float) -> None:
        assert self._producer.stdout is not None
        line = _line(self._producer.stdout, limit_s)
        if line != expected:
            raise StalledError(f"the producer said {line!r}: {self._words()}")

    def _words(self) -> str:
        """The last lines that the processes have written."""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return " | ".join(lines[-3:])


def _line(stream: IO[bytes], limit_s: float) -> bytes:
    ready, _, _ = select.select([stream], [], [], limit_s)
    return stream.readline() if ready else b""


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
