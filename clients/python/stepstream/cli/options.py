"""The options that several commands share."""

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from stepstream.cli.completion import complete_task
from stepstream.settings import is_address_list

__all__ = [
    "Address",
    "AsJson",
    "DataDir",
    "Labels",
    "TaskId",
    "check_directory",
    "check_name",
    "parse_labels",
    "parse_seconds",
]

_TIME = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h|d)?")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")  # as the worker protocol has it
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def check_directory(value: Path | None) -> Path | None:
    """Lets a directory pass that is there or can be made.

    Raises:
        typer.BadParameter: something else has the name of it, or of one above it.
    """
    for place in (value, *value.absolute().parents) if value else ():
        if os.path.lexists(place):
            if place.is_dir():
                return value
            raise typer.BadParameter(f"{str(place)!r} is not a directory")
    return value


def _check_address(value: str | None) -> str | None:
    if value is not None and not is_address_list(value):
        raise typer.BadParameter(f"{value!r} is not host:port")
    return value


def check_name(value: str | None) -> str | None:
    """Lets a name of a worker or a queue pass.

    Raises:
        typer.BadParameter: it is none.
    """
    if value is not None and _NAME.fullmatch(value) is None:
        raise typer.BadParameter(f"{value!r} is not 1 to 64 characters of A-Z a-z 0-9 . _ -")
    return value


Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        "-a",
        metavar="HOST:PORT",
        callback=_check_address,
        help="Where the dispatcher listens. Default: STEPSTREAM_ADDRESS, else 127.0.0.1:50051.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON for programs.")]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        callback=check_directory,
        help="Work on the data that `demo` or `start` left in this directory: "
        "starts what is needed and stops it again.",
    ),
]
Labels = Annotated[
    list[str] | None,
    typer.Option("--label", "-l", metavar="KEY=VALUE", help="A label; may be given several times."),
]
TaskId = Annotated[
    str, typer.Argument(metavar="TASK_ID", help="The task.", autocompletion=complete_task)
]


def parse_labels(given: list[str] | None) -> dict[str, str]:
    """Reads `KEY=VALUE` words.

    Raises:
        typer.BadParameter: one has no `=`.
    """
    labels: dict[str, str] = {}
    for word in given or []:
        key, equals, value = word.partition("=")
        if not (key and equals):
            raise typer.BadParameter(f"{word!r} is not KEY=VALUE", param_hint="--label")
        labels[key] = value
    return labels


def parse_seconds(text: str) -> float:
    """Reads a time such as `90`, `1.5s`, `10m`, `2h` or `500ms`; without a unit it is seconds.

    Raises:
        typer.BadParameter: it is not one.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a time such as 90, 1.5s, 10m or 2h")
    return float(match[1]) * _UNITS_S[match[2] or "s"]
