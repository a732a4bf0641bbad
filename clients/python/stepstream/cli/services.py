"""Asks a service a question in a process of its own: the command line imports none of them."""

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from stepstream.cli.exits import CommandError
from stepstream.settings import child_environment

__all__ = ["Reply", "ask"]

_TIMEOUT_S = 30.0  # a cold start on a slow disk


class Reply(Struct, frozen=True, kw_only=True):
    """What a service answered."""

    status: int  # 0, or 2 when a setting or a file is wrong
    answer: Any  # its JSON; None when it wrote none
    complaints: list[str]  # its lines on standard error


def ask(module: str, *words: str) -> Reply:
    """Runs `python -m module words` and reads its answer; status 2 when it has no such words.

    Raises:
        CommandError: it does not answer in time.
    """
    try:
        ran = subprocess.run(
            [sys.executable, "-m", module, *words],
            env=child_environment({}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"{module} did not answer in {_TIMEOUT_S:g} s") from error
    return Reply(
        status=ran.returncode,
        answer=_documents(ran.stdout.splitlines()),
        complaints=ran.stderr.decode(errors="replace").splitlines(),
    )


def _documents(lines: Sequence[bytes]) -> Any:
    """The JSON of an answer: one document, or one for each line as a list."""
    try:
        documents = [msgspec.json.decode(line) for line in lines if line.strip()]
    except msgspec.DecodeError:
        return None
    return documents[0] if len(documents) == 1 else documents or None
