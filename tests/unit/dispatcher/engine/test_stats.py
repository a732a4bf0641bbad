"""Counters put together."""

import pytest

from stepstream_dispatcher.engine.stats import QueueStats, TotalStats, WorkerStats, assemble

COUNTS = {
    "pending": 1,
    "translating": 2,
    "llm_verification": 3,
    "human_review": 4,
    "done": 5,
    "live": 10,
    "retries": 6,
}
WORKERS = {
    "worker-1": {
        "processed": "5",
        "failed": "1",
        "current_tasks": "2",
        "is_running": "1",
        "max_in_flight": "3",
        "sdk": "python",
    },
    "worker-0": {
        "processed": "2",
        "failed": "2",
        "current_tasks": "9",
        "is_running": "0",
        "max_in_flight": "9",
    },
}


def test_counters_are_put_together():
    stats = assemble(COUNTS, WORKERS)

    assert stats.parallel_processing
    assert stats.is_running
    assert list(stats.workers) == ["worker-0", "worker-1"]
    assert stats.workers["worker-1"] == WorkerStats(
        processed=5, failed=1, current_tasks=2, is_running=True, max_in_flight=3
    )
    assert stats.queue == QueueStats(pending=1, translating=2, verifying=3, reviewing=4)
    assert stats.states["done"] == 5
    assert "live" not in stats.states
    assert (stats.live, stats.retries) == (10, 6)


def test_totals_are_the_sums_over_workers_gone_ones_included():
    assert assemble(COUNTS, WORKERS).totals == TotalStats(processed=7, failed=3, current_tasks=2)


def test_gone_worker_holds_nothing():
    assert assemble(COUNTS, WORKERS).workers["worker-0"].current_tasks == 0


def test_utilization_counts_running_workers_only():
    assert assemble(COUNTS, WORKERS).worker_utilization == pytest.approx(2 / 3)


def test_what_waits_for_a_slot_fills_none():
    workers = {
        "busy": {"max_in_flight": "3", "current_tasks": "6", "is_running": "1"},
        "idle": {"max_in_flight": "3", "current_tasks": "0", "is_running": "1"},
    }

    assert assemble({}, workers).worker_utilization == pytest.approx(1 / 2)


def test_failure_percentage():
    assert assemble(COUNTS, WORKERS).failure_percentage == pytest.approx(30)


def test_nothing_counted_is_zero():
    stats = assemble({}, {"new": {}})

    assert stats.totals == TotalStats(processed=0, failed=0, current_tasks=0)
    assert stats.queue == QueueStats(pending=0, translating=0, verifying=0, reviewing=0)
    assert not stats.workers["new"].is_running
    assert (stats.worker_utilization, stats.failure_percentage) == (0, 0)
