"""Where the tables and keys of a TOML text stand, for messages: tomllib itself gives no lines."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["LineIndex", "Path"]

Path = tuple[str | int, ...]

_HEADER: Final = re.compile(r"\s*(\[{1,2})\s*([^\[\]]+?)\s*\]{1,2}\s*(?:#.*)?")
_KEY: Final = re.compile(r"\s*([A-Za-z0-9_\-.\"' ]+?)\s*=")


class LineIndex:
    """The line of each table and key, numbered from 1.

    It reads line by line, so that a header inside a multi-line string is taken for one; that can
    only make a message point to a wrong line.

    Args:
        text: The TOML text.
    """

    def __init__(self, text: str) -> None:
        self._lines: dict[Path, int] = {(): 1}
        self._lengths: dict[Path, int] = {}  # of each array of tables so far
        table: Path = ()
        for number, line in enumerate(text.splitlines(), start=1):
            if header := _HEADER.fullmatch(line):
                table = self._enter(_parts(header[2]), array=header[1] == "[[")
                self._lines.setdefault(table, number)
            elif key := _KEY.match(line):
                self._note((*table, *_parts(key[1])), len(table), number)

    def line(self, path: Path) -> int:
        """Return the line of a path, or of the nearest table or key that contains it."""
        while path not in self._lines:
            path = path[:-1]
        return self._lines[path]

    def _enter(self, parts: list[str], *, array: bool) -> Path:
        path: Path = ()
        for part in parts[:-1]:
            path = self._latest((*path, part))
        path = (*path, parts[-1])
        if not array:
            return path
        self._lengths[path] = self._lengths.get(path, 0) + 1
        return self._latest(path)

    def _latest(self, path: Path) -> Path:
        length = self._lengths.get(path)
        return path if length is None else (*path, length - 1)

    def _note(self, path: Path, depth: int, number: int) -> None:
        for end in range(depth + 1, len(path) + 1):
            self._lines.setdefault(path[:end], number)


def _parts(dotted: str) -> list[str]:
    return [part.strip().strip("\"'") for part in dotted.split(".")]
