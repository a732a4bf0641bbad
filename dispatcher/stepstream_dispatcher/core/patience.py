"""How long to wait before something is tried again that has been in vain."""

from __future__ import annotations

from collections.abc import Collection

__all__ = ["Patience"]


class Patience:
    """Doubles the pause as long as tries for the same causes bring nothing.

    Args:
        first_s: The pause after the first such try.
        most_s: The longest one.
    """

    def __init__(self, *, first_s: float, most_s: float) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._pause_s = 0.0
        self._until = 0.0
        self._causes: set[str] = set()

    def allows(self, causes: Collection[str], *, now: float) -> bool:
        """Whether to try; a cause that no vain try was made for is not waited with.

        Args:
            now: Monotonic seconds.
        """
        return now >= self._until or bool(set(causes) - self._causes)

    def tried_in_vain(self, causes: Collection[str], *, now: float) -> None:
        """Wait longer than before, unless nothing was tried for as long again as that."""
        if now >= self._until + self._pause_s:
            self.succeeded()
        self._pause_s = min(self._most_s, max(self._first_s, 2 * self._pause_s))
        self._until = now + self._pause_s
        self._causes.update(causes)

    def succeeded(self) -> None:
        """Forget what was in vain."""
        self._pause_s = self._until = 0.0
        self._causes.clear()
