"""What the counters say: per worker, in total, and per state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from stepstream_dispatcher.engine.modes import ExecutionMode

__all__ = ["QueueStats", "Stats", "TotalStats", "WorkerStats", "assemble"]

_NOT_STATES: Final = frozenset({"live", "retries"})


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStats:
    """Counts of one worker, kept in the store."""

    processed: int  # step attempts that ended well
    failed: int  # step attempts that ended badly
    current_tasks: int  # attempts that it holds now
    is_running: bool  # it has a session; gone workers stay listed for 10 minutes
    max_in_flight: int  # most attempts that it takes at once


@dataclass(frozen=True, slots=True, kw_only=True)
class TotalStats:
    """Sums over the listed workers."""

    processed: int
    failed: int
    current_tasks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """Sizes of the states of the translation pipeline."""

    pending: int
    translating: int
    verifying: int  # state llm_verification
    reviewing: int  # state human_review


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Everything that is counted, at one moment."""

    mode: ExecutionMode  # how new tasks are run
    is_running: bool
    workers: Mapping[str, WorkerStats]  # by name
    totals: TotalStats
    queue: QueueStats
    states: Mapping[str, int]  # tasks in each state
    live: int  # tasks that have not ended
    retries: int  # since the counters began
    throughput_per_minute: int  # attempts that ended in the last full minute

    @property
    def parallel_processing(self) -> bool:
        """Whether tasks run through Redis and workers."""
        return self.mode == "PARALLEL"

    @property
    def worker_utilization(self) -> float:
        """Taken slots over all slots of the running workers, 0 to 1; 0 without a slot."""
        running = [worker for worker in self.workers.values() if worker.is_running]
        slots = sum(worker.max_in_flight for worker in running)
        taken = sum(min(worker.current_tasks, worker.max_in_flight) for worker in running)
        return taken / slots if slots else 0.0

    @property
    def failure_percentage(self) -> float:
        """Badly ended attempts over all ended ones, 0 to 100; 0 before the first one."""
        ended = self.totals.processed + self.totals.failed
        return 100 * self.totals.failed / ended if ended else 0.0


def assemble(
    counts: Mapping[str, int],
    workers: Mapping[str, Mapping[str, str]],
    *,
    ended_last_minute: int = 0,
    mode: ExecutionMode = "PARALLEL",
    is_running: bool = True,
) -> Stats:
    """Put together what the store has counted.

    Args:
        counts: Tasks by state, and `live` and `retries`. What is missing is 0.
        workers: By name, the fields `processed`, `failed`, `current_tasks`, `max_in_flight` and
            `is_running` ("1" or "0"); others are left out. What is missing is 0.
        ended_last_minute: Attempts that ended in the last full minute, over all dispatchers.
        mode: How new tasks are run.
        is_running: Whether this dispatcher serves.
    """
    by_name = {name: _worker(fields) for name, fields in sorted(workers.items())}
    return Stats(
        mode=mode,
        is_running=is_running,
        workers=by_name,
        totals=TotalStats(
            processed=sum(worker.processed for worker in by_name.values()),
            failed=sum(worker.failed for worker in by_name.values()),
            current_tasks=sum(worker.current_tasks for worker in by_name.values()),
        ),
        queue=QueueStats(
            pending=counts.get("pending", 0),
            translating=counts.get("translating", 0),
            verifying=counts.get("llm_verification", 0),
            reviewing=counts.get("human_review", 0),
        ),
        states={name: count for name, count in counts.items() if name not in _NOT_STATES},
        live=counts.get("live", 0),
        retries=counts.get("retries", 0),
        throughput_per_minute=ended_last_minute,
    )


def _worker(fields: Mapping[str, str]) -> WorkerStats:
    running = fields.get("is_running") == "1"
    return WorkerStats(
        processed=int(fields.get("processed", 0)),
        failed=int(fields.get("failed", 0)),
        # A worker that is gone holds nothing, whatever it wrote last.
        current_tasks=int(fields.get("current_tasks", 0)) if running else 0,
        is_running=running,
        max_in_flight=int(fields.get("max_in_flight", 0)),
    )
