"""What Python adapters share: where Redis is, how many slots they have, how a task reports.

A report is one write of 12 bytes into a named pipe of the driver, the same for every peer: what
happened, in which worker, to which task.
"""

from __future__ import annotations

import os

REDIS_URL = os.environ["BENCH_REDIS_URL"]
SLOTS = int(os.environ["BENCH_SLOTS"])
SHORT_TASKS = os.environ["BENCH_TASKS"] == "short"
STEP_S = 0.1  # a step of the shapes and of the chains
HELD_S = 0.2  # a task amid which a worker is killed

_WORKER = os.environ.get("BENCH_WORKER", "-").encode()
_PIPE = os.open(os.environ["BENCH_REPORTS"], os.O_WRONLY)


def begun(payload: str) -> None:
    """Say that a task runs now."""
    os.write(_PIPE, b"b%b %b\n" % (_WORKER, payload[-8:].encode()))


def ended(payload: str) -> None:
    """Say that a task has been done."""
    os.write(_PIPE, b"e%b %b\n" % (_WORKER, payload[-8:].encode()))
