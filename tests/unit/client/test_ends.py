"""One timer for many limits."""

import asyncio
import math
import time
from collections.abc import Iterator

from stepstream._ends import LOOK_S, Ends

LIMIT_S = 5.0
MANY = 100
APART_S = 0.001


class Limits:
    """Limits by a monotonic time, and when each was found to be over."""

    def __init__(self) -> None:
        self.open: list[float] = []
        self.over: list[tuple[float, float]] = []
        self.looks = 0
        self.done = asyncio.Event()
        self.ends = Ends(self._look)

    def add(self, after_s: float) -> None:
        self.open.append(time.monotonic() + after_s)
        self.ends.expect(self.open[-1])

    async def all_over(self) -> None:
        async with asyncio.timeout(LIMIT_S):
            await self.done.wait()

    def _look(self, now_mono: float) -> Iterator[float]:
        self.looks += 1
        self.over += [(end, now_mono) for end in self.open if end <= now_mono]
        self.open = [end for end in self.open if end > now_mono]
        if not self.open:
            self.done.set()
        yield from self.open


async def test_each_limit_is_found_and_none_too_early():
    limits = Limits()
    for after_s in (0.09, 0.03, 0.06):
        limits.add(after_s)
    await limits.all_over()

    assert len(limits.over) == 3
    assert all(found >= end for end, found in limits.over)


async def test_many_limits_one_after_the_other_cost_few_looks():
    limits = Limits()
    for number in range(MANY):
        limits.add(number * APART_S)
    await limits.all_over()

    assert len(limits.over) == MANY
    assert limits.looks <= MANY * APART_S / LOOK_S + 2


async def test_what_never_ends_is_not_looked_for():
    limits, others = Limits(), Limits()
    limits.add(math.inf)
    others.add(0.05)
    await others.all_over()

    assert limits.looks == 0


async def test_what_is_forgotten_is_not_looked_for():
    limits, others = Limits(), Limits()
    limits.add(0.01)
    limits.ends.forget()
    others.add(0.05)
    await others.all_over()

    assert limits.looks == 0
