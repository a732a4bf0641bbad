"""The killed worker: how long the tasks that it was running stay away."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.peers.peer import Peer
from bench.peers.reports import Report
from bench.peers.stage import Stage, StalledError

__all__ = ["Course", "Killed", "kill"]

TASKS: Final = 100
SLOTS: Final = 4  # of each of two workers: the tasks take 2.5 s where nobody is killed
ENDED_BEFORE: Final = 80  # so late that tasks wait for their return, not for their turn
BEGIN_S: Final = 30.0
LIMIT_S: Final = 120.0
LAST_WORDS_S: Final = 0.1  # for what the worker said before it died
REST_S: Final = 10.0  # for the other tasks: 1 s of work for one worker
VICTIM: Final = "0"


@dataclass(frozen=True)
class Killed:
    """What became of the tasks.

    Args:
        held: how many the killed worker was running.
        seconds: until all of them ran again; None if they did not within 120 s.
        undone: how many of all tasks had not ended 10 s after that.
    """

    held: int
    seconds: float | None
    undone: int


class Course:
    """Who runs which task, as far as they have said."""

    def __init__(self, tasks: Iterable[int]) -> None:
        self._runs: dict[int, str] = {}
        self.undone = set(tasks)
        self.ended = 0

    def hear(self, reports: Iterable[Report]) -> None:
        """Follow the reports, in their order."""
        for report in reports:
            if report.task not in self.undone:
                continue
            if report.has_ended:
                self.undone.discard(report.task)
                self._runs.pop(report.task, None)
                self.ended += 1
            else:
                self._runs[report.task] = report.worker

    def run_by(self, worker: str) -> set[int]:
        """The tasks that a worker has begun last, and not ended."""
        return {task for task, runs in self._runs.items() if runs == worker}


def kill(peer: Peer, home: Path) -> Killed:
    """Kill one of two workers amid tasks of 200 ms, and wait until those that it ran run again."""
    with Stage(peer, home, workers=2, slots=SLOTS, short=False) as stage:
        course = Course(stage.submit("hold", TASKS))
        _until_busy(stage, course)
        stage.kill_worker(int(VICTIM))
        killed_s = time.perf_counter()
        course.hear(stage.reports.read(killed_s + LAST_WORDS_S))
        held = len(course.run_by(VICTIM))
        back_s = _until_back(stage, course, killed_s + LIMIT_S)
        _until_done(stage, course, time.perf_counter() + REST_S)
        return Killed(held, back_s and back_s - killed_s, len(course.undone))


def _until_busy(stage: Stage, course: Course) -> None:
    until_s = time.perf_counter() + BEGIN_S
    while course.ended < ENDED_BEFORE or not course.run_by(VICTIM):
        heard = stage.reports.read(until_s)
        if not heard:
            raise StalledError(f"worker {VICTIM} was not amid its tasks within {BEGIN_S:.0f} s")
        course.hear(heard)


def _until_back(stage: Stage, course: Course, until_s: float) -> float | None:
    while course.run_by(VICTIM):
        heard = stage.reports.read(until_s)
        if not heard:
            return None
        course.hear(heard)
    return time.perf_counter()


def _until_done(stage: Stage, course: Course, until_s: float) -> None:
    while course.undone and (heard := stage.reports.read(until_s)):
        course.hear(heard)
