"""Fixtures of the worker's tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sized
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager

import pytest

from stepstream.worker import Cancelled, Step, StepContext, Worker, step
from tests.support.fake_dispatcher import FakeDispatcher, fake_dispatcher

TEST_LIMIT_S = 25.0


@pytest.fixture
async def fake() -> AsyncIterator[FakeDispatcher]:
    async with fake_dispatcher() as dispatcher:
        yield dispatcher


class Gates:
    """Handlers that tell when they run and wait until the test opens them."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.opened = asyncio.Event()
        self.thread_started = threading.Event()
        self.thread_opened = threading.Event()
        self.runs = 0
        self.cancelled = False

    @property
    def held(self) -> Step:
        """An async handler that waits for `opened`."""

        @step("held")
        async def held(ctx: StepContext) -> str:
            self.runs += 1
            self.started.set()
            try:
                await self.opened.wait()
            except asyncio.CancelledError:
                self.cancelled = True
                raise
            return "held"

        return held

    @property
    def stuck(self) -> Step:
        """A plain handler that waits for `thread_opened`, and looks at nothing else."""

        @step("stuck")
        def stuck(ctx: StepContext) -> str:
            self.runs += 1
            self.thread_started.set()
            self.thread_opened.wait(TEST_LIMIT_S)
            return "stuck"

        return stuck

    @property
    def polite(self) -> Step:
        """A plain handler that stops when it is cancelled."""

        @step("polite")
        def polite(ctx: StepContext) -> str:
            self.thread_started.set()
            while not ctx.cancelled:
                self.thread_opened.wait(0.01)
            raise Cancelled

        return polite


@pytest.fixture
async def gates() -> AsyncIterator[Gates]:
    made = Gates()
    yield made
    made.opened.set()
    made.thread_opened.set()


@contextmanager
def link_stopped(worker: Worker) -> Iterator[Sized]:
    """Stops the worker's gRPC loop; yields what handlers have said and it has not heard."""
    mailbox, go_on = worker._to_link, threading.Event()
    assert mailbox is not None
    mailbox._loop.call_soon_threadsafe(go_on.wait, TEST_LIMIT_S)
    try:
        yield mailbox._items
    finally:
        go_on.set()


Serving = Callable[..., AbstractAsyncContextManager[Worker]]


@pytest.fixture
def serving(fake: FakeDispatcher) -> Serving:
    """Serves steps at the fake beside the test, and makes the worker leave at the end."""

    @asynccontextmanager
    async def serve(
        *steps: Step, slots: int = 3, address: str | list[str] = "", stream_age_s: float = 1800
    ) -> AsyncIterator[Worker]:
        worker = Worker(steps, name="w-1", slots=slots, address=address or fake.address)
        worker.stream_age_s = stream_age_s
        async with asyncio.timeout(TEST_LIMIT_S), asyncio.TaskGroup() as group:
            group.create_task(worker.serve())
            try:
                yield worker
            finally:
                worker.drain(grace_s=0)

    return serve
