"""The command line: `stepstream` and its commands."""

import inspect
from collections.abc import Callable
from typing import Annotated

import typer

import stepstream
from stepstream.cli.command_group import CommandGroup
from stepstream.cli.config import config
from stepstream.cli.dead_letters import dead_letters, redrive
from stepstream.cli.demo import demo
from stepstream.cli.doctor import doctor
from stepstream.cli.exits import EPILOG, Exit, guarded
from stepstream.cli.explain import explain
from stepstream.cli.pipelines import check_pipelines, pipelines
from stepstream.cli.processes import dispatcher, worker
from stepstream.cli.queues import pause, resume
from stepstream.cli.review import review
from stepstream.cli.start import start
from stepstream.cli.submit import submit
from stepstream.cli.tasks import cancel, get, list_tasks, stats
from stepstream.cli.watch import watch
from stepstream.cli.workers import drain, workers

__all__ = ["app", "main"]

app = typer.Typer(
    name="stepstream",
    cls=CommandGroup,
    help="Run multi-step tasks on workers, watch them live, and decide what waits for a person.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_TRY, _SERVICES, _TASKS = "Try it", "Services", "Tasks"
_OPERATION, _INSTALLATION = "Operation", "Installation"
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
    ("explain", explain, _TASKS),
    ("stats", stats, _OPERATION),
    ("workers", workers, _OPERATION),
    ("drain", drain, _OPERATION),
    ("pause", pause, _OPERATION),
    ("resume", resume, _OPERATION),
    ("dead-letters", dead_letters, _OPERATION),
    ("redrive", redrive, _OPERATION),
    ("config", config, _INSTALLATION),
    ("doctor", doctor, _INSTALLATION),
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


# With words behind it `pipelines` is a group, without it is a command itself.
_pipelines = typer.Typer(
    invoke_without_command=True, no_args_is_help=False, context_settings={"max_content_width": 100}
)
_pipelines.callback(help=_help_of(pipelines))(guarded(pipelines))
_pipelines.command("check", help=_help_of(check_pipelines))(guarded(check_pipelines))
app.add_typer(_pipelines, name="pipelines", rich_help_panel=_INSTALLATION)


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
