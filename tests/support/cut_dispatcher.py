"""A dispatcher that is killed at a chosen instant: `python -m tests.support.cut_dispatcher`.

It is composed like the real one, on a store that kills the process with SIGKILL, once, between two
calls of the engine. A marker file says that it was done, so that the restarted one lives.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

from stepstream_dispatcher.app import serve
from stepstream_dispatcher.core.record import EventType, Transition
from stepstream_dispatcher.logs import configure_logs
from stepstream_dispatcher.pipelines import read_pipelines
from stepstream_dispatcher.settings import load_settings
from stepstream_dispatcher.store.port import CommitKind, Entry, Result
from stepstream_dispatcher.store.redis import RedisStore

__all__ = ["ARGV", "MARK_VARIABLE", "POINT_VARIABLE", "Point"]

ARGV = (sys.executable, "-m", "tests.support.cut_dispatcher")
POINT_VARIABLE = "STEPSTREAM_TEST_CUT"
MARK_VARIABLE = "STEPSTREAM_TEST_CUT_MARK"


class Point(Enum):
    """Where to kill."""

    READ = "after XREADGROUP, before the lease"
    LEASED = "after the lease, before the Batch"
    REPORTED = "after the Report, before the commit"
    COMMITTED = "after the commit, before the Receipt"
    DUE = "after the look at what is due, before it is queued"


class CutStore(RedisStore):
    """The real store, which kills its process at one point, at the `turn`-th passing."""

    def __init__(
        self, url: str, *, dispatcher_id: str, point: Point, mark: Path, turn: int = 3
    ) -> None:
        super().__init__(url, dispatcher_id=dispatcher_id)
        self._point = point
        self._mark = mark
        self._turns_left = turn

    async def read(self, queue: str, count: int) -> list[Entry]:
        """See Store.read."""
        entries = await super().read(queue, count)
        self._pass(Point.READ, len(entries))
        return entries

    async def wait(self, queues: Sequence[str], *, count: int, timeout_s: float) -> list[Entry]:
        """See Store.wait."""
        entries = await super().wait(queues, count=count, timeout_s=timeout_s)
        self._pass(Point.READ, len(entries))
        return entries

    async def commit(
        self, transitions: Sequence[Transition], *, kind: CommitKind, live_max: int = 0
    ) -> list[Result]:
        """See Store.commit."""
        settled = sum(1 for one in transitions if one.settles)
        self._pass(Point.REPORTED, settled)
        results = await super().commit(transitions, kind=kind, live_max=live_max)
        self._pass(Point.COMMITTED, settled)
        leased = sum(1 for one in transitions if one.event.type is EventType.LEASED)
        self._pass(Point.LEASED, leased)
        return results

    async def due(self, *, limit: int) -> tuple[list[str], int | None]:
        """See Store.due."""
        found = await super().due(limit=limit)
        self._pass(Point.DUE, len(found[0]))
        return found

    def _pass(self, point: Point, count: int) -> None:
        if point is not self._point:
            return
        self._turns_left -= count
        if self._turns_left <= 0 and not self._mark.exists():
            self._mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Serve like the real entry point does."""
    settings = load_settings()
    configure_logs(settings.log_format, debug=settings.debug)
    store = CutStore(
        settings.redis_url,
        dispatcher_id=settings.identity,
        point=Point[os.environ[POINT_VARIABLE]],
        mark=Path(os.environ[MARK_VARIABLE]),
    )
    asyncio.run(serve(settings, store, read_pipelines(settings.pipelines)))


if __name__ == "__main__":
    main()
