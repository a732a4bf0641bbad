"""Remembers tasks that were just created here, so that handing them out needs no read.

The entry that its creation added belongs to a task as it was created: whatever changes the record
later takes that entry away. A backlog is taken from its old end: while there is no room those that
wait stay remembered, and new ones are not, which are read like any other.

Not every creation is taken: the entry may have been read before its creation was heard of, or be
read by another dispatcher. Those are forgotten after a while, too.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

from stepstream_dispatcher.core.record import Stage, TaskRecord, Transition
from stepstream_dispatcher.store.port import Entry

__all__ = ["Fresh"]

TASKS_MAX: Final = 8192
KEPT_MS: Final = 5_000  # longer than an entry waits without a backlog
DATA_BYTES_MAX: Final = 4096  # of one task; with TASKS_MAX it bounds the memory to 32 MiB


class Fresh:
    """A bounded memory of creations."""

    def __init__(self) -> None:
        # By task id and entry id; of this kind, since a dict whose first ones were taken searches
        # for the oldest.
        self._created: OrderedDict[tuple[str, str], Transition] = OrderedDict()

    def created(self, transition: Transition, entry_id: str) -> None:
        """Hear of a creation that was applied here, and of the entry that it added, if any."""
        if not entry_id:
            return
        if sum(map(len, transition.data.values())) > DATA_BYTES_MAX:
            return
        self._forget(before_ms=transition.event.at_ms - KEPT_MS)
        if len(self._created) < TASKS_MAX:
            self._created[transition.task_id, entry_id] = transition

    def take(self, entry: Entry) -> tuple[TaskRecord, dict[str, bytes]] | None:
        """The task of an entry as it was created, once; None when it is not remembered."""
        created = self._created.pop((entry.task_id, entry.entry_id), None)
        if created is None:
            return None
        fields: dict[str, Any] = {**created.fields, "entry": entry.entry_id, "stage": Stage.QUEUED}
        return TaskRecord(**fields), created.data

    def _forget(self, *, before_ms: int) -> None:
        """Let go of what was created before a time."""
        while self._created:
            oldest = next(iter(self._created))
            if self._created[oldest].event.at_ms >= before_ms:
                return
            del self._created[oldest]
