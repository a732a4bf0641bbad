"""A dispatcher whose wall clock can be set: `python -m tests.support.set_clock_dispatcher`.

It is the real one. On SIGUSR1 and SIGUSR2 what `time.time` and `time.time_ns` tell it jumps by an
hour, forward and back, as when somebody sets the clock of its host; monotonic time goes on.
"""

from __future__ import annotations

import runpy
import signal
import sys
import time

__all__ = ["ARGV", "BACK", "FORWARD", "SET"]

ARGV = (sys.executable, "-m", "tests.support.set_clock_dispatcher")
FORWARD, BACK = signal.SIGUSR1, signal.SIGUSR2
SET = "the clock was set by"  # what it says once it was
HOUR_S = 3600


class SetClock:
    """The wall clock of this process."""

    def __init__(self) -> None:
        self._read, self._read_ns = time.time, time.time_ns
        self._ahead_s = 0

    def time(self) -> float:
        """See time.time."""
        return self._read() + self._ahead_s

    def time_ns(self) -> int:
        """See time.time_ns."""
        return self._read_ns() + self._ahead_s * 1_000_000_000

    def set(self, number: int, _frame: object) -> None:
        """Jump as the signal says."""
        by_s = HOUR_S if number == FORWARD else -HOUR_S
        self._ahead_s += by_s
        sys.stderr.write(f"{SET} {by_s} s\n")


def main() -> None:
    """Put the clock in place before anything else is imported, and serve."""
    clock = SetClock()
    time.time, time.time_ns = clock.time, clock.time_ns
    for number in (FORWARD, BACK):
        signal.signal(number, clock.set)
    runpy.run_module("stepstream_dispatcher", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
