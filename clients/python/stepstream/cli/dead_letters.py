"""`stepstream dead-letters` and `redrive`: tasks that failed for good, and another chance."""

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from stepstream.cli.completion import complete_task
from stepstream.cli.connect import connected
from stepstream.cli.editor import edit_text
from stepstream.cli.exits import CommandError, Exit, complain
from stepstream.cli.options import Address, AsJson, parse_seconds
from stepstream.cli.output import (
    on_terminal,
    print_json,
    print_lines,
    print_table,
    printable,
    screen,
)
from stepstream.cli.program import command_line
from stepstream.cli.texts import read_text
from stepstream.cli.waiting import await_tasks, worst
from stepstream.cli.wording import first_line, short_time, title_of
from stepstream.types import RedriveResult, Task, Value

if TYPE_CHECKING:
    from stepstream import Client

__all__ = ["dead_letters", "redrive"]

_PAGE = 100
_CALL_MAX = 1000  # operator_service.proto, RedriveRequest
_STATUS_OF = {"TASK_NOT_FOUND": Exit.NOT_FOUND, "INVALID_TASK": Exit.USAGE}


def dead_letters(
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=1_000_000, help="At most so many.")
    ] = 50,
    as_json: AsJson = False,
    address: Address = None,
) -> None:
    """List the tasks that failed for good, the latest first, each with its last error.

    In a pipe: task id, pipeline, step, attempts, error code, time and message, with tabs between.

    Examples:
      stepstream dead-letters
      stepstream dead-letters | cut -f1,5 | sort -k2
    """
    with connected(address) as client:
        tasks = list(islice(_all(client, min(limit, _PAGE)), limit))
    if as_json:
        print_json(tasks)
    elif not on_terminal():
        print_lines([_row(task) for task in tasks])
    elif tasks:
        for task in tasks:
            _print(task)
        sys.stdout.write(f"\nanother chance: {command_line('redrive', 'TASK_ID')}\n")
    else:
        sys.stdout.write("no task has failed for good\n")


def redrive(
    *,
    task_ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TASK_ID...]", help="The tasks.", autocompletion=complete_task),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every task that failed for good.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask whether to.")] = False,
    input_file: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="FILE",
            help="Give the task this input first: a JSON object, or its text; - is stdin.",
        ),
    ] = None,
    edit: Annotated[
        bool, typer.Option("--edit", help="Edit the task's input first, in VISUAL or EDITOR.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until each has ended.")] = False,
    timeout: Annotated[
        str, typer.Option("--timeout", help="How long --wait waits, for example 90s or 10m.")
    ] = "10m",
    as_json: AsJson = False,
    address: Address = None,
) -> None:
    """Start failed tasks anew, at the step that failed, with a fresh count of attempts.

    With --input or --edit the task gets another input first.

    Examples:
      stepstream redrive TASK_ID --wait
      stepstream redrive TASK_ID --input better.json
      stepstream redrive --all --yes
    """
    timeout_s = parse_seconds(timeout)
    ids = list(dict.fromkeys(task_ids or []))
    _check_choice(ids, every=every, one=edit or input_file is not None)
    if edit and input_file is not None:
        raise typer.BadParameter("give one of --input and --edit")
    new_text = None if input_file is None else read_text(input_file, "--input")
    with connected(address) as client:
        if every:
            ids = [task.task_id for task in _all(client, _PAGE)]
            _confirm(len(ids), yes=yes)
        if new_text is not None or edit:
            _replace_input(client, ids[0], new_text)
        results = _redrive_all(client, ids)
        redriven = [result.task_id for result in results if result.redriven]
        _complain(results)
        ended = list(await_tasks(client, redriven, timeout_s=timeout_s)) if wait else []
    if wait:
        _report_end(ended, as_json=as_json)
    else:
        _report(results, as_json=as_json)
    raise typer.Exit(_status(results) or worst(ended))


def new_input(text: str, old: Value) -> Value:
    """The input that a text stands for: the object that it spells, else a text like the old one.

    Args:
        text: A JSON object, or a text.
        old: The task's input; of an object with the member `text` the text replaces that member.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        return value
    return {**old, "text": text} if isinstance(old, dict) and "text" in old else text


def _check_choice(ids: Sequence[str], *, every: bool, one: bool) -> None:
    if bool(ids) == every:
        raise typer.BadParameter("give task ids, or --all")
    if one and (every or len(ids) != 1):
        raise typer.BadParameter("--input and --edit are for one task")


def _confirm(count: int, *, yes: bool) -> None:
    """Asks a person.

    Raises:
        CommandError: nobody can be asked, or the answer is no.
        typer.Exit: with 0, there is nothing to do.
    """
    if not count:
        sys.stdout.write("no task has failed for good\n")
        raise typer.Exit(Exit.OK)
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise CommandError("--all needs --yes where nobody can be asked", Exit.USAGE)
    noun = "task" if count == 1 else "tasks"
    if not typer.confirm(f"start {count} failed {noun} anew?", err=True):
        raise CommandError("nothing was started anew")


def _replace_input(client: "Client", task_id: str, text: str | None) -> None:
    """Gives the task another input: of a text, or as a person edits it."""
    task = client.get(task_id)
    if text is None:
        shown = (
            json.dumps(task.input, ensure_ascii=False, indent=2)
            if isinstance(task.input, dict)
            else task.input
        )
        if not isinstance(shown, str):
            raise CommandError(f"the input of task {task_id} is no text: use --input")
        text = edit_text(shown, "input.json" if isinstance(task.input, dict) else "input.txt")
        if text is None:
            return
    client.operator.update_input(task_id, new_input(text, task.input), version=task.version)


def _all(client: "Client", page_size: int) -> Iterator[Task]:
    """Every dead letter, latest first, read page by page."""
    token = ""
    while True:
        page = client.operator.list_dead_letters(page_size=page_size, page_token=token)
        yield from page.tasks
        token = page.next_page_token
        if not token:
            return


def _redrive_all(client: "Client", ids: Sequence[str]) -> list[RedriveResult]:
    return [
        result
        for at in range(0, len(ids), _CALL_MAX)
        for result in client.operator.redrive(ids[at : at + _CALL_MAX])
    ]


def _complain(results: Sequence[RedriveResult]) -> None:
    for result in results:
        if not result.redriven:
            complain(f"task {result.task_id} was not started anew: {result.reason}")


def _report(results: Sequence[RedriveResult], *, as_json: bool) -> None:
    if as_json:
        print_json(results)
    elif on_terminal():
        count = sum(result.redriven for result in results)
        sys.stdout.write(f"{count} of {len(results)} started anew\n")
    else:
        print_lines([(one.task_id, one.reason or "REDRIVEN") for one in results])


def _report_end(tasks: Sequence[Task], *, as_json: bool) -> None:
    if as_json:
        print_json(tasks)
    elif on_terminal():
        print_table(
            ("task", "state", "title"), [(one.task_id, one.state, title_of(one)) for one in tasks]
        )
    else:
        print_lines([(one.task_id, one.state) for one in tasks])


def _status(results: Sequence[RedriveResult]) -> Exit:
    refused = {result.reason for result in results if not result.redriven}
    if not refused:
        return Exit.OK
    return _STATUS_OF.get(refused.pop(), Exit.FAILED) if len(refused) == 1 else Exit.FAILED


def _row(task: Task) -> tuple[object, ...]:
    code, message = _last_error(task)
    changed = short_time(task.update_time)
    return task.task_id, task.pipeline, task.step, task.attempt, code, changed, message


def _print(task: Task) -> None:
    """Writes two lines: which task, and below what its last error said, cut to the width."""
    console, width = screen(), shutil.get_terminal_size().columns
    code, message = _last_error(task)
    facts = f"  {task.step}  {short_time(task.update_time)[:8]}  {title_of(task)}"
    told = Text.assemble((task.task_id, "bold"), "  ", (code, "red"), printable(facts))
    for line in (told, Text(f"    {printable(message)}", style="dim")):
        line.truncate(width, overflow="ellipsis")
        console.print(line)


def _last_error(task: Task) -> tuple[str, str]:
    if not task.errors:
        return "", ""
    return task.errors[-1].code, first_line(task.errors[-1].message)
