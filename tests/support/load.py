"""Callers that submit one task after the other, and remember what they were told."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager

import msgspec

from stepstream import AsyncClient
from stepstream.errors import StepstreamError
from tests.support.pace import lasts

__all__ = ["Answer", "Load", "running_load", "tell"]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One Submit as its caller saw it. Times are those of the monotonic clock, seconds."""

    request_id: str
    began: float
    ended: float
    task_id: str = ""
    mode: str = ""
    state: str = ""
    error: str = ""  # its reason, when it was none of the above

    @property
    def is_ok(self) -> bool:
        """Whether the task was accepted."""
        return not self.error


class Load:
    """What the callers were told so far."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.news = asyncio.Event()
        self.stopping = False
        self.over = False  # nothing more will be answered
        self.timeouts = 0  # callers that gave up

    def accepted(self) -> dict[str, Answer]:
        """The answers that said OK, by task id."""
        return {answer.task_id: answer for answer in self.answers if answer.is_ok}

    def words(self, answers: Iterable[Answer]) -> Counter[str]:
        """How often each mode, or the reason of an error, was answered."""
        return Counter(answer.error or answer.mode for answer in answers)

    async def until(self, count: int) -> None:
        """Wait until so many were answered."""
        while len(self.answers) < count:
            self.news.clear()
            await self.news.wait()

    async def submit(
        self, client: AsyncClient, pipeline: str, plan: Mapping[str, object]
    ) -> Answer:
        """Submit one task and note the answer."""
        request_id, began = uuid.uuid4().hex, time.monotonic()
        try:
            told = await client.submit(pipeline, dict(plan), request_id=request_id)
        except StepstreamError as error:
            answer = Answer(
                request_id=request_id, began=began, ended=time.monotonic(), error=error.reason
            )
        else:
            answer = Answer(
                request_id=request_id,
                began=began,
                ended=time.monotonic(),
                task_id=told.task_id,
                mode=told.execution_mode,
                state=told.state,
            )
        self.answers.append(answer)
        self.news.set()
        return answer

    async def _call(
        self, client: AsyncClient, pipeline: str, plan: Mapping[str, object], pause_s: float
    ) -> None:
        while not self.stopping:
            await self.submit(client, pipeline, plan)
            await lasts(pause_s)


@asynccontextmanager
async def running_load(
    client: AsyncClient,
    pipeline: str,
    plan: Mapping[str, object],
    *,
    callers: int,
    pause_s: float = 0.05,
) -> AsyncGenerator[Load, None]:
    """Callers for as long as the block lasts; at its end each finishes its last Submit.

    Args:
        pause_s: What a caller rests between two Submits, so that Redis is not swamped.
    """
    load = Load()
    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(load._call(client, pipeline, plan, pause_s))
        try:
            yield load
        finally:
            load.stopping = True
    load.over = True


def tell(figures: str) -> None:
    """Print what was measured, for whoever runs the test by hand."""
    print(f"\n{figures}")  # noqa: T201 - the figures are what the test is run for
