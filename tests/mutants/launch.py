"""Starts a program with a bug in it: `python -m tests.mutants.launch BUG MODULE ...`.

The test kit starts every process by `launched`, which changes nothing unless the environment of the
tests asks for a bug.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence

from tests.mutants.planting import PlantingError, plant, wanted
from tests.mutants.seeds import bug_of

__all__ = ["launched"]

UNPLANTED = 70  # exit status: the bug could not be planted


def launched(argv: Sequence[str]) -> list[str]:
    """The command line that starts a Python module with the wanted bug, if one is wanted."""
    bug = wanted()
    if not bug or list(argv[:2]) != [sys.executable, "-m"]:
        return list(argv)
    return [sys.executable, "-m", "tests.mutants.launch", bug, *argv[2:]]


def main() -> None:
    """Plant the bug, then become the program."""
    name, module, *arguments = sys.argv[1:]
    try:
        plant(bug_of(name))
    except (LookupError, PlantingError) as error:
        sys.stderr.write(f"bug {name} is not planted: {error}\n")
        raise SystemExit(UNPLANTED) from error
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
