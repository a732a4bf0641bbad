"""What the demo shows: documents handed in, their states as they come, and what became of them."""

import asyncio
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

import stepstream
from stepstream.cli.output import print_table, screen, styled
from stepstream.cli.program import command_line
from stepstream.cli.samples import Document
from stepstream.cli.wording import event_words, finding_words, value_text, verdict_of
from stepstream.types import SubmitItem, Submitted, Task, TaskEvent

if TYPE_CHECKING:
    from stepstream import AsyncClient

__all__ = ["Outcome", "judge", "show_demo"]

_TIMEOUT_S = 120.0
_ENDED_MIN = 6
_TITLE_WIDTHS = (16, 34)  # of a title, at least and at most
_BESIDE_TITLE = 64  # columns of a line that are not the title
_COLUMNS = 96  # of one line; a Chinese character takes two
_FINDINGS_SHOWN = 3
_TELLING = frozenset({"RETRYING", "LOST", "RELEASED", "ADOPTED"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How the demo went."""

    good: bool
    words: str  # how many tasks are in which state


async def show_demo(address: str, documents: Sequence[Document], *, data_dir: Path) -> Outcome:
    """Submits the documents at once, shows each change of state, and sums up.

    Args:
        address: Where the dispatcher listens.
        documents: What to translate.
        data_dir: Where the data stays, for the commands that are printed.
    """
    console = screen()
    async with asyncio.timeout(_TIMEOUT_S), stepstream.AsyncClient(address) as client:
        started_mono = time.monotonic()
        ids = await _submit(client, documents)
        async with asyncio.TaskGroup() as group:
            for task_id, document in zip(ids, documents, strict=True):
                group.create_task(_follow(client, task_id, document, console, started_mono))
        elapsed_s = time.monotonic() - started_mono
        tasks = [await client.get(task_id) for task_id in ids]
    outcome = judge(tasks)
    _print_summary(console, documents, tasks)
    console.print(f"\n{len(tasks)} documents in {elapsed_s:.1f} s: {outcome.words}", style="bold")
    _print_excerpt(console, documents, tasks)
    _print_reviews(console, documents, tasks, data_dir)
    return outcome


def judge(tasks: Sequence[Task]) -> Outcome:
    """Good when at least 6 ended or wait, most are done, and at least one waits for a person."""
    done = sum(task.state == "done" for task in tasks)
    waiting = sum(task.waiting_for_review for task in tasks)
    others = len(tasks) - done - waiting
    words = f"{done} done, {waiting} waiting for a person"
    if others:
        words += f", {others} otherwise"
    good = done + waiting >= _ENDED_MIN and 2 * done > len(tasks) and waiting >= 1
    return Outcome(good=good, words=words)


async def _submit(client: "AsyncClient", documents: Sequence[Document]) -> list[str]:
    answers = await client.submit_batch([_item(document) for document in documents])
    for answer in answers:
        if not isinstance(answer, Submitted):
            raise answer
    return [answer.task_id for answer in answers if isinstance(answer, Submitted)]


def _item(document: Document) -> SubmitItem:
    return SubmitItem(
        pipeline="translation",
        input={
            "text": document.text,
            "source_lang": document.source_lang,
            "target_lang": document.target_lang,
        },
        labels={"title": document.title[:63]},
    )


async def _follow(
    client: "AsyncClient",
    task_id: str,
    document: Document,
    console: Console,
    started_mono: float,
) -> None:
    """Writes a line for each change of state until the task has ended or waits for a person."""
    state = ""
    async for frame in client.watch(task_id, after=0):
        if not isinstance(frame, TaskEvent):
            continue
        if frame.state != state or frame.type in _TELLING:
            state = frame.state
            console.print(_line(frame, document, time.monotonic() - started_mono))
        if frame.type == "WAITING":
            return


def _line(event: TaskEvent, document: Document, elapsed_s: float) -> Text:
    least, most = _TITLE_WIDTHS
    width = max(least, min(most, shutil.get_terminal_size().columns - _BESIDE_TITLE))
    title = set_cell_size(_cut(document.title, width), width)
    return Text.assemble(
        (f"{elapsed_s:6.2f} s  ", "dim"),
        (f"{event.state:<16}", styled(event.state)),
        f"  {title}  ",
        (event_words(event), "dim"),
    )


def _print_summary(console: Console, documents: Sequence[Document], tasks: Sequence[Task]) -> None:
    rows = [
        (
            f"{document.source_lang} → {document.target_lang}",
            task.state,
            verdict_of(task).get("score", ""),
            _duration(task),
            document.title,
        )
        for document, task in zip(documents, tasks, strict=True)
    ]
    console.print()
    print_table(("pair", "state", "#score", "#time", "document"), rows)


def _duration(task: Task) -> str:
    if task.create_time is None or task.update_time is None:
        return ""
    return f"{(task.update_time - task.create_time).total_seconds():.2f} s"


def _print_excerpt(console: Console, documents: Sequence[Document], tasks: Sequence[Task]) -> None:
    """Shows the start of one finished translation below its source."""
    for document, task in zip(documents, tasks, strict=True):
        if task.state == "done":
            console.print(f"\n{document.title}", style="bold")
            for language, text in (
                (document.source_lang, document.text),
                (document.target_lang, value_text(task.result)),
            ):
                console.print(_cut(f"  {language}  {_prose(text)}", _COLUMNS))
            return


def _prose(text: str) -> str:
    """The first paragraph that is not a heading."""
    lines = [line.strip() for line in text.splitlines()]
    prose = [line for line in lines if line and not line.startswith(("#", "|", "-", "`"))]
    return prose[0] if prose else ""


def _print_reviews(
    console: Console, documents: Sequence[Document], tasks: Sequence[Task], data_dir: Path
) -> None:
    """Shows what waits for a person, why, and the commands that decide it."""
    for document, task in zip(documents, tasks, strict=True):
        if not task.waiting_for_review:
            continue
        console.print(f"\n{document.title} waits for a person:", style="bold yellow")
        findings = verdict_of(task).get("findings", [])
        for finding in findings[:_FINDINGS_SHOWN]:
            console.print(_cut(f"  • {finding_words(finding)}", _COLUMNS))
        if len(findings) > _FINDINGS_SHOWN:
            console.print(f"  • and {len(findings) - _FINDINGS_SHOWN} more")
        place = ("--data-dir", str(data_dir))
        console.print("look at it, or approve it:")
        console.print(f"  {command_line('review', task.task_id, *place)}")
        console.print(f"  {command_line('review', task.task_id, '--approve', *place)}")


def _cut(text: str, columns: int) -> str:
    """Shortens a text to so many columns of a terminal."""
    return text if cell_len(text) <= columns else set_cell_size(text, columns - 1).rstrip() + "…"
