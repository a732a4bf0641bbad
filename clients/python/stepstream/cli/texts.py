"""Reads the texts that people hand over as files or through a pipe."""

import sys
from pathlib import Path

import typer

__all__ = ["STDIN", "read_text"]

STDIN = "-"


def read_text(file: str, option: str) -> str:
    """Reads a UTF-8 file, or standard input for `-`.

    Raises:
        typer.BadParameter: it cannot be read; the message names the option.
    """
    try:
        if file == STDIN:
            return sys.stdin.buffer.read().decode("utf-8")
        return Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}", param_hint=option) from error
    except UnicodeDecodeError as error:
        name = "standard input" if file == STDIN else file
        raise typer.BadParameter(f"{name} is not UTF-8", param_hint=option) from error
