"""Reads the records of many tasks of which somebody may have spoilt one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import structlog

from stepstream.errors import InternalError
from stepstream_dispatcher.core.record import TaskRecord
from stepstream_dispatcher.store.port import Store

__all__ = ["RecordReader", "read_around", "readable_records"]

TOLD_MAX: Final = 1000  # unreadable records that one reader tells of

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class RecordReader:
    """Reads records for a loop, and tells once of each that it had to leave out."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._told: set[str] = set()

    async def records(self, task_ids: Sequence[str]) -> dict[str, TaskRecord | None]:
        """Read records by task; None where there is none, and nothing where it is unreadable."""
        found = await read_around(self._store.records, task_ids)
        self._told.difference_update(found)
        for task_id in sorted(set(task_ids) - found.keys() - self._told):
            if len(self._told) < TOLD_MAX:
                self._told.add(task_id)
                _log.error("record is unreadable, and was skipped", task_id=task_id)
        return found


async def read_around(
    read: Callable[[Sequence[str]], Awaitable[list[T]]], task_ids: Sequence[str]
) -> dict[str, T]:
    """Read many tasks; one that cannot be read is left out, found by halves, so that others can."""
    if not task_ids:
        return {}
    try:
        return dict(zip(task_ids, await read(task_ids), strict=True))
    except InternalError:
        if len(task_ids) == 1:
            return {}
    middle = len(task_ids) // 2
    first = await read_around(read, task_ids[:middle])
    return first | await read_around(read, task_ids[middle:])


async def readable_records(store: Store, task_ids: Sequence[str]) -> list[TaskRecord | None]:
    """Read records; None also for one that cannot be read, so that the others can."""
    found = await read_around(store.records, task_ids)
    return [found.get(task_id) for task_id in task_ids]
