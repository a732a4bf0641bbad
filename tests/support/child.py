"""A child process of a test: its lines are kept and awaited, and it is ended by its pid."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self, TypeVar

from stepstream.testing.tether import tethered
from tests.mutants.launch import launched
from tests.support.tree import ROOT

__all__ = ["START_LIMIT_S", "Child", "News"]

START_LIMIT_S = 30.0  # of one process; a second on a quiet machine, more beside other tests
_LINES_SHOWN = 15

FoundT = TypeVar("FoundT")


class News:
    """Wakes whoever waits for something that a process may have said or done."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    def tell(self) -> None:
        """Something has happened."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def until(self, condition: Callable[[], FoundT | None], *, timeout_s: float) -> FoundT:
        """Waits until the condition gives something true, and returns that.

        Raises:
            TimeoutError: It has not in time.
        """
        async with asyncio.timeout(timeout_s):
            while not (found := condition()):
                future = asyncio.get_running_loop().create_future()
                self._waiting.append(future)
                await future
            return found


class Child(asyncio.SubprocessProtocol):
    """One run of one process.

    Args:
        name: For messages, and of the log file.
        log_path: Where its output is appended.
        news: Told of every piece of output and of the end.
    """

    def __init__(self, name: str, log_path: Path, news: News) -> None:
        self.name = name
        self.lines: list[str] = []  # standard output and error, in order of arrival
        self.exit_code: int | None = None
        self._log_path = log_path
        self._news = news
        self._rest: dict[int, bytes] = {}  # by descriptor: the line that has not ended yet
        self._transport: asyncio.SubprocessTransport | None = None

    async def start(
        self, argv: Sequence[str], *, env: Mapping[str, str], pass_fds: Sequence[int] = ()
    ) -> Self:
        """Spawns the process in the root of the repository; it dies with this one."""
        transport, _ = await asyncio.get_running_loop().subprocess_exec(
            lambda: self,
            *tethered(launched(argv)),
            cwd=ROOT,
            env={"PATH": os.environ.get("PATH", ""), "PYTHONUNBUFFERED": "1", **env},
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=tuple(pass_fds),
        )
        self._transport = transport
        return self

    @property
    def pid(self) -> int:
        """The process id; that of the process as it was, once it has ended."""
        assert self._transport is not None
        return self._transport.get_pid()

    def tell(self, signum: signal.Signals) -> None:
        """Sends a signal, unless it has ended."""
        if self.exit_code is None:
            os.kill(self.pid, signum)

    async def line(self, *words: str, after: int = 0, timeout_s: float = START_LIMIT_S) -> str:
        """Waits for a line that contains all the words.

        Args:
            after: Looks at lines from this number on.

        Raises:
            AssertionError: The process has ended, or has not said so in time.
        """

        def found() -> str | None:
            hits = (line for line in self.lines[after:] if all(word in line for word in words))
            return next(hits, "" if self.exit_code is None else "\0")

        try:
            line = await self._news.until(found, timeout_s=timeout_s)
        except TimeoutError:
            line = "\0"
        assert line != "\0", f"{self.name} never said {words}:\n{self.tail()}"
        return line

    async def ended(self, *, timeout_s: float = 15.0) -> int:
        """Waits for the end; returns the exit status, negative for a signal."""
        try:
            await self._news.until(lambda: self.exit_code is not None, timeout_s=timeout_s)
        except TimeoutError:
            raise AssertionError(f"{self.name} does not end:\n{self.tail()}") from None
        assert self.exit_code is not None
        return self.exit_code

    async def kill(self) -> None:
        """Ends it at once, by its pid, and waits until it is gone."""
        self.tell(signal.SIGKILL)
        await self.ended()

    def close(self) -> None:
        """Lets go of its pipes."""
        if self._transport is not None:
            self._transport.close()

    def tail(self) -> str:
        """The last lines that it wrote."""
        return "\n".join(f"  {self.name} | {line}" for line in self.lines[-_LINES_SHOWN:])

    # --- what the event loop tells ---------------------------------------------------------------

    def pipe_data_received(self, fd: int, data: bytes | str) -> None:
        """Output has come."""
        assert isinstance(data, bytes)
        with self._log_path.open("ab") as log:
            log.write(data)
        *whole, self._rest[fd] = (self._rest.get(fd, b"") + data).split(b"\n")
        self.lines.extend(line.decode(errors="replace") for line in whole)
        self._news.tell()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended, and all of its output has come."""
        assert self._transport is not None
        self.exit_code = self._transport.get_returncode()
        self._news.tell()
