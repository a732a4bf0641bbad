"""The only pauses of tests in real time: how long a fault lasts, and how often a test looks."""

from __future__ import annotations

import asyncio

__all__ = ["before_the_next_look", "lasts"]

LOOK_EVERY_S = 0.05


async def lasts(seconds: float) -> None:
    """Let a fault, a delay or a load go on: its length is what is tested, nothing is waited for."""
    await asyncio.sleep(seconds)


async def before_the_next_look() -> None:
    """Pause between two looks at what another process keeps and does not announce.

    Whoever looks has a time limit around the loop.
    """
    await asyncio.sleep(LOOK_EVERY_S)
