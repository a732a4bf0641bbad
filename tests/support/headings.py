"""The six headings under which the tests of the whole system stand."""

from __future__ import annotations

from typing import Final

__all__ = ["HEADINGS", "heading_of"]

# Heading → modules of tests/integration and tests/interop that it consists of.
HEADINGS: Final[dict[str, tuple[str, ...]]] = {
    "task lifecycle through all states": (
        "test_tasks",
        "test_modes",
        "test_http",
        "test_engines",
        "test_operations",
        "test_clients_move",
        "test_names",
        "test_rolling_restart",
        "test_fallback",
        "test_fallback_turns",
        "test_command_line",
        "test_readme_worker",
        "test_reflection",
        "test_documented_lines",
    ),
    "concurrent processing": (
        "test_concurrency",
        "test_ahead",
        "test_submits",
        "test_two_dispatchers",
        "test_thread_slots",
    ),
    "error handling and retries": ("test_retries", "test_deadlines"),
    "worker failure recovery": (
        "test_kill",
        "test_leaving",
        "test_installation",
        "test_move",
        "test_takeover",
        "test_frozen_dispatcher",
        "test_poison",
        "test_drain_corners",
        "test_cut_points",
        "test_clock_set",
    ),
    "queue integrity under load": (
        "test_integrity",
        "test_redis_restart",
        "test_redis_return",
        "test_redis_stopped",
        "test_redis_cut",
        "test_redis_slow",
        "test_reconciler",
        "test_redis_full",
        "test_never_reads",
    ),
    "statistics and monitoring": ("test_statistics", "test_tracing", "test_operate"),
}


def heading_of(module: str) -> str:
    """The heading of a module; empty when it stands under none."""
    return next((heading for heading, names in HEADINGS.items() if module in names), "")
