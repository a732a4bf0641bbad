"""The names of all Redis keys and channels; no other module spells one."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["DEFAULT_QUEUE", "GROUP", "Keys"]

GROUP: Final = "task:processors"  # the consumer group on every lane; a consumer is a dispatcher id
DEFAULT_QUEUE: Final = "default"  # the queue whose lane has the plain name


class Keys:
    """Builds the names of one partition.

    Args:
        prefix: Stands before every name; empty by default.
        partition: 0 has the plain names; n puts them into the hash slot of `{n}`.
    """

    def __init__(self, prefix: str = "", *, partition: int = 0) -> None:
        self._base = prefix + (f"{{{partition}}}:" if partition else "")
        self._record = f"{self._base}task:record:"
        self._data = f"{self._base}task:data:"
        self._history = f"{self._base}task:history:"
        self._input = f"{self._base}task:input:"
        self.index: Final = self._named("index")  # sorted set: all tasks by creation
        self.count: Final = self._named("count")  # hash: tasks by state, and the totals
        self.delayed: Final = self._named("delayed")  # sorted set: tasks by their timer
        self.ended: Final = self._named("ended")  # sorted set: "state id" by time of expiry
        self.dispatchers: Final = self._named("dispatchers")  # sorted set: by last beat
        self.workers: Final = self._named("workers")  # sorted set: worker names by last save
        self.paused: Final = self._named("paused")  # sorted set: paused queues by since when
        self.draining: Final = self._named(
            "draining"
        )  # sorted set: instances by when told to leave
        self.pipelines: Final = self._named("pipelines")  # hash: definitions by "name@version"
        self.events: Final = self._named("events")  # channel of all events
        self.sweep: Final = self._named(
            "sweep"
        )  # string: the dispatcher that sweeps, while it does
        self.swept: Final = self._named("swept")  # string: there while no sweep is due
        self.recount: Final = self._named("recount")  # string: there while ended tasks are counted
        self.all_records: Final = re.sub(r"([\\*?\[\]])", r"\\\1", self._record) + "*"  # of SCAN

    def stream(self, queue: str) -> str:
        """The lane of a queue."""
        lane = self._named("stream")
        return lane if queue == DEFAULT_QUEUE else f"{lane}:{queue}"

    def record(self, task_id: str) -> str:
        """The hash with the truth about a task."""
        return self._record + task_id

    def task_of(self, record: str) -> str:
        """The task whose record has a name."""
        return record.removeprefix(self._record)

    def data(self, task_id: str) -> str:
        """The hash with a task's big values, but for its input."""
        return self._data + task_id

    def history(self, task_id: str) -> str:
        """The list of a task's events."""
        return self._history + task_id

    def input(self, task_id: str) -> str:
        """The string with a task's input; a hash that held it would no longer be packed."""
        return self._input + task_id

    def of_task(self, task_id: str) -> tuple[str, str, str, str]:
        """All keys of a task: record, data, history and input."""
        return (
            self._record + task_id,
            self._data + task_id,
            self._history + task_id,
            self._input + task_id,
        )

    def minute(self, minute: int) -> str:
        """The count of the attempts that ended in a minute since the Unix epoch."""
        return self._named(f"minute:{minute}")

    def state(self, state: str) -> str:
        """The sorted set of the tasks that wait in a state, by since when."""
        return self._named(f"state:{state}")

    def worker(self, name: str) -> str:
        """The hash about a worker, counters included."""
        return self._named(f"worker:{name}")

    def dispatcher(self, dispatcher_id: str) -> str:
        """The channel of intents for one dispatcher."""
        return self._named(f"dispatcher:{dispatcher_id}")

    def _named(self, name: str) -> str:
        return f"{self._base}task:{name}"
