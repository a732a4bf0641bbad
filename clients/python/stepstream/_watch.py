"""One watch over as many streams as it takes: what to ask for, what to hand on, when it is over."""

from stepstream import _convert, types
from stepstream.errors import Unavailable
from stepstream.v1 import dispatcher_service_pb2 as pb2

__all__ = ["Watch"]

_TERMINAL = frozenset({"DONE", "FAILED", "CANCELLED"})


class Watch:
    """The state of one watch; no input or output.

    Args:
        task_id: The task.
        after: Hand on events with a greater sequence only; None: those after the snapshot.
        progress: Whether PROGRESS events are wanted.
    """

    def __init__(self, task_id: str, *, after: int | None, progress: bool) -> None:
        self._over = False
        self._started = False
        self._task_id = task_id
        self._after = after
        self._progress = progress
        self._snapshot: types.Task | None = None

    def is_over(self) -> bool:
        """Whether nothing more is to come."""
        return self._over

    def request(self) -> pb2.WatchTaskRequest:
        """What to open the next stream with: everything after what was handed on."""
        return pb2.WatchTaskRequest(
            task_id=self._task_id, after_sequence=self._after, include_progress=self._progress
        )

    def accept(
        self, message: pb2.WatchTaskResponse
    ) -> types.Task | types.TaskEvent | types.Gap | None:
        """Takes a frame; returns what to hand on, or None when it is nothing new."""
        match _convert.frame_from_message(message):
            case types.Task() as task:
                return self._accept_snapshot(task)
            case types.TaskEvent() as event:
                return self._accept_event(event)
            case types.Gap() as gap:
                self._after = gap.first_available - 1
                return gap
            case None:
                return None

    def closed(self) -> Unavailable | None:
        """Takes the server's orderly end of the stream; an early one is a break."""
        if self._snapshot is not None and self._snapshot.finished:
            self._over = True
            return None
        return Unavailable(f"the stream of task {self._task_id} ended early")

    def _accept_snapshot(self, task: types.Task) -> types.Task | None:
        self._snapshot = task
        if self._after is None:
            self._after = task.version
        # A finished task has nothing after it, unless its history was asked for.
        self._over = task.finished and self._after >= task.version
        first, self._started = not self._started, True
        return task if first else None

    def _accept_event(self, event: types.TaskEvent) -> types.TaskEvent | None:
        if event.sequence == 0:
            return event
        if self._after is not None and event.sequence <= self._after:
            return None
        self._after = event.sequence
        # An older terminal event can be followed by a redrive, which the snapshot knows of.
        latest = self._snapshot is None or event.sequence >= self._snapshot.version
        self._over = latest and event.type in _TERMINAL
        return event
