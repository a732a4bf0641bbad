"""Submits of one client that are made at the same time share a call.

Theory of operation. Each address has a lane. A submit that comes while the lane is free goes out in
the next turn of the loop, with what else came in its own: no timer holds it. What comes while calls
are under way waits until one of them is answered and then goes out together, and when none is
answered for WAIT_S_MAX, without. So a lone caller is never delayed, and many callers make few
calls, the larger the busier the dispatcher is. Where many wait they part into as many calls as may
be under way: callers that come again once they are answered would otherwise all end up in one call,
and this side would stand still while the dispatcher works, and the other way round.

One timer looks after the limits of all, since hardly any is reached.

Without Redis a dispatcher answers a batch when all of its tasks have ended, and a quick task would
wait for a slow one. So only a dispatcher that has said PARALLEL within the last TRUST_S gets
batches. One that has said something else gets each submit by itself and at once, and one of which
nothing is known is asked first, with a submit or two.

Nobody can tell whether a submit has shared a call. Each has its own request id, time limit, answer
and retries. A caller that leaves takes only itself off, and a call is given up when nobody waits
for it any more. What fails a whole batch fails each as it would have failed alone, and a refusal
that may be one item's fault is looked into by sending each alone.
A submit within a trace goes by itself, because a call has one trace context for all of its tasks.
"""

from __future__ import annotations

import asyncio
import copy
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextvars import Context
from typing import Any, Final, Protocol, TypeVar

import grpc.aio

from stepstream import _calls
from stepstream._calls import Call
from stepstream._channel import CLOSED
from stepstream._ends import Ends
from stepstream.errors import StepstreamError, Unavailable
from stepstream.types import ExecutionMode, Submitted

__all__ = ["Submits"]

ITEMS_MAX: Final = 250  # of one call; a dispatcher takes 1,000
BYTES_MAX: Final = 1024 * 1024  # of one call; a dispatcher takes 4 MiB
ALONE_BYTES: Final = 64 * 1024  # a larger submit goes by itself: a call is the least of its cost
CALLS_MAX: Final = 2  # under way at one address
SHARE_MIN: Final = 16  # items that make a call of their own: most of a small one's cost is the call
WAIT_S_MAX: Final = 0.02  # that a submit waits for others' answers
TRUST_S: Final = 1.0  # that a dispatcher is taken to be where its last answer saw it

T = TypeVar("T")


class _Send(Protocol):
    def __call__(self, call: Call[T], address: str, timeout_s: float, /) -> Awaitable[T]: ...


class Submits:
    """The submits of one client.

    Until it is opened, and after it was closed, each goes by itself.

    Args:
        send: Makes one call at an address, within so many seconds.
    """

    def __init__(self, send: _Send) -> None:
        self._send = send
        self._flights: asyncio.TaskGroup | None = None
        self._lanes: dict[str, _Lane] = {}

    async def open(self) -> None:
        """Begin to share calls."""
        self._flights = await asyncio.TaskGroup().__aenter__()

    async def close(self) -> None:
        """Refuse those that wait, give up the shared calls, and wait for their end."""
        flights, self._flights = self._flights, None
        for lane in self._lanes.values():
            lane.close()
        if flights is not None:
            await flights.__aexit__(None, None, None)

    async def submit(self, call: Call[Submitted], address: str, timeout_s: float) -> Submitted:
        """Make one attempt of a submit.

        Raises:
            StepstreamError: As `send` says.
            TimeoutError: No answer within timeout_s.
        """
        if self._flights is None:
            return await self._send(call, address, timeout_s)
        if address not in self._lanes:
            self._lanes[address] = _Lane(address, self._send, self._flights)
        return await self._lanes[address].submit(call, timeout_s)


class _Passenger:
    """A submit on its way."""

    __slots__ = ("call", "due_mono", "end_mono", "flight", "landed", "size")

    def __init__(self, call: Call[Submitted], size: int, timeout_s: float) -> None:
        now_mono = time.monotonic()
        self.call = call
        self.size = size  # bytes
        self.due_mono = now_mono + WAIT_S_MAX
        self.end_mono = now_mono + timeout_s
        self.landed: asyncio.Future[Submitted | Exception]
        self.landed = asyncio.get_running_loop().create_future()
        self.flight: _Flight | None = None  # None: it waits

    def land(self, outcome: Submitted | Exception) -> None:
        """Tell the caller, unless it has left."""
        if not self.landed.done():
            self.landed.set_result(outcome)


class _Flight:
    """A call under way, and who is aboard; nobody if its caller makes it by himself."""

    __slots__ = ("aboard", "task")

    def __init__(self, aboard: list[_Passenger]) -> None:
        self.aboard = aboard
        self.task: asyncio.Task[None] | None = None

    def land(self, error: Exception) -> None:
        """Tell everybody."""
        for passenger in self.aboard:
            passenger.land(error)

    def give_up(self) -> None:
        """End the call if nobody waits for it any more."""
        if self.task is not None and all(one.landed.done() for one in self.aboard):
            self.task.cancel()


class _Lane:
    """The submits at one address."""

    def __init__(self, address: str, send: _Send, flights: asyncio.TaskGroup) -> None:
        self._address = address
        self._send = send
        self._group = flights
        self._mode = ""  # what the last answer said; empty: nothing is known
        self._mode_mono = 0.0
        self._coming = 0  # in this turn of the loop, while the lane is free
        self._waiting: deque[_Passenger] = deque()
        self._flights: set[_Flight] = set()
        self._departure: asyncio.Handle | None = None  # in this turn of the loop
        self._limit: asyncio.TimerHandle | None = None  # of what waits for an answer
        self._ends = Ends(self._give_up_late)
        self._closed = False

    async def submit(self, call: Call[Submitted], timeout_s: float) -> Submitted:
        """See Submits.submit."""
        try:
            answer = await self._answer(call, timeout_s)
        except (Unavailable, TimeoutError):
            self._mode = ""
            raise
        self._mode, self._mode_mono = answer.execution_mode, time.monotonic()
        return answer

    def close(self) -> None:
        """Refuse everybody who waits or is under way."""
        self._closed = True
        self._stay()
        self._ends.forget()
        for passenger in self._waiting:
            passenger.land(Unavailable(CLOSED))
        self._waiting.clear()
        for flight in self._flights:
            flight.land(Unavailable(CLOSED))
            flight.give_up()

    async def _answer(self, call: Call[Submitted], timeout_s: float) -> Submitted:
        size = call.request.ByteSize() if self._may_share() and not call.metadata else ALONE_BYTES
        if size >= ALONE_BYTES:
            return await self._send(call, self._address, timeout_s)
        if await self._is_alone():
            return await self._fly_alone(call, timeout_s)
        return await self._fly(_Passenger(call, size, timeout_s))

    async def _is_alone(self) -> bool:
        """Whether the lane is free, and nobody else comes in this turn of the loop."""
        if self._flights or self._waiting:
            return False
        self._coming += 1
        try:
            await asyncio.sleep(0)
            return self._coming == 1 and not self._flights and not self._waiting
        finally:
            self._coming -= 1

    async def _fly_alone(self, call: Call[Submitted], timeout_s: float) -> Submitted:
        flight = _Flight([])
        self._flights.add(flight)
        try:
            return await self._send(call, self._address, timeout_s)
        finally:
            self._landed(flight)

    def _may_share(self) -> bool:
        return self._mode in {"", ExecutionMode.PARALLEL}

    def _is_parallel(self) -> bool:
        trusted = time.monotonic() < self._mode_mono + TRUST_S
        return trusted and self._mode == ExecutionMode.PARALLEL

    async def _fly(self, passenger: _Passenger) -> Submitted:
        if self._closed:  # while it looked for others of its turn
            raise Unavailable(CLOSED)
        self._waiting.append(passenger)
        self._ends.expect(passenger.end_mono)
        self._plan()
        try:
            outcome = await passenger.landed
        finally:
            if passenger.landed.cancelled() and passenger.flight is not None:
                passenger.flight.give_up()
        if isinstance(outcome, Exception):
            raise copy.copy(outcome) from outcome  # each caller adds its own request id to it
        return outcome

    def _give_up_late(self, now_mono: float) -> Iterator[float]:
        """Tell those whose time is over; yields when that of the others will be."""
        aboard = (passenger for flight in self._flights for passenger in flight.aboard)
        for passenger in [*self._waiting, *aboard]:
            if passenger.landed.done():
                continue
            if passenger.end_mono > now_mono:
                yield passenger.end_mono
                continue
            passenger.land(TimeoutError(f"no answer from {self._address} in time"))
            if passenger.flight is not None:
                passenger.flight.give_up()

    def _plan(self) -> None:
        """See to it that those who wait go out."""
        if self._departure is not None or not self._waiting:
            return
        loop = asyncio.get_running_loop()
        if self._has_room():
            self._departure = loop.call_soon(self._depart, self._has_room)
        elif self._limit is None:
            wait_s = self._waiting[0].due_mono - time.monotonic()
            self._limit = loop.call_later(wait_s, self._depart, _always)

    def _stay(self) -> None:
        for handle in (self._departure, self._limit):
            if handle is not None:
                handle.cancel()
        self._departure = self._limit = None

    def _has_room(self) -> bool:
        return len(self._flights) < CALLS_MAX or not self._may_share()

    def _depart(self, may_start: Callable[[], bool]) -> None:
        self._stay()
        while self._waiting and may_start():
            if aboard := list(self._board()):
                self._start(aboard)
        self._plan()

    def _board(self) -> Iterator[_Passenger]:
        """Those who wait, as many as one call takes; those who have left meanwhile never waited."""
        items = self._share() if self._is_parallel() else 1
        size = 0
        while self._waiting and items and size + self._waiting[0].size <= BYTES_MAX:
            passenger = self._waiting.popleft()
            if not passenger.landed.done():
                size += passenger.size
                items -= 1
                yield passenger

    def _share(self) -> int:
        """How many of those who wait go out with one call, if they may share one."""
        calls = min(CALLS_MAX - len(self._flights), len(self._waiting) // SHARE_MIN)
        return min(ITEMS_MAX, math.ceil(len(self._waiting) / max(1, calls)))

    def _start(self, aboard: list[_Passenger]) -> None:
        flight = _Flight(aboard)
        for passenger in aboard:
            passenger.flight = flight
        self._flights.add(flight)
        # In a context of its own: what one caller has in its own is not for the others.
        flight.task = self._group.create_task(self._carry(flight), context=Context())
        # Not in the coroutine: one that is cancelled before it begins has no end of its own.
        flight.task.add_done_callback(lambda _: self._landed(flight))

    def _landed(self, flight: _Flight) -> None:
        self._flights.remove(flight)
        self._plan()

    async def _carry(self, flight: _Flight) -> None:
        aboard = flight.aboard
        try:
            for passenger, answer in zip(aboard, await self._call(aboard), strict=True):
                passenger.land(answer)
        except StepstreamError as error:
            if len(aboard) == 1 or error.retryable:
                flight.land(error)
            else:
                self._part(aboard)
        except (TimeoutError, grpc.aio.BaseError) as error:
            flight.land(error)

    def _part(self, aboard: list[_Passenger]) -> None:
        """Send each by itself, so that it gets the answer that is its own."""
        for passenger in aboard:
            if not passenger.landed.done():
                self._start([passenger])

    async def _call(self, aboard: list[_Passenger]) -> list[Any]:
        timeout_s = max(one.end_mono for one in aboard) - time.monotonic()
        if len(aboard) == 1:
            return [await self._send(aboard[0].call, self._address, timeout_s)]
        together = _calls.together([one.call for one in aboard])
        return await self._send(together, self._address, timeout_s)


def _always() -> bool:
    return True
