"""An event loop whose time jumps to the next timer when nothing is left to do.

A test of waits and limits then takes no time, and is the same on every machine. It works only where
nothing happens outside of the loop: with the store in memory, without sockets and threads.
"""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["VirtualTimeLoop", "in_virtual_time", "pass_time", "stand_still"]


START_S = 1_000.0


class _JumpingSelector(selectors.DefaultSelector):
    """Waits for no file: tells the loop how long it would have waited."""

    jumped_s = START_S

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise RuntimeError("every task waits, and no timer runs that could wake one")
        self.jumped_s += max(timeout, 1e-9)
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A wait that nothing can end is an error instead of a hang."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._jumping.jumped_s

    def stand_still(self, seconds: float) -> None:
        """Let time pass in which nothing happens, as in a process that is stopped and goes on."""
        self._jumping.jumped_s += seconds


async def pass_time(seconds: float) -> None:
    """Let virtual time pass: everything that is due by then happens."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    loop.call_later(seconds, over.set_result, None)
    await over


def stand_still(seconds: float) -> None:
    """Let virtual time pass in which the process is frozen: all that was due is late by then."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    loop.stand_still(seconds)


def in_virtual_time(
    test: Callable[..., Coroutine[Any, Any, None]],
) -> Callable[..., None]:
    """Run an asynchronous test on a loop of its own."""

    @functools.wraps(test)
    def run(*args: Any, **arguments: Any) -> None:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(test(*args, **arguments))

    return run
