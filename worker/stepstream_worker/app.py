"""The shipped worker, put together: the steps of the translation pipeline on its queue."""

from __future__ import annotations

from stepstream import Worker
from stepstream_worker.steps import translate, verify

__all__ = ["make_worker"]


def make_worker() -> Worker:
    """A worker for `translate` and `verify`; the environment says name, slots and addresses."""
    return Worker([translate, verify], queues=["default"])
