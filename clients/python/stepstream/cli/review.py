"""`stepstream review`: shows what waits for a person, and takes the decision."""

import getpass
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from stepstream.cli.connect import connected
from stepstream.cli.editor import edit_text
from stepstream.cli.options import Address, AsJson, DataDir
from stepstream.cli.output import (
    on_terminal,
    print_grid,
    print_json,
    print_lines,
    print_table,
    screen,
)
from stepstream.cli.program import command_line
from stepstream.cli.tasks import pages
from stepstream.cli.texts import read_text
from stepstream.cli.wording import finding_words, short_time, title_of, value_text, verdict_of
from stepstream.types import Task, Value

if TYPE_CHECKING:
    from stepstream import Client

__all__ = ["review"]

_STATE = "human_review"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a reviewer decided."""

    word: str  # of ReviewDecision
    text: str | None = None  # the reviewer's own, with edited
    feedback: str = ""  # with rejected


def review(
    *,
    task_id: Annotated[
        str | None, typer.Argument(metavar="[TASK_ID]", help="The task; without it, list them.")
    ] = None,
    approve: Annotated[
        bool, typer.Option("--approve", help="The translation is right as it is.")
    ] = False,
    edit: Annotated[
        str | None,
        typer.Option("--edit", metavar="FILE", help="This file has the right text; - is stdin."),
    ] = None,
    edit_text: Annotated[
        str | None, typer.Option("--edit-text", metavar="TEXT", help="This is the right text.")
    ] = None,
    reject: Annotated[
        str | None,
        typer.Option("--reject", metavar="TEXT", help="Do it again, with these words."),
    ] = None,
    reviewer: Annotated[
        str | None, typer.Option("--reviewer", help="Who decides; by default your user name.")
    ] = None,
    as_json: AsJson = False,
    address: Address = None,
    data_dir: DataDir = None,
) -> None:
    """List what waits for a person, show one task, or decide it.

    With a task id: shows source beside translation and what verification found; on a terminal it
    then asks for the decision, unless an option gives it.

    Examples:
      stepstream review
      stepstream review TASK_ID
      stepstream review TASK_ID --approve
      stepstream review TASK_ID --edit better.txt
      stepstream review TASK_ID --reject "too stiff" --reviewer ana
    """
    decision = _decision(approve=approve, edit=edit, edit_text=edit_text, reject=reject)
    if task_id is None and decision is not None:
        raise typer.BadParameter("say which task to decide", param_hint="TASK_ID")
    with connected(address, data_dir) as client:
        if task_id is None:
            _print_waiting(list(pages(client, state=_STATE)), data_dir, as_json=as_json)
            return
        task = client.get(task_id)
        if decision is None:
            _show(task, as_json=as_json)
            decision = _ask(task) if _can_ask(task, as_json=as_json) else None
        if decision is not None:
            _decide(client, task, decision, reviewer or getpass.getuser(), as_json=as_json)
            if data_dir is not None and decision.word == "rejected" and not as_json:
                sys.stdout.write("it goes on when workers run on this data\n")


def _decision(
    *, approve: bool, edit: str | None, edit_text: str | None, reject: str | None
) -> Decision | None:
    """The decision that the options give; None when they give none.

    Raises:
        typer.BadParameter: they give more than one, or a file cannot be read.
    """
    if approve + sum(given is not None for given in (edit, edit_text, reject)) > 1:
        raise typer.BadParameter("give one of --approve, --edit, --edit-text and --reject")
    if approve:
        return Decision(word="approved")
    if reject is not None:
        return Decision(word="rejected", feedback=reject)
    text = edit_text if edit is None else read_text(edit, "--edit")
    return None if text is None else Decision(word="edited", text=text)


def _decide(
    client: "Client", task: Task, decision: Decision, reviewer: str, *, as_json: bool
) -> None:
    """Sends the decision for the version that was read, and says what became of the task."""
    decided = client.review(
        task.task_id,
        decision.word,
        reviewer=reviewer,
        output=_output(task, decision.text),
        feedback=decision.feedback,
        version=task.version,
    )
    if as_json:
        print_json(decided)
    else:
        sys.stdout.write(f"{decision.word} by {reviewer}: the task is now {decided.state}\n")


def _output(task: Task, text: str | None) -> Value:
    """The reviewer's result: an object with `text` where the translation is one, else the text."""
    if text is None:
        return None
    return text if isinstance(_proposal(task), str) else {"text": text}


def _proposal(task: Task) -> Value:
    """What is to be decided on: the translation, else the last output."""
    if "translate" in task.outputs:
        return task.outputs["translate"]
    others = [value for step, value in task.outputs.items() if step != "verify"]
    return task.result if task.result is not None else (others[-1] if others else None)


def _print_waiting(tasks: list[Task], data_dir: Path | None, *, as_json: bool) -> None:
    if as_json:
        print_json(tasks)
        return
    rows = [
        (
            task.task_id,
            short_time(task.update_time),
            task.revisions,
            len(verdict_of(task).get("findings", [])),
            title_of(task),
        )
        for task in tasks
    ]
    if not on_terminal():
        print_lines(rows)
    elif rows:
        print_table(("task", "since", "#revisions", "#findings", "title"), rows)
        place = ("--data-dir", str(data_dir)) if data_dir else ()
        sys.stdout.write(f"\ndecide one: {command_line('review', 'TASK_ID', *place)}\n")
    else:
        sys.stdout.write("nothing waits for a person\n")


def _show(task: Task, *, as_json: bool) -> None:
    if as_json:
        print_json(task)
        return
    console = screen()
    console.print(f"task {task.task_id} of {task.pipeline}: {task.state}", style="bold")
    verdict = verdict_of(task)
    if "score" in verdict:
        console.print(f"score {verdict['score']} of 100, {verdict.get('threshold', '?')} needed")
    for finding in verdict.get("findings", []):
        console.print(f"  • {finding_words(finding)}", style="yellow")
    for error in task.errors:
        console.print(f"  • {error.step} #{error.attempt}: {error.code}", style="red")
    console.print()
    _print_side_by_side(value_text(task.input), value_text(_proposal(task)))


def _print_side_by_side(source: str, translation: str) -> None:
    """Writes both texts: line beside line on a terminal, one after the other elsewhere."""
    if not on_terminal():
        sys.stdout.write(f"── source\n{source.rstrip()}\n── translation\n{translation.rstrip()}\n")
        return
    left, right = source.rstrip().splitlines(), translation.rstrip().splitlines()
    height = max(len(left), len(right))
    table = Table(box=None, expand=True, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("source", ratio=1, overflow="fold")
    table.add_column("translation", ratio=1, overflow="fold")
    for row in range(height):
        table.add_row(*(Text(side[row] if row < len(side) else "") for side in (left, right)))
    print_grid(table)


def _can_ask(task: Task, *, as_json: bool) -> bool:
    return task.waiting_for_review and not as_json and on_terminal() and sys.stdin.isatty()


def _ask(task: Task) -> Decision | None:
    """Asks for the decision on the terminal; None leaves the task as it is."""
    sys.stdout.write("\n")
    while True:
        answer = typer.prompt("[a]pprove, [e]dit, [r]eject, [q]uit", default="q").strip().lower()
        match answer[:1]:
            case "a":
                return Decision(word="approved")
            case "e":
                edited = edit_text(value_text(_proposal(task)), "translation.txt")
                if edited is not None:
                    return Decision(word="edited", text=edited)
                sys.stdout.write("nothing was changed\n")
            case "r":
                return Decision(word="rejected", feedback=typer.prompt("what is to be done better"))
            case "q":
                return None
