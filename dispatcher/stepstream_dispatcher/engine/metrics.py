"""The metrics block that is printed at intervals."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from stepstream_dispatcher.engine.stats import Stats

__all__ = ["METRICS_INTERVAL_S", "format_block", "run_metrics"]

METRICS_INTERVAL_S: Final = 30.0

_TITLE: Final = "=== Task Processor Metrics ==="


def format_block(stats: Stats) -> str:
    """Return the block, seven lines, the last one a rule; without a final line end."""
    processing = stats.queue.translating + stats.queue.verifying
    return "\n".join(
        (
            _TITLE,
            f"Status: {'Running' if stats.is_running else 'Stopped'}",
            f"Total Processed: {stats.totals.processed}",
            f"Total Failed: {stats.totals.failed}",
            f"Current Active Tasks: {stats.totals.current_tasks}",
            f"Queue - Pending: {stats.queue.pending}, Processing: {processing}",
            "=" * len(_TITLE),
        )
    )


async def run_metrics(
    stats: Callable[[], Awaitable[Stats]],
    write: Callable[[str], object],
    interval_s: float = METRICS_INTERVAL_S,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Write the block after each interval, for ever; errors are for `supervise`.

    Args:
        stats: Reads the counters.
        write: Takes the block with a final line end, for example `sys.stdout.write`.
        interval_s: Seconds between two blocks.
        sleep: Waits that long.
    """
    while True:
        await sleep(interval_s)
        write(format_block(await stats()) + "\n")
