"""How a person calls this program again: for the commands that it prints."""

import shlex
import shutil
import sys
from pathlib import Path

__all__ = ["command_line", "program"]


def program() -> str:
    """The name on the PATH when it leads to us, else a path, relative where that is shorter."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"{_shown(Path(sys.executable))} -m stepstream.cli"
    found = shutil.which("stepstream")
    if found and called.exists() and Path(found).resolve() == called.resolve():
        return "stepstream"
    return _shown(called) if called.name == "stepstream" else "stepstream"


def command_line(*words: str) -> str:
    """A command line of this program, quoted for a shell."""
    return f"{program()} {shlex.join(words)}"


def _shown(path: Path) -> str:
    whole = path.absolute()
    inside = whole.is_relative_to(Path.cwd())
    return shlex.quote(str(whole.relative_to(Path.cwd()) if inside else whole))
