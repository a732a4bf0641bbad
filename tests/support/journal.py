"""What handlers really did, written by their own processes, outside of the system under test."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import msgspec

__all__ = ["JOURNAL_VARIABLE", "Journal", "Run", "note"]

JOURNAL_VARIABLE = "STEPSTREAM_TEST_JOURNAL"


class Run(msgspec.Struct, kw_only=True):
    """One start of one handler."""

    task: str
    step: str
    attempt: int
    pid: int
    started_at: float  # Unix seconds
    started_mono: float  # the monotonic clock of this host, seconds
    ended_mono: float | None = None  # None: it has not ended, or its process was killed
    how: str = ""  # completed, or the name of the exception that ended it


def note(what: str, *, task: str, step: str, attempt: int, how: str = "") -> None:
    """Appends a line to the journal that the environment names, and says so on standard output.

    One write of one line: lines of several processes never mix, and one that was written before a
    kill is there.
    """
    line = {
        "what": what,
        "task": task,
        "step": step,
        "attempt": attempt,
        "pid": os.getpid(),
        "at": time.time(),
        "mono": time.monotonic(),
        "how": how,
    }
    descriptor = os.open(os.environ[JOURNAL_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, json.dumps(line).encode() + b"\n")
    finally:
        os.close(descriptor)
    print(f"journal {what} {task} {step} {attempt}", flush=True)  # noqa: T201  (wakes the test)


class Journal:
    """The journal as the test reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def runs(self, *, task: str = "", step: str = "") -> list[Run]:
        """Every start, in order; of one task or step when given."""
        runs: list[Run] = []
        running: dict[tuple[str, str, int, int], Run] = {}
        for line in self._lines():
            key = (line["task"], line["step"], line["attempt"], line["pid"])
            if line["what"] == "end":
                run = running.pop(key)
                run.ended_mono, run.how = line["mono"], line["how"]
                continue
            run = Run(
                task=line["task"],
                step=line["step"],
                attempt=line["attempt"],
                pid=line["pid"],
                started_at=line["at"],
                started_mono=line["mono"],
            )
            running[key] = run
            runs.append(run)
        return [run for run in runs if task in {"", run.task} and step in {"", run.step}]

    def unfinished(self, pid: int) -> list[Run]:
        """What a process has begun and not ended."""
        return [run for run in self.runs() if run.pid == pid and run.ended_mono is None]

    def _lines(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text().splitlines()]
