"""Reads the records of many tasks of which somebody may have spoilt one."""

from __future__ import annotations

from collections.abc import Sequence

from stepstream.errors import InternalError
from stepstream_dispatcher.core.record import TaskRecord
from stepstream_dispatcher.store.port import Store

__all__ = ["readable_records"]


async def readable_records(store: Store, task_ids: Sequence[str]) -> list[TaskRecord | None]:
    """Read records; None also for one that cannot be read, so that the others can."""
    try:
        return await store.records(task_ids)
    except InternalError:
        if len(task_ids) == 1:
            return [None]
    return [one for task_id in task_ids for one in await readable_records(store, [task_id])]
