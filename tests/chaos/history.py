"""What a run of chaos is judged by: lines written outside of the system, and its final truth.

Times are Unix seconds; every process of a run is on one host, so that they can be compared.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from stepstream_dispatcher.core.record import Event

__all__ = [
    "Fault",
    "History",
    "Line",
    "Outcome",
    "Recorder",
    "Reopened",
    "Run",
    "Session",
    "Sighting",
    "Submit",
    "Truth",
    "Watched",
    "read_lines",
    "read_runs",
]


class Outcome(StrEnum):
    """What the caller of an operation knows."""

    OK = "ok"  # it was carried out
    FAIL = "fail"  # it was refused, and nothing happened
    INFO = "info"  # either of them


class Submit(msgspec.Struct, frozen=True, kw_only=True, tag="submit"):
    """One Submit of a caller, repetitions by the SDK included."""

    request: str
    task: str  # the id that the request id stands for
    began: float
    ended: float
    outcome: Outcome
    mode: str = ""  # execution mode, of an answer
    error: str = ""  # reason, of an error


class Watched(msgspec.Struct, frozen=True, kw_only=True, tag="watched"):
    """What one WatchTask brought, from the first event on."""

    task: str
    sequences: list[int]  # in order of arrival
    gaps: int = 0
    last: str = ""  # type of the last event
    error: str = ""  # why it ended before the terminal event


class Sighting(msgspec.Struct, frozen=True, kw_only=True, tag="sighting"):
    """A finished task as somebody read it during the run."""

    task: str
    at: float
    state: str
    outputs: dict[str, str]  # digests by step


class Reopened(msgspec.Struct, frozen=True, kw_only=True, tag="reopened"):
    """A task that its reviewer had seen at its end, and that waits for a person again."""

    task: str
    began: float  # when the reviewer asked last
    ended: float  # when it was answered that the task had ended


class Fault(msgspec.Struct, kw_only=True, tag="fault"):
    """One fault as it was carried out."""

    kind: str
    target: str
    began: float
    ended: float  # when all was as before: the process answers again, the link carries again
    paths: list[str]  # what it stood in the way of: "redis", "worker:w-0", "link:w-0:d-1", ...
    effect: str = ""  # what it was seen to do; empty: nothing
    of: str = ""  # class of the takeovers that it causes: "stream", "frozen", "dispatcher" or none


class Session(msgspec.Struct, frozen=True, kw_only=True, tag="session"):
    """A dispatcher registered a worker."""

    at: float
    dispatcher: str
    worker: str


Line: TypeAlias = Submit | Watched | Sighting | Reopened | Fault | Session


class Run(msgspec.Struct, kw_only=True):
    """One start of one handler, as its own process noted it."""

    task: str
    step: str
    attempt: int
    pid: int
    began: float
    ended: float | None = None  # None: it has not, or its process was killed
    how: str = ""  # completed, or the name of the exception that ended it


class Truth(msgspec.Struct, frozen=True, kw_only=True):
    """One task as Redis has it in the end."""

    state: str
    version: int
    events: list[Event]
    outputs: dict[str, str] = {}  # digests by step
    journaled: bool = False  # it came out of a fallback's journal


class History(msgspec.Struct, kw_only=True):
    """All that is known of a run."""

    submits: list[Submit] = []
    runs: list[Run] = []
    watched: list[Watched] = []
    sightings: list[Sighting] = []
    reopened: list[Reopened] = []
    faults: list[Fault] = []
    sessions: list[Session] = []
    truth: dict[str, Truth] = {}  # by task
    dropped: set[str] = set()  # tasks whose journal gave way to their record (docs/fallback.md)
    volatile_s: float = 0.0  # before a kill of Redis; what is acknowledged in it may go (AOF_1S)


class Recorder:
    """Appends lines to a file, each at once."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._encoder = msgspec.json.Encoder()

    def add(self, line: Line) -> None:
        """Write one line."""
        self._file.write(self._encoder.encode(line) + b"\n")

    def close(self) -> None:
        """Nothing more is written."""
        self._file.close()


def read_lines(path: Path) -> History:
    """What a recorder wrote, sorted by kind."""
    history = History()
    places: dict[type, list[Any]] = {
        Submit: history.submits,
        Watched: history.watched,
        Sighting: history.sightings,
        Reopened: history.reopened,
        Fault: history.faults,
        Session: history.sessions,
    }
    decoder = msgspec.json.Decoder(Line)
    for line in path.read_bytes().splitlines():
        one = decoder.decode(line)
        places[type(one)].append(one)
    return history


def read_runs(path: Path) -> list[Run]:
    """Every start of a handler out of the journal of the workers (tests/support/journal.py)."""
    if not path.exists():
        return []
    return runs_of(json.loads(line) for line in path.read_text().splitlines())


def runs_of(lines: Iterable[dict[str, object]]) -> list[Run]:
    """Join starts with their ends; a process may run one attempt twice (docs/fallback.md)."""
    runs: list[Run] = []
    open_runs: dict[tuple[object, ...], list[Run]] = {}
    for line in lines:
        key = (line["task"], line["step"], line["attempt"], line["pid"])
        if line["what"] == "end":
            run = open_runs[key].pop(0)
            run.ended, run.how = float(str(line["at"])), str(line["how"])
            continue
        fields = {name: line[name] for name in ("task", "step", "attempt", "pid")}
        run = msgspec.convert({**fields, "began": line["at"]}, Run)
        open_runs.setdefault(key, []).append(run)
        runs.append(run)
    return runs


def now() -> float:
    """The clock of the histories."""
    return time.time()
