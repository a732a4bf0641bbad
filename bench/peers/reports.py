"""What tasks report of themselves: a named pipe that all workers of a peer write to.

A report is 12 bytes, and a write of them is whole in a pipe, whoever else writes: one system call
in each task, for every peer. A unix datagram socket would do the same, but Node has none.
"""

from __future__ import annotations

import fcntl
import os
import select
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

__all__ = ["SIZE", "Report", "Reports", "parse"]

SIZE: Final = 12
CAPACITY: Final = 1 << 20  # what Linux allows anybody: 87,000 reports, so that nobody waits for us
LOOK_S: Final = 0.002  # how often it is read: a read for every report would cost what we measure


@dataclass(frozen=True)
class Report:
    """A task began or ended in a worker."""

    has_ended: bool
    worker: str
    task: int


def parse(data: bytes) -> list[Report]:
    """Read reports such as `e0 00000042`, one a line.

    Raises:
        ValueError: one of them is cut, or no report at all.
    """
    return [_report(line) for line in data.decode("ascii").splitlines(keepends=True)]


def _report(line: str) -> Report:
    if len(line) != SIZE or line[0] not in "be" or not line.endswith("\n"):
        raise ValueError(f"not a report: {line!r}")
    return Report(line[0] == "e", line[1], int(line[3:]))


class Reports:
    """The driver's end of the pipe; a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pipe = -1

    def __enter__(self) -> Self:
        os.mkfifo(self.path)
        # Open for writing as well: the pipe then has a writer before the first worker comes.
        self._pipe = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, CAPACITY)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._pipe)

    def read(self, until_s: float) -> list[Report]:
        """What has come, or nothing once `until_s` of time.perf_counter has passed."""
        while time.perf_counter() < until_s:
            time.sleep(LOOK_S)
            if select.select([self._pipe], [], [], 0.0)[0]:
                return parse(os.read(self._pipe, SIZE * (CAPACITY // SIZE)))
        return []
