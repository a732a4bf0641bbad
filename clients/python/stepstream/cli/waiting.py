"""Waits for tasks: a line in passing where a person looks on, nothing elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stepstream.cli.exits import Exit, interruptible
from stepstream.cli.follow import exit_of
from stepstream.cli.output import printable, screen
from stepstream.cli.program import command_line
from stepstream.cli.wording import task_words
from stepstream.types import Task

if TYPE_CHECKING:
    from stepstream import Client

__all__ = ["await_task", "await_tasks", "passing_words", "worst"]

_SLICE_S = 0.5  # between two looks at the task, for the words in passing
# What a command that waited for many says: the first of these that one of them has.
_GRAVEST = (Exit.TASK_FAILED, Exit.REVIEW, Exit.OK)


def await_task(
    client: "Client", task_id: str, *, timeout_s: float, through_review: bool = False
) -> Task:
    """Waits for a task, and shows on a terminal where it is.

    Raises:
        TimeoutError: it has not ended, and waits for nobody, after timeout_s seconds.
        typer.Exit: with 130 after Ctrl-C; the task goes on, and that is said.
    """
    again = command_line("watch", task_id)
    with interruptible(f"the task goes on; look again: {again}"), passing_words() as show:
        if show is None:
            return client.wait(task_id, timeout_s=timeout_s, through_review=through_review)
        end_mono = time.monotonic() + timeout_s
        while True:
            slice_s = min(_SLICE_S, max(end_mono - time.monotonic(), 0.0))
            try:
                return client.wait(task_id, timeout_s=slice_s, through_review=through_review)
            except TimeoutError:
                task = client.get(task_id, payloads=False)
                if time.monotonic() >= end_mono:
                    words = f"task {task_id} is {task.state} after {timeout_s:g} s"
                    raise TimeoutError(words) from None
                show(task_words(task))


def await_tasks(client: "Client", task_ids: Sequence[str], *, timeout_s: float) -> Iterator[Task]:
    """Waits for each of several tasks in turn, within one limit, and yields it as it ended.

    Raises:
        TimeoutError: one has not ended in time.
        typer.Exit: with 130 after Ctrl-C.
    """
    end_mono = time.monotonic() + timeout_s
    with interruptible("the tasks go on"), passing_words() as show:
        for number, task_id in enumerate(task_ids):
            if show is not None:
                show(f"{number} of {len(task_ids)} ended; waiting for {task_id}")
            yield client.wait(task_id, timeout_s=max(end_mono - time.monotonic(), 0.0))


def worst(tasks: Sequence[Task]) -> Exit:
    """The exit status of a command that waited for all of these."""
    found = {exit_of(task) for task in tasks}
    return next((code for code in _GRAVEST if code in found), Exit.OK)


@contextmanager
def passing_words() -> Iterator[Callable[[str], None] | None]:
    """Yields what shows words in a line that the next words replace; None without a terminal.

    The line is on standard error: standard output is for the result.
    """
    if not sys.stderr.isatty():
        yield None
        return
    with screen(stderr=True).status("waiting") as status:
        yield lambda words: status.update(printable(words))
