"""The command line: `stepstream` and its commands."""

import inspect
from collections.abc import Callable
from typing import Annotated

import typer

import stepstream
from stepstream.cli.demo import demo
from stepstream.cli.exits import EPILOG, Exit, guarded
from stepstream.cli.processes import dispatcher, worker
from stepstream.cli.review import review
from stepstream.cli.start import start
from stepstream.cli.submit import submit
from stepstream.cli.tasks import cancel, get, list_tasks, stats, watch

__all__ = ["app", "main"]

app = typer.Typer(
    name="stepstream",
    help="Run multi-step tasks on workers, watch them live, and decide what waits for a person.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_TRY, _TASKS, _SERVICES = "Try it", "Tasks", "Services"
_COMMANDS = (
    ("demo", demo, _TRY),
    ("start", start, _SERVICES),
    ("dispatcher", dispatcher, _SERVICES),
    ("worker", worker, _SERVICES),
    ("submit", submit, _TASKS),
    ("watch", watch, _TASKS),
    ("get", get, _TASKS),
    ("list", list_tasks, _TASKS),
    ("review", review, _TASKS),
    ("cancel", cancel, _TASKS),
    ("stats", stats, _TASKS),
)


def _help_of(command: Callable[..., None]) -> str:
    """The docstring as typer wants it: a line per paragraph, a backspace before examples."""
    paragraphs = (inspect.getdoc(command) or "").split("\n\n")
    return "\n\n".join(
        f"\b\n{paragraph}" if paragraph.startswith("Example") else paragraph.replace("\n", " ")
        for paragraph in paragraphs
    )


for _name, _command, _panel in _COMMANDS:
    app.command(_name, help=_help_of(_command), rich_help_panel=_panel)(guarded(_command))


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"stepstream {stepstream.__version__}")
        raise typer.Exit(Exit.OK)


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Runs the command line; ends the process with its exit status."""
    app()
