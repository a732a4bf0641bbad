"""Remembers tasks that were just queued here, so that handing them out needs no read.

An entry belongs to its task as it was when the entry was added, by the task's creation or by the
end of the step before: whatever changes the record later takes that entry away. A backlog is taken
from its old end: while there is no room those that wait stay remembered, and new ones are not,
which are read like any other. What nobody here is fed from is not remembered at all, so that a
queue without workers takes no room from the others.

Not every entry is taken: it may be read by another dispatcher. Those are forgotten after a while,
too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final

from stepstream_dispatcher.core.record import Stage, TaskRecord, Transition, with_fields
from stepstream_dispatcher.engine.commit_lane import Source
from stepstream_dispatcher.store.port import Entry

__all__ = ["Fresh", "is_small"]

TASKS_MAX: Final = 8192
KEPT_MS: Final = 5_000  # longer than an entry waits without a backlog
DATA_BYTES_MAX: Final = 4096  # of a task, and of what its step adds: with TASKS_MAX 64 MiB


class Fresh:
    """A bounded memory of tasks that wait for a worker.

    Args:
        is_served: Whether a worker here may be fed from a queue.
    """

    def __init__(self, is_served: Callable[[str], bool]) -> None:
        self._is_served = is_served
        # By task id and entry id; of this kind, since a dict whose first ones were taken searches
        # for the oldest.
        self._queued: OrderedDict[tuple[str, str], tuple[Source, Transition]] = OrderedDict()

    def queued(self, source: Source, transition: Transition, entry_id: str) -> None:
        """Hear of a transition that was applied here, and of the entry that it added, if any."""
        if not entry_id or source.data is None or not self._is_served(transition.enqueue or ""):
            return
        if not (is_small(source.data) and is_small(transition.data)):
            return
        self._forget(before_ms=transition.event.at_ms - KEPT_MS)
        if len(self._queued) < TASKS_MAX:
            self._queued[transition.task_id, entry_id] = source, transition

    def take(self, entry: Entry) -> tuple[TaskRecord, dict[str, bytes]] | None:
        """The task of an entry as it was queued, once; None when it is not remembered."""
        queued = self._queued.pop((entry.task_id, entry.entry_id), None)
        if queued is None:
            return None
        source, transition = queued
        fields: dict[str, Any] = {
            **transition.fields,
            "entry": entry.entry_id,
            "stage": Stage.QUEUED,
        }
        if source.record is None:
            return TaskRecord(**fields), transition.data
        return with_fields(source.record, fields), {**(source.data or {}), **transition.data}

    def _forget(self, *, before_ms: int) -> None:
        """Let go of what was queued before a time."""
        while self._queued:
            oldest = next(iter(self._queued))
            if self._queued[oldest][1].event.at_ms >= before_ms:
                return
            del self._queued[oldest]


def is_small(data: Mapping[str, bytes]) -> bool:
    """Whether a task's data may be remembered."""
    return sum(map(len, data.values())) <= DATA_BYTES_MAX
