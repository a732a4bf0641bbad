"""Callers of both clients that submit, watch, wait and read in loops, and keep whatever fails.

Each caller works on one task at a time: it submits it, follows it from its first event to its last
with two watches, one at each end of the list of addresses, and reads it back. What the test asks of
them is in `failures`, one line for every exception and every stream that is not 1, 2, 3, ...
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

from stepstream import AsyncClient, Client
from stepstream.types import Task, TaskEvent

__all__ = ["Callers", "Plan", "running_callers"]

THREADS = 32  # the synchronous callers, with all that they have under way at once
WAIT_S = 120.0  # of one task, over any number of restarts
CALL_S = 30.0  # the clients' own limit of a call

T = TypeVar("T")
Plan = tuple[str, Mapping[str, object]]  # pipeline and input
Seen = list[TaskEvent]


class Callers:
    """What callers did, and what they were told."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.calls: Counter[str] = Counter()  # that were answered, by client and method
        self.tasks: dict[str, Task] = {}  # as they ended
        self.streams = 0  # watches that were followed to their end
        self.slowest: tuple[float, str] = (0.0, "")  # of the calls that do not wait for a task
        self.stopping = False
        self._began = time.monotonic()

    async def call(self, name: str, call: Callable[[], Awaitable[T]]) -> T | None:
        """Make one call; None, and a line in `failures`, when it raises."""
        began = time.monotonic()
        try:
            answer = await call()
        except Exception as error:  # noqa: BLE001 - whatever a caller is told is what is tested
            self._note(name, f"{type(error).__name__}: {error}")
            return None
        self.calls[name] += 1
        if "wait" not in name and "watch" not in name:
            self.slowest = max(self.slowest, (time.monotonic() - began, name))
        return answer

    def followed(self, name: str, task_id: str, items: Sequence[object]) -> None:
        """Take in what a watch yielded from the first event on."""
        events = [item for item in items if isinstance(item, TaskEvent)]
        sequences = [event.sequence for event in events]
        self.streams += 1
        if sequences != list(range(1, len(events) + 1)):
            self._note(name, f"task {task_id}: sequences {sequences}")
        elif not events or events[-1].type not in {"DONE", "FAILED", "CANCELLED"}:
            self._note(name, f"task {task_id}: the stream ended early, after {events[-1:]}")

    def _note(self, name: str, words: str) -> None:
        self.failures.append(f"{time.monotonic() - self._began:7.2f} s  {name}: {words}")


class _Both:
    """The calls that a caller makes, as one kind of client makes them."""

    def __init__(self, kind: str, here: object, there: object, threads: ThreadPoolExecutor) -> None:
        self.kind = kind
        self._clients = {"here": here, "there": there}
        self._threads = threads

    async def do(self, method: str, *words: object, at: str = "here", **named: object) -> object:
        """Make a call; a watch is followed to its end."""
        client = self._clients[at]
        if isinstance(client, AsyncClient):
            if method == "watch":
                return [item async for item in client.watch(*words, **named)]  # type: ignore[arg-type]
            return await getattr(client, method)(*words, **named)
        run = partial(_in_thread, client, method, *words, **named)
        return await asyncio.get_running_loop().run_in_executor(self._threads, run)


def _in_thread(client: object, method: str, *words: object, **named: object) -> object:
    answer = getattr(client, method)(*words, **named)
    return list(answer) if method == "watch" else answer


async def _lane(callers: Callers, clients: _Both, plan: Plan) -> None:
    """One task after the other, until the callers are to stop."""
    pipeline, given = plan
    call, kind = callers.call, clients.kind
    while not callers.stopping:
        submitted = await call(
            f"{kind} submit", lambda: clients.do("submit", pipeline, dict(given))
        )
        if submitted is None:
            continue
        await _follow(callers, clients, submitted.task_id)  # type: ignore[attr-defined]
        await call(f"{kind} stats", lambda: clients.do("stats"))
        await call(f"{kind} list", lambda: clients.do("list", page_size=20))


async def _follow(callers: Callers, clients: _Both, task_id: str) -> None:
    async def watch(at: str) -> None:
        name = f"{clients.kind} watch {at}"
        seen = await callers.call(name, lambda: clients.do("watch", task_id, after=0, at=at))
        if isinstance(seen, list):
            callers.followed(name, task_id, seen)

    async with asyncio.TaskGroup() as group:
        group.create_task(watch("here"))
        group.create_task(watch("there"))
        ended = await callers.call(
            f"{clients.kind} wait",
            lambda: clients.do("wait", task_id, timeout_s=WAIT_S, through_review=True),
        )
    got = await callers.call(f"{clients.kind} get", lambda: clients.do("get", task_id))
    if isinstance(ended, Task) and isinstance(got, Task):
        callers.tasks[task_id] = got


@asynccontextmanager
async def running_callers(
    addresses: Sequence[str], plans: Sequence[Plan]
) -> AsyncGenerator[Callers, None]:
    """A caller of each kind of client for each plan; at the end each finishes what it has begun.

    Args:
        addresses: Of the dispatchers; the second watch of a task has them in reverse.
        plans: What each caller submits, again and again.
    """
    callers, back = Callers(), list(reversed(addresses))
    with (
        ThreadPoolExecutor(THREADS) as threads,
        Client(addresses) as sync_here,
        Client(back) as sync_there,
    ):
        async with AsyncClient(addresses) as here, AsyncClient(back) as there:
            kinds = [
                _Both("async", here, there, threads),
                _Both("sync", sync_here, sync_there, threads),
            ]
            async with asyncio.TaskGroup() as group:
                for plan in plans:
                    for kind in kinds:
                        group.create_task(_lane(callers, kind, plan))
                try:
                    yield callers
                finally:
                    callers.stopping = True
