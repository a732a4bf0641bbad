"""`stepstream pipelines`: the pipelines of a dispatcher; `pipelines check`: files without one."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from stepstream.cli.connect import connected
from stepstream.cli.exits import CommandError, Exit
from stepstream.cli.options import Address, AsJson
from stepstream.cli.output import on_terminal, print_json, print_lines, print_table
from stepstream.cli.services import ask
from stepstream.cli.stack import DISPATCHER, require
from stepstream.types import PipelineStep

__all__ = ["check_pipelines", "pipelines"]


def pipelines(ctx: typer.Context, as_json: AsJson = False, address: Address = None) -> None:
    """Show the pipelines that the dispatcher has loaded, or check files of your own.

    Examples:
      stepstream pipelines
      stepstream pipelines check invoices.toml
    """
    if ctx.invoked_subcommand is not None:
        return
    with connected(address) as client:
        found = client.operator.list_pipelines()
    if as_json:
        print_json(found)
        return
    rows = [
        (each.name, each.version, step.name, step.kind, _queue(step), _outcomes(step))
        for each in found
        for step in each.steps
    ]
    if on_terminal():
        print_table(
            ("pipeline", "version", "step", "done by", "queue", "leads to"), rows, fold=True
        )
    else:
        print_lines(rows)


def check_pipelines(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Pipeline files (TOML).")],
    as_json: AsJson = False,
) -> None:
    """Check pipeline files without a dispatcher: what is wrong, in which file and line.

    Two files may not define the same pipeline. Ends with 2 when anything is wrong.

    Examples:
      stepstream pipelines check invoices.toml
      stepstream pipelines check pipelines/*.toml && echo fine
    """
    require(DISPATCHER)
    reply = ask(DISPATCHER, "--check-pipelines", *map(_word, files))
    if not isinstance(reply.answer, dict):
        words = " ".join(reply.complaints[-1:]) or "no answer"
        raise CommandError(f"the check did not run: {words}")
    if as_json:
        print_json(reply.answer)
    else:
        _print_checked(reply.answer)
    raise typer.Exit(Exit.USAGE if reply.answer["errors"] else Exit.OK)


def _word(file: Path) -> str:
    """The file as a word that is not taken for an option.

    Raises:
        UnicodeEncodeError: its name is not UTF-8, which JSON cannot carry.
    """
    str(file).encode()
    return f"./{file}" if str(file).startswith("-") else str(file)


def _queue(step: PipelineStep) -> str:
    return f"{step.queue} (paused)" if step.paused else step.queue


def _outcomes(step: PipelineStep) -> str:
    return ", ".join(f"{outcome} → {there}" for outcome, there in sorted(step.on.items()))


def _print_checked(answer: Any) -> None:
    for each in answer["pipelines"]:
        steps = " → ".join(each["steps"])
        sys.stdout.write(f"{each['file']}: {each['name']} ({each['version']}): {steps}\n")
    sys.stdout.flush()
    for error in answer["errors"]:
        sys.stderr.write(f"error: {error}\n")
