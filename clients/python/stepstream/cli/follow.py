"""Shows a task as it moves: the lines of `watch` and of `submit --watch`."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from stepstream.cli.exits import Exit
from stepstream.cli.output import print_json, printable, screen, styled
from stepstream.cli.wording import event_words, short_time, task_words
from stepstream.types import Gap, Task, TaskEvent

if TYPE_CHECKING:
    from stepstream import Client

__all__ = ["exit_of", "follow"]

_STATE_WIDTH = 16  # llm_verification
_WAITING = "waiting"
_AT_WORK = frozenset({"LEASED", "ADOPTED", "PROGRESS"})  # events that say where a task is

Frame = Task | TaskEvent | Gap


def follow(
    client: "Client",
    task_id: str,
    *,
    after: int | None = 0,
    as_json: bool = False,
    progress: bool = False,
    through_review: bool = True,
    to_stderr: bool = False,
) -> None:
    """Writes each event until the task has ended (or waits, unless through_review).

    Args:
        client: The client.
        task_id: The task.
        after: Events behind this sequence; None: those to come.
        as_json: Whether to write a JSON document per line, the task as it stands first.
        progress: Whether to write progress too; on a terminal it is shown in passing anyway.
        through_review: Whether to stay while the task waits for a person.
        to_stderr: Whether standard output is wanted for the result.
    """
    looked_at = sys.stderr if to_stderr else sys.stdout
    live = looked_at.isatty() and not as_json
    watched = client.watch(task_id, after=after, progress=progress or live)
    frames = watched if through_review else _until_review(watched)
    if as_json:
        _write_json(frames)
        return
    console = screen(stderr=to_stderr)
    with _passing_line(console, live=live) as show:
        for frame, words in _placed(frames):
            show(words)
            if not live or not _is_progress(frame):
                console.print(_line(frame))


def exit_of(task: Task) -> Exit:
    """The exit status of a command that waited for the task."""
    if task.state in {"failed", "cancelled"}:
        return Exit.TASK_FAILED
    return Exit.REVIEW if task.waiting_for_review else Exit.OK


def _until_review(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Hands frames on until the task waits for a person now, not in its past."""
    version = 0
    for frame in frames:
        yield frame
        if isinstance(frame, Task):
            version = frame.version
        elif isinstance(frame, TaskEvent) and frame.type == "WAITING" and frame.sequence >= version:
            return


def _write_json(frames: Iterable[Frame]) -> None:
    names = {Task: "task", TaskEvent: "event", Gap: "gap"}
    for frame in frames:
        print_json({names[type(frame)]: frame})


@contextmanager
def _passing_line(console: Console, *, live: bool) -> Iterator[Callable[[str], None]]:
    """Yields what shows words in a line that the next words replace."""
    if not live:
        yield lambda _words: None
        return
    with console.status(_WAITING) as status:
        yield lambda words: status.update(printable(words))


def _placed(frames: Iterable[Frame]) -> Iterator[tuple[Frame, str]]:
    """Hands frames on, each with where the task is by then: its past does not change that."""
    version, words = 0, _WAITING
    for frame in frames:
        if isinstance(frame, Task):
            version, words = frame.version, task_words(frame)
        elif isinstance(frame, TaskEvent) and (_is_progress(frame) or frame.sequence > version):
            words = event_words(frame) if frame.type in _AT_WORK else _WAITING
        yield frame, words


def _is_progress(frame: Frame) -> bool:
    return isinstance(frame, TaskEvent) and frame.type == "PROGRESS"


def _line(frame: Frame) -> Text:
    match frame:
        case Task():
            return Text(f"task {frame.task_id} of {frame.pipeline}", style="bold")
        case TaskEvent():
            return Text.assemble(
                (short_time(frame.time), "dim"),
                "  ",
                (f"{frame.state:<{_STATE_WIDTH}}", styled(frame.state)),
                "  ",
                event_words(frame),
            )
        case Gap():
            span = f"{frame.first_missing} to {frame.first_available - 1}"
            return Text(f"events {span} are no longer kept", style="dim")
