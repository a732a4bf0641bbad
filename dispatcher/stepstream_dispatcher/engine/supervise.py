"""Keeps a loop of the engine running: the one place where a loop's errors are caught.

A failure is counted, logged and followed by a back-off that doubles from 0.1 to 5 s, of which a
random half to whole is waited. A loop that ran longer than the longest back-off has recovered: the
back-off starts anew, and so does the report of an outage.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol

import structlog

from stepstream.errors import StoreBusy, StoreUnavailable

__all__ = ["Clock", "LoopHealth", "end_loops", "supervise"]

_BACKOFF_MIN_S: Final = 0.1
_BACKOFF_MAX_S: Final = 5.0
_CANCEL_AGAIN_S: Final = 0.5  # after a cancellation that a loop did not take
_OUTAGE_MAX_S: Final = 0.5  # as often as Redis is asked whether it is back: work waits for it

log = structlog.get_logger()


class Clock(Protocol):
    """Time as a loop sees it."""

    def time(self) -> float:
        """Return monotonic seconds."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""


class _LoopClock:
    def time(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass(slots=True)
class LoopHealth:
    """How a supervised loop fares."""

    failures: int = 0  # since the process began
    in_a_row: int = 0  # since it last recovered
    last_error: str = ""  # of the latest failure, also after it recovered
    outage: bool = False  # the store did not answer, or had no room, when it ran last

    def start_anew(self) -> None:
        """Forget what was: the store has been exchanged."""
        self.in_a_row = 0
        self.outage = False


async def supervise(
    name: str,
    run: Callable[[], Awaitable[None]],
    *,
    health: LoopHealth | None = None,
    clock: Clock | None = None,
    rand: Callable[[], float] = random.random,
    ending: Callable[[], bool] = lambda: False,
) -> NoReturn:
    """Run `run` again and again until it is cancelled.

    Args:
        name: Of the loop, for the log.
        run: One pass of the loop, or the loop itself; a pass that returns has recovered.
        health: Where to count, for whoever reports it.
        clock: The event loop's unless given.
        rand: A random number, 0 to 1.
        ending: Whether the loop has been cancelled. A pass may answer a cancellation with an error
            of its own, which would have it run again. `Task.cancelling` can't tell: on Python 3.11
            it stays above 0 after a task group inside the pass has failed.
    """
    state = health or LoopHealth()
    clock = clock or _LoopClock()
    while True:
        began = clock.time()
        steady = asyncio.get_running_loop().call_later(_BACKOFF_MAX_S, _recovered, name, state)
        try:
            await run()
        except Exception as error:
            steady.cancel()
            if ending():
                raise asyncio.CancelledError from error
            if clock.time() - began > _BACKOFF_MAX_S:
                _recovered(name, state)
            _failed(name, state, error)
            most_s = _OUTAGE_MAX_S if state.outage else _BACKOFF_MAX_S
            await clock.sleep(_backoff_s(state.in_a_row, rand(), most_s))
        else:
            _recovered(name, state)
            await clock.sleep(0)
        finally:
            steady.cancel()


async def end_loops(running: set[asyncio.Task[NoReturn]]) -> None:
    """Cancel loops until they have ended.

    Once is not enough: a cancellation that comes while a fresh connection is opened or closed can
    be lost there, and the loop goes on.
    """
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=_CANCEL_AGAIN_S)


def _recovered(name: str, state: LoopHealth) -> None:
    if state.in_a_row:
        log.info("loop.recovered", loop=name, failures=state.in_a_row)
    state.in_a_row = 0
    state.outage = False


def _failed(name: str, state: LoopHealth, error: Exception) -> None:
    state.failures += 1
    state.in_a_row += 1
    state.last_error = f"{type(error).__name__}: {error}"
    outage = _is_outage(error)
    if not outage:
        log.error("loop.failed", loop=name, failures=state.in_a_row, exc_info=error)
    elif not state.outage:
        log.warning("loop.store_unavailable", loop=name, error=str(error))
    state.outage = outage


def _is_outage(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_is_outage(inner) for inner in error.exceptions)
    return isinstance(error, (StoreUnavailable, StoreBusy))


def _backoff_s(failures: int, rand: float, most_s: float) -> float:
    whole: float = min(most_s, _BACKOFF_MIN_S * 2 ** min(failures, 16))
    return max(_BACKOFF_MIN_S, whole * (1 + rand) / 2)
