"""Journals that lie beside this dispatcher's own: of another one, or of an id that it had."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

__all__ = ["leftover_journals"]


def leftover_journals(own: Path) -> dict[Path, int]:
    """Find the other journals in the directory of `own`, and how many tasks each holds.

    Those that are empty, and files that are no journal, are left out. Nothing is written.
    """
    others = sorted(path for path in own.parent.glob("journal-*.sqlite") if path != own)
    counted = {path: _tasks_in(path) for path in others}
    return {path: tasks for path, tasks in counted.items() if tasks}


def _tasks_in(path: Path) -> int:
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            row = connection.execute("SELECT count(*) FROM tasks").fetchone()
    except sqlite3.Error:
        return 0
    return int(row[0])
