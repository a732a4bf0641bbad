"""Heals the indexes of Redis when somebody else has destroyed them.

Every few seconds one cheap read compares what the scripts have counted with how large the lanes and
sets are: it is exact, so a difference that is there twice is damage, and starts a sweep over all
tasks. A group that had to be made again starts one too, since it has lost who had taken what. What
no count shows (an entry put in another's place, the entry of a running attempt) is found by a
slower sweep every few minutes. Of several dispatchers one sweeps at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Collection
from typing import Final

import structlog

from stepstream.errors import StoreUnavailable
from stepstream_dispatcher.core.patience import Patience
from stepstream_dispatcher.core.reconcile import INDEX, LISTED, Repair, differences
from stepstream_dispatcher.engine.committer import Committer
from stepstream_dispatcher.engine.orphans import Orphans
from stepstream_dispatcher.engine.sweep import CLAIM_S, Report, Sweep
from stepstream_dispatcher.store.port import RepairableStore, StoreUnreachable

__all__ = ["Reconciler"]

LOOK_EVERY_S: Final = 5.0  # counts are compared
CONFIRM_S: Final = 1.0  # a difference has to be there for as long
ASK_AGAIN_S: Final = 0.5  # while another dispatcher sweeps and an operator waits
VAIN_S: Final = 30.0  # after a sweep that could not count, or had nothing but counts to mend
VAIN_MAX_S: Final = 600.0  # likewise, when it has been so again and again
BACKGROUND_EVERY_S: Final = 300.0  # after the end of the latest sweep, whoever's it was
SHARE: Final = 0.05  # of Redis's time, for a sweep that somebody waits for
BACKGROUND_SHARE: Final = 0.02
BACKGROUND_EVENTS_MAX: Final = 10_000  # that it hears; 25 us each, so 0.25 s of the loop
UNCOUNTED_MAX: Final = (
    36  # sweeps in the background, 3 h of them; then one hears as much as it takes
)

# Why a sweep is made, as the log says it.
ASKED: Final = "an operator asked"
LANE_MADE: Final = "a lane was made again"
UNCOUNTED: Final = "the counts are not yet right"
DIFFERENT: Final = "counts differ"
DUE: Final = "it is time"

_log = structlog.get_logger(__name__)


class Reconciler:
    """Looks, sweeps and tells.

    Args:
        store: Redis.
        committer: Carries out what only a transition can mend.
        orphans: Looks after leases that recovery would not find.
        queues: All known lanes.
        learn: Reads what pipelines others have, so that no lane is unknown.
        away: Whether Redis is not to be touched now.
    """

    def __init__(
        self,
        *,
        store: RepairableStore,
        committer: Committer,
        orphans: Orphans,
        queues: Callable[[], Collection[str]],
        learn: Callable[[], Awaitable[None]],
        away: Callable[[], bool],
    ) -> None:
        self._store = store
        self._committer = committer
        self._orphans = orphans
        self._queues = queues
        self._learn = learn
        self._away = away
        self._asked: list[asyncio.Future[Report]] = []  # operators who wait for a sweep
        self._wake = asyncio.Event()
        self._lanes_made = 0  # as of the latest sweep
        self._uncounted = False  # the latest sweep could not count
        self._uncounted_before = 0  # sweeps in the background, in a row
        self._patience = Patience(first_s=VAIN_S, most_s=VAIN_MAX_S)
        self._unreadable: frozenset[str] = frozenset()  # tasks that were told of
        self._seen: dict[str, int] = {}  # the difference that was found last
        self._known: dict[str, int] = {}  # a difference that a sweep has left as it was

    async def run(self) -> None:
        """Look until cancelled."""
        await self._answering(self.begin)
        while True:
            await self._pause()
            if self._away():
                self._refuse(StoreUnreachable("redis is away; nothing can be repaired"))
                continue
            await self._answering(self.look)

    async def _answering(self, look: Callable[[], Awaitable[Report | None]]) -> None:
        """Have a look; one that fails is told to everybody who waits for its sweep."""
        try:
            await look()
        except StoreUnavailable as error:
            self._refuse(error)
            raise
        except BaseException:
            self._refuse(StoreUnavailable("the repair was interrupted"))
            raise

    async def begin(self) -> Report | None:
        """Sweep a store without tasks at once: later, that sweep would meet the first load."""
        if self._away() or (await self._store.tally(self._lanes())).sizes[INDEX]:
            return None
        return await self.look()

    async def repair(self) -> Report:
        """Sweep now, and say what was mended.

        Raises:
            StoreUnavailable: Redis is away, or went away meanwhile.
        """
        if self._away():
            raise StoreUnreachable("redis is away; nothing can be repaired")
        report: asyncio.Future[Report] = asyncio.get_running_loop().create_future()
        self._asked.append(report)
        self._wake.set()
        return await report

    def _refuse(self, error: StoreUnavailable) -> None:
        """Answer everybody who waits; whoever asks from now on has another chance."""
        asked, self._asked = self._asked, []
        for one in asked:
            if not one.done():
                one.set_exception(error)

    async def look(self) -> Report | None:
        """Compare, and sweep if there is a reason to; None: there was none, or another sweeps."""
        for repair, tasks in (await self._orphans.look()).items():
            if tasks:
                _log.warning("leases without an entry", repair=repair.value, tasks=tasks)
        reason = await self._reason()
        return await self._sweep(reason) if reason else None

    async def _pause(self) -> None:
        self._asked = [one for one in self._asked if not one.done()]  # callers who left
        limit_s = ASK_AGAIN_S if self._asked else LOOK_EVERY_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._wake.wait()
        self._wake.clear()

    async def _reason(self) -> str:
        """Why to sweep now; empty: there is no reason."""
        if self._asked:
            return ASKED
        if self._store.lanes_made != self._lanes_made:
            return LANE_MADE
        if self._uncounted and self._may_try(()):
            return UNCOUNTED
        if await self._found():
            return DIFFERENT
        if self._uncounted:
            return ""
        return DUE if await self._store.sweep_is_due() else ""

    def _may_try(self, causes: Collection[str]) -> bool:
        """Whether to sweep for the counts' sake: a dispatcher of an older release leaves some."""
        return self._patience.allows(causes, now=asyncio.get_running_loop().time())

    async def _found(self) -> dict[str, int]:
        """What differs, twice, unless a sweep could do nothing about it, or not for long.

        A lane that only another dispatcher knew is no difference, so pipelines are read before the
        second look.
        """
        if not differences(await self._store.tally(self._lanes())):
            self._seen = self._known = {}
            return {}
        await self._learn()
        await asyncio.sleep(CONFIRM_S)
        tally = await self._store.tally(self._lanes())
        found = differences(tally)
        if not found or found == self._known or not self._may_try(found):
            return {}
        told, self._seen = self._seen, found
        if found == told:
            return found
        if LISTED in tally.counts:
            _log.warning("counts and indexes differ: somebody else has changed redis", **found)
        else:
            _log.info("there are no counts, or those of an older release", **found)
        return found

    def _lanes(self) -> list[str]:
        return sorted(self._queues())

    async def _sweep(self, reason: str) -> Report | None:
        if not await self._store.claim_sweep(ttl_s=CLAIM_S):
            return None
        asked = list(self._asked)
        lanes_made = self._store.lanes_made
        report = await self._swept(in_background=reason == DUE)
        # Of a busy system a sweep in the background does not count: the next look tells if it must.
        uncounted = not report.counted and reason != DUE
        self._uncounted_before = 0 if report.counted else self._uncounted_before + 1
        self._lanes_made, self._uncounted = lanes_made, uncounted
        mended = set(report.repaired) - {Repair.COUNTS}
        if report.counted:
            self._known = {} if mended else self._seen
        if uncounted or (reason == DIFFERENT and not mended):
            now = asyncio.get_running_loop().time()
            self._patience.tried_in_vain(self._seen, now=now)
        elif mended:
            self._patience.succeeded()
        for one in asked:
            if not one.done():
                one.set_result(report)
        self._tell_unreadable(report)
        log = _log.warning if report.repaired else _log.info
        log(
            "redis repaired" if report.repaired else "nothing to repair",
            reason=reason,
            tasks=report.tasks,
            took_s=round(report.took_s, 3),
            counted=report.counted,
            **report.repaired,
        )
        return report

    def _tell_unreadable(self, report: Report) -> None:
        for task_id in sorted(set(report.unreadable) - self._unreadable):
            _log.error("record is unreadable, and was skipped", task_id=task_id)
        self._unreadable = frozenset(report.unreadable)

    async def _swept(self, *, in_background: bool) -> Report:
        report: Report | None = None
        try:
            await self._learn()
            sweep = Sweep(
                store=self._store,
                committer=self._committer,
                orphans=self._orphans,
                queues=self._lanes(),
                share=BACKGROUND_SHARE if in_background else SHARE,
                events_max=self._events_max(in_background=in_background),
            )
            report = await sweep.run()
        finally:
            done = report is not None and (report.counted or (in_background and report.finished))
            with contextlib.suppress(StoreUnavailable):
                await self._store.end_sweep(quiet_s=BACKGROUND_EVERY_S if done else 0)
        return report

    def _events_max(self, *, in_background: bool) -> float:
        if in_background and self._uncounted_before < UNCOUNTED_MAX:
            return BACKGROUND_EVENTS_MAX
        return math.inf
