"""The group of all commands: a wrong word on the command line ends with one line and status 2."""

import functools
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from stepstream.cli.exits import Exit, complain

__all__ = ["CommandGroup"]

# typer hands out BadParameter alone, and keeps its parents where they were or in a copy of click.
_UsageError: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "UsageError"
)


class CommandGroup(TyperGroup):
    """A group that says what is wrong as every other error is said: on one line."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Runs a command line; ends the process with its status unless standalone_mode is off."""
        run = functools.partial(
            super().main,
            args,
            prog_name,
            complete_var,
            standalone_mode=False,
            windows_expand_args=windows_expand_args,
            **extra,
        )
        if not standalone_mode:
            return run()
        try:
            status = run()
        except typer.Abort:
            status = Exit.INTERRUPTED
        except _UsageError as error:
            status = _refuse(error)
        sys.exit(status or Exit.OK)


def _refuse(error: Any) -> Exit:
    """Writes the line; without any word at all, help has been written instead."""
    words = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stdout.write(words)
        return Exit.USAGE
    place = error.ctx.command_path if error.ctx else "stepstream"
    complain(f"{words.rstrip('.')}; see {place} --help")
    return Exit.USAGE
