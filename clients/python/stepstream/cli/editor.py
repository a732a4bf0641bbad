"""Opens a text in the person's editor."""

import shlex
import subprocess
import tempfile
from pathlib import Path

from stepstream.cli.exits import CommandError
from stepstream.settings import EditorSettings, read

__all__ = ["edit_text"]


def edit_text(text: str, name: str) -> str | None:
    """Opens a text in VISUAL, else EDITOR, else vi; None when it comes back unchanged.

    Args:
        text: What to edit.
        name: Name of the file that the editor sees; its ending tells what is in it.

    Raises:
        CommandError: the editor cannot be run, or failed.
    """
    editor = read(EditorSettings).command
    with tempfile.TemporaryDirectory(prefix="stepstream-edit-") as directory:
        path = Path(directory, name)
        path.write_text(text, encoding="utf-8")
        try:
            subprocess.run([*shlex.split(editor), str(path)], check=True)
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            raise CommandError(f"the editor {editor!r} failed; set EDITOR") from error
        try:
            edited = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise CommandError("what came back from the editor is not UTF-8") from error
    return None if edited == text else edited
