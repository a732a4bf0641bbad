"""What tests of submits do with a client."""

import asyncio
from collections.abc import Awaitable
from typing import Any

from stepstream import AsyncClient, _submits, errors
from stepstream.types import Submitted
from tests.unit.client.submits.desk import LIMIT_S, Desk

__all__ = ["MANY", "NEVER_S", "a_few_turns", "ended", "held", "names", "submitted", "task_ids"]

NEVER_S = 1_000.0
MANY = 2 * _submits.SHARE_MIN - 2  # as many as go together


def names(count: int, letter: str = "r") -> list[str]:
    return [f"{letter}{index}" for index in range(count)]


async def ended(submit: Awaitable[Submitted]) -> Submitted | Exception:
    try:
        return await submit
    except (errors.StepstreamError, TimeoutError) as error:
        return error


async def submitted(
    client: AsyncClient, ids: list[str], **given: Any
) -> dict[str, Submitted | Exception]:
    """Submits tasks under these ids at the same time."""
    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
        made = {
            one: group.create_task(ended(client.submit("p", one, request_id=one, **given)))
            for one in ids
        }
    return {one: task.result() for one, task in made.items()}


def task_ids(answers: dict[str, Submitted | Exception]) -> dict[str, str]:
    return {one: getattr(answer, "task_id", repr(answer)) for one, answer in answers.items()}


async def held(
    client: AsyncClient,
    desk: Desk,
    group: asyncio.TaskGroup,
    *,
    calls: int | None = None,
) -> None:
    """So many calls are under way, or as many as may be, one submit each; none is answered."""
    desk.speaks.clear()
    for count in range(1, (calls or _submits.CALLS_MAX) + 1):
        group.create_task(client.submit("p", None, request_id=f"held{count}"))
        await desk.until(lambda count=count: len(desk.calls) == count)


async def a_few_turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)
