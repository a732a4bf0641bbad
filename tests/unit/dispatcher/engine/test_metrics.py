"""The printed block."""

import asyncio

import pytest

from stepstream_dispatcher.engine.metrics import format_block, run_metrics
from stepstream_dispatcher.engine.stats import Stats, assemble

STATS = assemble(
    {"pending": 1, "translating": 2, "llm_verification": 3},
    {"w": {"processed": "7", "failed": "3", "current_tasks": "2", "is_running": "1"}},
)
BLOCK = """\
=== Task Processor Metrics ===
Status: Running
Total Processed: 7
Total Failed: 3
Current Active Tasks: 2
Queue - Pending: 1, Processing: 5
=============================="""


def test_block_is_exactly_this():
    assert format_block(STATS) == BLOCK


async def test_block_is_written_after_each_interval():
    slept: list[float] = []
    written: list[str] = []

    async def sleep(seconds: float) -> None:
        if len(slept) == 2:
            raise asyncio.CancelledError
        slept.append(seconds)

    async def stats() -> Stats:
        return STATS

    with pytest.raises(asyncio.CancelledError):
        await run_metrics(stats, written.append, 30, sleep)

    assert slept == [30, 30]
    assert written == [BLOCK + "\n", BLOCK + "\n"]
