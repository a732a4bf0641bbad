"""The tasks that change: a table on a terminal that follows them, a line per change elsewhere."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.live import Live
from rich.table import Table

from stepstream.cli.output import make_table, on_terminal, print_json, print_lines, screen
from stepstream.cli.wording import short_time
from stepstream.types import Task

if TYPE_CHECKING:
    from stepstream import Client

__all__ = ["LatestTasks", "follow_all"]

_ROWS_MAX = 200
_ROWS_MIN = 5
_FRAME_LINES = 3  # head, words below, cursor
_COLUMNS = ("task", "state", "worker", "changed", "what")


class LatestTasks:
    """The tasks that changed last.

    Args:
        size: How many are kept.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._tasks: dict[str, Task] = {}

    def accept(self, task: Task) -> bool:
        """Takes a task as it stands; false when it is older than what is known."""
        known = self._tasks.get(task.task_id)
        if known is not None and task.version <= known.version:
            return False
        self._tasks[task.task_id] = task
        if len(self._tasks) > self._size:
            del self._tasks[min(self._tasks.values(), key=_changed).task_id]
        return True

    def newest_first(self) -> list[Task]:
        """The tasks, the last change first."""
        return sorted(self._tasks.values(), key=_changed, reverse=True)


def follow_all(
    client: "Client",
    *,
    states: Sequence[str],
    pipeline: str,
    labels: dict[str, str],
    as_json: bool,
) -> None:
    """Shows the matching tasks that have not ended, and each that changes, until Ctrl-C."""
    changing = client.watch_tasks(pipeline=pipeline, states=states, labels=labels)
    if as_json:
        for task in changing:
            print_json({"task": task})
    elif on_terminal():
        rows = max(shutil.get_terminal_size().lines - _FRAME_LINES, _ROWS_MIN)
        latest = LatestTasks(min(rows, _ROWS_MAX))
        for task in _present(client, states, pipeline, labels, rows):
            latest.accept(task)
        _show(latest, changing)
    else:
        for task in changing:
            print_lines([_line(task)])


def _present(
    client: "Client", states: Sequence[str], pipeline: str, labels: dict[str, str], rows: int
) -> Iterator[Task]:
    """The latest tasks that match, newest first, to begin the table with."""
    one = states[0] if len(states) == 1 else ""
    page = client.list(state=one, pipeline=pipeline, labels=labels, page_size=rows)
    return (task for task in page.tasks if not states or task.state in states)


def _show(latest: LatestTasks, changing: Iterable[Task]) -> None:
    with Live(_table(latest), console=screen(), auto_refresh=False, transient=False) as live:
        for task in changing:
            if latest.accept(task):
                live.update(_table(latest), refresh=True)


def _table(latest: LatestTasks) -> Table:
    rows = [
        (
            task.task_id,
            task.state,
            task.worker,
            short_time(task.update_time),
            task.labels.get("title") or task.pipeline,
        )
        for task in latest.newest_first()
    ]
    table = make_table(_COLUMNS, rows)
    table.caption = "waiting for changes; Ctrl-C leaves"
    table.caption_justify = "left"
    return table


def _changed(task: Task) -> datetime:
    return task.update_time or datetime.min.replace(tzinfo=UTC)


def _line(task: Task) -> tuple[object, ...]:
    changed = short_time(task.update_time)
    return changed, task.task_id, task.state, task.pipeline, task.attempt, task.worker
