"""Writes what commands found: tables on a terminal, lines in a pipe, JSON on request."""

import re
import sys
from collections.abc import Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = [
    "STATE_STYLES",
    "make_table",
    "on_terminal",
    "print_grid",
    "print_json",
    "print_lines",
    "print_table",
    "printable",
    "screen",
    "styled",
]

STATE_STYLES = {
    "pending": "dim",
    "scheduled": "dim",
    "translating": "cyan",
    "llm_verification": "blue",
    "human_review": "yellow",
    "done": "green",
    "failed": "bold red",
    "cancelled": "red",
    "connected": "green",
    "draining": "yellow",
    "gone": "red",
    "environment": "cyan",
    "default": "dim",
}


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def screen(*, stderr: bool = False) -> Console:
    """A console on the present standard output or error; words are never taken for markup."""
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=True)


def on_terminal() -> bool:
    """Whether a person looks at standard output."""
    return sys.stdout.isatty()


def print_json(value: Any) -> None:
    """Writes one JSON document on one line; bytes become base64, times ISO 8601."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def print_lines(rows: Sequence[Sequence[object]]) -> None:
    """Writes a line per row, its cells with tabs between."""
    for row in rows:
        sys.stdout.write("\t".join(" ".join(str(cell).split()) for cell in row) + "\n")
    sys.stdout.flush()


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, fold: bool = False
) -> None:
    """Writes a table for people: see `make_table`."""
    print_grid(make_table(columns, rows, fold=fold))


def make_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, fold: bool = False
) -> Table:
    """Makes a table for people.

    Args:
        columns: The heads; one that starts with `#` is aligned right. The last one, unless
            aligned right, takes the width that is left and is cut there.
        rows: The cells; a name of a state gets its colour.
        fold: Whether what is too long for the last column goes on below instead.
    """
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        right = column.startswith("#")
        last = column is columns[-1] and not right
        table.expand = last
        table.add_column(
            column.lstrip("#"),
            justify="right" if right else "left",
            no_wrap=not (last and fold),
            overflow="fold" if last and fold else "ellipsis",
            ratio=1 if last else None,
        )
    for row in rows:
        table.add_row(*(_cell(cell) for cell in row))
    return table


def print_grid(table: Table) -> None:
    """Writes a table as wide as the terminal."""
    Console(markup=False, highlight=False, emoji=False).print(table)


def printable(text: str) -> str:
    """A text that cannot steer a terminal: escapes, controls and turned writing direction out."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def styled(state: str) -> str:
    """The style of a state; none for one of somebody's own pipeline."""
    return STATE_STYLES.get(state, "")


def _cell(cell: object) -> Text:
    text = printable(str(cell))
    return Text(text, style=styled(text))
