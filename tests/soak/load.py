"""A steady load: batches at a fixed pace, and watchers that follow some of the tasks to the end."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing
from time import monotonic

from stepstream import AsyncClient
from stepstream.errors import StepstreamError
from stepstream.types import SubmitItem
from tests.support.pace import lasts

__all__ = ["SteadyLoad"]

BATCHES_EACH_S = 10
WATCH_EVERY = 5  # batches: two watchers a second
PIPELINES = ("noop", "noop", "noop", "chain")  # by turns: one task in four has three steps
PAYLOAD = {"text": "x" * 200}


class SteadyLoad:
    """Submits until it is stopped, and remembers how it went.

    Args:
        rate: Tasks each second.
    """

    def __init__(self, client: AsyncClient, *, rate: int) -> None:
        self._client = client
        self._amount = max(1, rate // BATCHES_EACH_S)
        self.accepted = 0
        self.watched = 0
        self.refused: Counter[str] = Counter()
        self.stopping = asyncio.Event()

    async def run(self) -> None:
        """Submit at the pace; a batch that comes late is not made up for."""
        due, number = monotonic(), 0
        async with asyncio.TaskGroup() as group:
            while not self.stopping.is_set():
                first = await self._submit()
                if first and number % WATCH_EVERY == 0:
                    group.create_task(self._watch(first))
                number += 1
                due = max(due + 1 / BATCHES_EACH_S, monotonic())
                await lasts(due - monotonic())

    async def _submit(self) -> str:
        """Submit one batch; returns the id of a task of it, empty when all were refused."""
        items = [
            SubmitItem(pipeline=PIPELINES[at % len(PIPELINES)], input=PAYLOAD)
            for at in range(self._amount)
        ]
        try:
            answers = await self._client.submit_batch(items)
        except (StepstreamError, TimeoutError) as error:
            self.refused[type(error).__name__] += len(items)
            return ""
        ids = [one.task_id for one in answers if not isinstance(one, StepstreamError)]
        self.refused.update(one.reason for one in answers if isinstance(one, StepstreamError))
        self.accepted += len(ids)
        return ids[-1] if ids else ""

    async def _watch(self, task_id: str) -> None:
        try:
            async with aclosing(self._client.watch(task_id)) as items:
                async for _ in items:
                    pass
        except (StepstreamError, TimeoutError) as error:
            self.refused[f"watch: {type(error).__name__}"] += 1
        else:
            self.watched += 1
