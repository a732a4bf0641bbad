"""A command in a pseudo-terminal, as a person sees it."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from pathlib import Path

from stepstream.settings import child_environment

__all__ = ["LIMIT_S", "Terminal"]

LIMIT_S = 20.0
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PASSING = re.compile(r"[\u2800-\u28ff] ([^\r\n]+)")  # behind the wheel that turns


class Terminal:
    """A command of ours in a pseudo-terminal.

    Args:
        words: The command line behind `stepstream`.
        environment: Added to ours.
        columns: Width of the terminal.
        stdout: A file that standard output goes into.
    """

    def __init__(
        self,
        *words: str,
        environment: Mapping[str, str] | None = None,
        columns: int = 100,
        stdout: Path | None = None,
    ) -> None:
        self._master, slave = pty.openpty()
        written = os.open(stdout, os.O_WRONLY | os.O_CREAT) if stdout else os.dup(slave)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        given = {"TERM": "xterm-256color", "COLUMNS": str(columns), **(environment or {})}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "stepstream.cli", *words],
            stdin=slave,
            stdout=written,
            stderr=slave,
            env=child_environment(given),
            start_new_session=True,
        )
        os.close(slave)
        os.close(written)
        self.shown = ""  # with what steers a terminal
        # A read may end within a character.
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    @property
    def text(self) -> str:
        """What was shown, without what steers a terminal."""
        return _ESCAPE.sub("", self.shown).replace("\r\n", "\n")

    @property
    def passing(self) -> str:
        """What the line in passing said last."""
        said: list[str] = _PASSING.findall(self.text)
        return said[-1]

    def until(self, words: str) -> None:
        """Reads on until the words are shown."""
        give_up_mono = time.monotonic() + LIMIT_S
        while words not in self.text:
            assert time.monotonic() < give_up_mono, self.text
            self._read(0.1)

    def type(self, line: str) -> None:
        """Types a line and Enter."""
        os.write(self._master, f"{line}\n".encode())

    def interrupt(self) -> None:
        """What Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)

    def end(self) -> int:
        """Reads to the end; returns the exit status."""
        give_up_mono = time.monotonic() + LIMIT_S
        while self.process.poll() is None:
            assert time.monotonic() < give_up_mono, self.text
            self._read(0.05)
        while self._read(0.05):
            pass
        return self.process.returncode

    def close(self) -> None:
        """Ends the command, whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)

    def _read(self, timeout_s: float) -> bool:
        if not select.select([self._master], [], [], timeout_s)[0]:
            return False
        try:
            chunk = os.read(self._master, 65536)
        except OSError:  # Linux says so when the other side has closed
            return False
        self.shown += self._decoder.decode(chunk)
        return bool(chunk)
