"""Every command of the command line, with its arguments and options."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from stepstream.cli.app import app

__all__ = ["commands", "names_of"]


def commands() -> dict[str, Any]:
    """The commands by their words, for instance `pipelines check`."""
    return dict(_below(typer.main.get_command(app), ()))


def _below(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if words:
        yield " ".join(words), command
    for name, child in getattr(command, "commands", {}).items():
        yield from _below(child, (*words, name))


def names_of(parameter: Any) -> list[str]:
    """How a parameter is called: the names of an option, the placeholder of an argument."""
    if parameter.param_type_name == "argument":
        return [parameter.metavar or parameter.name]
    return [*parameter.opts, *parameter.secondary_opts]
