"""What a handler may return or raise beside a plain value."""

from __future__ import annotations

from dataclasses import dataclass

from stepstream.types import Value

__all__ = ["Cancelled", "Completed", "NotRetryable", "RetryAfter", "Retryable"]

_RETRY_AFTER_S_MAX = 86_400  # worker_service.proto, Failed.retry_after


@dataclass(frozen=True, slots=True)
class Completed:
    """A result with an outcome, the word by which the pipeline chooses the next step.

    Args:
        output: What the step returns; at most 1 MiB.
        outcome: A word in the step's `on` table of its pipeline.
    """

    output: Value = None
    outcome: str = "completed"


class NotRetryable(Exception):
    """Another attempt would fail as well: the task fails now.

    Args:
        message: What went wrong, for a person; cut at 4 KiB.
        code: Upper-case word for programs, at most 64 characters.
    """

    def __init__(self, message: str = "", *, code: str = "NOT_RETRYABLE") -> None:
        super().__init__(message)
        self.code = code


class Retryable(Exception):
    """Another attempt may succeed: as any other exception, with a code of its own.

    Args:
        message: What went wrong, for a person; cut at 4 KiB.
        code: Upper-case word for programs, at most 64 characters.
    """

    def __init__(self, message: str = "", *, code: str = "RETRYABLE") -> None:
        super().__init__(message)
        self.code = code


class RetryAfter(Exception):
    """Try again, but not before some time has passed; the attempt is charged.

    Args:
        seconds: Least time until the next attempt, 0 to 86,400.
        message: What went wrong, for a person; cut at 4 KiB.
        code: Upper-case word for programs, at most 64 characters.

    Raises:
        ValueError: The time is negative, too long or not a number.
    """

    def __init__(self, seconds: float, message: str = "", *, code: str = "RETRY_AFTER") -> None:
        if not 0 <= seconds <= _RETRY_AFTER_S_MAX:
            raise ValueError(f"retry after {seconds} s: not within 0 to {_RETRY_AFTER_S_MAX} s")
        super().__init__(message)
        self.seconds = float(seconds)
        self.code = code


class Cancelled(Exception):
    """The handler has noticed `StepContext.cancelled` and stops."""
