"""What the exit status of a command says, and the one line that goes with a bad one."""

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import ParamSpec

import typer

from stepstream import errors
from stepstream.cli.valkey import EmbeddedValkeyError
from stepstream.settings import SettingsError

__all__ = ["EPILOG", "CommandError", "Exit", "complain", "guarded", "interruptible"]

P = ParamSpec("P")


class Exit(IntEnum):
    """The exit statuses; docs/cli.md lists them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNAVAILABLE = 4
    TASK_FAILED = 5
    TIMEOUT = 6
    REVIEW = 7
    INTERRUPTED = 130


MEANINGS = {
    Exit.OK: "it went well",
    Exit.FAILED: "it failed or was refused",
    Exit.USAGE: "wrong usage or configuration",
    Exit.NOT_FOUND: "no such task, worker or queue",
    Exit.UNAVAILABLE: "the dispatcher or its Redis cannot be reached",
    Exit.TASK_FAILED: "the task that was waited for failed or was cancelled",
    Exit.TIMEOUT: "the time ran out",
    Exit.REVIEW: "the task that was waited for waits for a person",
}

EPILOG = "Exit status: " + "; ".join(f"{code:d} {words}" for code, words in MEANINGS.items())


class CommandError(Exception):
    """A command cannot go on; the message is one line that says what to do."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.code = code


_FOREIGN = (
    errors.StepstreamError,
    TimeoutError,
    SettingsError,
    EmbeddedValkeyError,
    CommandError,
    OSError,  # a directory that cannot be made, a disk that is full
    UnicodeEncodeError,  # of an argument that is not UTF-8, at the border of protobuf
)

_STATUSES: tuple[tuple[type[Exception], Exit], ...] = (
    (errors.Unavailable, Exit.UNAVAILABLE),
    (errors.InvalidTask, Exit.USAGE),
    (TimeoutError, Exit.TIMEOUT),
    (SettingsError, Exit.USAGE),
    (UnicodeEncodeError, Exit.USAGE),
)


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Makes a command end with one line and a status where it would end with a known error."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            raise typer.Exit(Exit.INTERRUPTED) from None
        except BrokenPipeError:
            raise  # whoever reads us has seen enough: no word about it
        except _FOREIGN as error:
            complain(_words(error))
            raise typer.Exit(_code(error)) from error

    return run


@contextmanager
def interruptible(words: str) -> Iterator[None]:
    """Says at a Ctrl-C what goes on without the one who waited, and ends with status 130."""
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write(f"\n{words}\n")
        raise typer.Exit(Exit.INTERRUPTED) from None


def complain(message: str) -> None:
    """Writes one line to standard error."""
    line = " ".join(message.split())
    sys.stderr.write(f"error: {line}\n")
    sys.stderr.flush()


def _code(error: Exception) -> Exit:
    if isinstance(error, CommandError):
        return error.code
    if isinstance(error, errors.StepstreamError) and error.status == "NOT_FOUND":
        return Exit.NOT_FOUND
    return next((code for kind, code in _STATUSES if isinstance(error, kind)), Exit.FAILED)


def _words(error: Exception) -> str:
    if isinstance(error, UnicodeEncodeError):
        return "an argument is not UTF-8 text"
    # The class itself, not its children: those speak for a dispatcher that was reached.
    if type(error) is errors.Unavailable:
        return f"{error}: start it with `stepstream start`, or say where it is with --address"
    if isinstance(error, errors.QueueFull) and error.retry_after_s:
        return f"{error}; try again in {error.retry_after_s:g} s"
    return str(error) or type(error).__name__
