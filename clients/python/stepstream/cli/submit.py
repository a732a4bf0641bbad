"""`stepstream submit`: hands a task in, and follows or awaits it when asked to."""

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stepstream.cli.connect import connected
from stepstream.cli.exits import Exit, complain, interruptible
from stepstream.cli.follow import exit_of, follow
from stepstream.cli.options import Address, AsJson, Labels, parse_labels, parse_seconds
from stepstream.cli.output import on_terminal, print_json
from stepstream.cli.program import command_line
from stepstream.cli.texts import STDIN, read_text
from stepstream.cli.waiting import await_task
from stepstream.cli.wording import value_text
from stepstream.types import Submitted, Task, Value

if TYPE_CHECKING:
    from stepstream import Client

__all__ = ["submit"]

_TRANSLATION = "translation"


Text = Annotated[str | None, typer.Argument(metavar="[TEXT]", help="The text itself.")]
File = Annotated[
    str | None, typer.Option("--file", "-f", help="Read the text from a file; - is stdin.")
]
SourceLang = Annotated[
    str | None, typer.Option("--from", help="Language of the text, for example zh-CN.")
]
TargetLang = Annotated[
    str | None, typer.Option("--to", help="Language to translate into, for example zh-TW.")
]
Pipeline = Annotated[str, typer.Option("--pipeline", "-p", help="Name of the pipeline.")]
InputJson = Annotated[
    str | None,
    typer.Option("--input-json", metavar="JSON", help="The whole input as a JSON object."),
]
Watch = Annotated[bool, typer.Option("--watch", help="Show each event until it ends.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait, then print the result.")]
ThroughReview = Annotated[
    bool, typer.Option("--through-review", help="Stay while the task waits for a person.")
]
Timeout = Annotated[
    str, typer.Option("--timeout", help="How long --wait waits, for example 90s or 10m.")
]
RequestId = Annotated[
    str | None,
    typer.Option("--request-id", help="The same id is the same task; by default it is random."),
]
Delay = Annotated[
    str | None, typer.Option("--delay", help="Start this much later, for example 10m.")
]
Deadline = Annotated[
    str | None,
    typer.Option("--deadline", help="Fail unless it has ended this long from now, for example 2h."),
]


def submit(
    *,
    text: Text = None,
    file: File = None,
    source_lang: SourceLang = None,
    target_lang: TargetLang = None,
    pipeline: Pipeline = _TRANSLATION,
    input_json: InputJson = None,
    watch: Watch = False,
    wait: Wait = False,
    through_review: ThroughReview = False,
    timeout: Timeout = "10m",
    request_id: RequestId = None,
    delay: Delay = None,
    deadline: Deadline = None,
    label: Labels = None,
    as_json: AsJson = False,
    address: Address = None,
) -> None:
    """Hand in a task.

    The text comes from the argument, from --file, or from standard input. Prints the task's id;
    with --wait its result. A task of the translation pipeline needs --from and --to.

    Examples:
      stepstream submit --from zh-CN --to zh-TW "请把鼠标和打印机接到服务器上。" --wait
      stepstream submit --from zh-CN --to zh-TW --file letter.txt --watch
      stepstream submit --from zh-TW --to zh-CN --wait < notes.md > out.md
      stepstream submit --pipeline mine --input-json '{"page": 1}'
    """
    value = _input(text, file, input_json, pipeline, source_lang, target_lang)
    wait_s = parse_seconds(timeout)
    with connected(address) as client:
        submitted = client.submit(
            pipeline,
            value,
            request_id=request_id,
            delay_s=None if delay is None else parse_seconds(delay),
            deadline_s=None if deadline is None else parse_seconds(deadline),
            labels=parse_labels(label),
        )
        if not (watch or wait):
            _announce(submitted, as_json=as_json)
            return
        task = _see_through(
            client,
            submitted.task_id,
            watch=watch,
            wait=wait,
            wait_s=wait_s,
            through_review=through_review,
            as_json=as_json,
        )
    raise typer.Exit(exit_of(task))


def _see_through(
    client: "Client",
    task_id: str,
    *,
    watch: bool,
    wait: bool,
    wait_s: float,
    through_review: bool,
    as_json: bool,
) -> Task:
    """Follows the task, waits for it, and shows how it ended."""
    if watch:
        again = command_line("watch", task_id)
        with interruptible(f"the task goes on; look again: {again}"):
            follow(
                client,
                task_id,
                as_json=as_json,
                through_review=through_review,
                to_stderr=wait and not as_json,
            )
            task = client.get(task_id)
    else:
        task = await_task(client, task_id, timeout_s=wait_s, through_review=through_review)
    if wait or not as_json:
        _show_end(task, as_json=as_json, with_result=wait or on_terminal())
    return task


def _show_end(task: Task, *, as_json: bool, with_result: bool) -> None:
    """Writes the result to standard output, or why there is none to standard error."""
    if as_json:
        print_json(task)
    elif exit_of(task) is Exit.OK:
        if with_result:
            sys.stdout.write(value_text(task.result).rstrip("\n") + "\n")
    elif task.waiting_for_review:
        decide = command_line("review", task.task_id)
        sys.stderr.write(f"task {task.task_id} waits for a person: {decide}\n")
    else:
        why = f": {task.errors[-1].code}: {task.errors[-1].message}" if task.errors else ""
        complain(f"task {task.task_id} {task.state}{why}")


def _announce(submitted: Submitted, *, as_json: bool) -> None:
    if as_json:
        print_json(submitted)
        return
    sys.stdout.write(f"{submitted.task_id}\n")
    if on_terminal():
        known = "known already, " if submitted.duplicate else ""
        follow_it = command_line("watch", submitted.task_id)
        sys.stderr.write(f"{known}{submitted.state}; follow it: {follow_it}\n")


def _input(
    text: str | None,
    file: str | None,
    input_json: str | None,
    pipeline: str,
    source_lang: str | None,
    target_lang: str | None,
) -> Value:
    """Makes the input of the task.

    Raises:
        typer.BadParameter: there is none, more than one, or a language is missing.
    """
    if sum(given is not None for given in (text, file, input_json)) > 1:
        raise typer.BadParameter("give one of the text, --file and --input-json")
    if input_json is not None:
        return _parse_object(input_json)
    words = text if text is not None else read_text(_source(file), "--file")
    if source_lang and target_lang:
        if not words.strip():
            raise typer.BadParameter("the text is empty")
        return {"text": words, "source_lang": source_lang, "target_lang": target_lang}
    if pipeline == _TRANSLATION or source_lang or target_lang:
        raise typer.BadParameter("a translation needs both --from and --to", param_hint="--from")
    return words


def _parse_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint="--input-json") from error
    if not isinstance(value, dict):
        raise typer.BadParameter("not a JSON object", param_hint="--input-json")
    return value


def _source(file: str | None) -> str:
    """The file that was named, else standard input when something is piped in."""
    if file is None and sys.stdin.isatty():
        raise typer.BadParameter("give a text, --file or --input-json, or pipe a text in")
    return STDIN if file is None else file
