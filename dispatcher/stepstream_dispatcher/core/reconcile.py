"""What a sweep decides: a record beside what the indexes hold of it says what has to be mended.

The record is the truth. Whatever is decided here is checked again at the instant of the write, by
the version that the record had.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

import msgspec

from stepstream_dispatcher.core.record import TERMINAL_STATES, Stage, TaskRecord

__all__ = [
    "BY_RESULTS",
    "DELAYED",
    "ENDED",
    "ENTRIES",
    "INDEX",
    "LISTED",
    "TIMERS",
    "TOTALS",
    "Mend",
    "Need",
    "Repair",
    "Sight",
    "Tally",
    "corrections",
    "crowded",
    "differences",
    "is_passed",
    "mends_of",
    "need_of",
    "shifts",
    "stray_of",
]

INDEX: Final = "index"
DELAYED: Final = "delayed"
ENDED: Final = "ended"
LIVE: Final = "live"
RETRIES: Final = "retries"
ENTRIES: Final = "entries"
TIMERS: Final = "timers"
LISTED: Final = "listed"
BY_RESULTS: Final = (ENTRIES, TIMERS, LISTED)  # counted by what the commands of scripts answer
TOTALS: Final = frozenset({LIVE, RETRIES, ENTRIES, TIMERS, LISTED})  # counts that are of no state


class Repair(StrEnum):
    """What was mended; the words that an operator reads."""

    ENTRIES = "entries"  # queued tasks whose entry was gone, queued again
    LEASES = "leases"  # attempts of dispatchers that are gone, released
    ORPHANS = "orphans"  # attempts that their dispatcher was told to look after
    TIMERS = "timers"  # due times and deadlines put back, or taken away
    INDEX = "index"  # tasks listed again, or taken off the list
    STATES = "states"  # likewise, in the sets of states in which tasks wait
    ENDED = "ended"  # ended tasks whose expiry was forgotten
    STRAYS = "strays"  # entries that are no task's current one, and that nobody would have met
    COUNTS = "counts"  # counts that were wrong
    LANES = "lanes"  # lanes or groups that were missing, made again


class Need(StrEnum):
    """What a task needs that only a transition can bring."""

    NOTHING = "nothing"
    ENTRY = "entry"  # it is queued, and no entry will bring it to a worker
    HOLDER = "holder"  # it is leased, and no pending entry leads anybody to it


class Sight(msgspec.Struct, frozen=True, kw_only=True):
    """A record beside what the indexes hold of it, all at one instant."""

    task_id: str
    record: TaskRecord | None  # where it is and since when; the other fields are not read
    listed_ms: int | None = None  # its score in the index
    timer_ms: int | None = None  # its score in the delayed set
    waits_ms: int | None = None  # its score in the set of its state, if that has one
    ends: frozenset[str] = frozenset()  # states that the ended set has it in
    expires_ms: int = -1  # when an ended record goes; < 0: never
    has_entry: bool = False  # whether the record's entry is in its lane
    holder: str = ""  # who has that entry pending
    passed: bool = False  # whether the lane has delivered all up to that entry
    known: bool = True  # whether its queue is among the lanes that were looked at
    readable: bool = True  # False: there is something that is no record; nothing else is known

    @classmethod
    def of_unreadable(cls, task_id: str) -> Sight:
        """What somebody else has spoilt, and nothing can be said of."""
        return cls(task_id=task_id, record=None, readable=False)


class Mend(msgspec.Struct, frozen=True, kw_only=True):
    """A change of one sorted set."""

    task_id: str
    version: int  # that the record must have; 0: there must be none
    place: str  # INDEX, DELAYED, ENDED, or a state that has a set
    score: int | None  # None: it is taken out
    state: str = ""  # of the member of ENDED

    @property
    def repair(self) -> Repair:
        """The word for it."""
        known = {INDEX: Repair.INDEX, DELAYED: Repair.TIMERS, ENDED: Repair.ENDED}
        return known.get(self.place, Repair.STATES)


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """What the scripts have counted, and how large what they count is, at one instant."""

    counts: dict[str, int]
    sizes: dict[str, int]  # of INDEX, DELAYED, ENDED and each state that has a set
    lanes: dict[str, int]  # entries by queue
    groupless: frozenset[str]  # queues whose lane has no group


def differences(tally: Tally) -> dict[str, int]:
    """By how much counts and sizes differ; empty: nothing was destroyed that shows.

    Every script keeps them in step, so a difference is somebody else's doing, and stays. A task
    that is submitted anew before its expired life was trimmed is counted for both and listed once,
    so that of the index beside the states only a member too many shows.
    """
    counts, sizes = tally.counts, tally.sizes
    states = {name: n for name, n in counts.items() if name not in TOTALS}
    ended = sum(n for state, n in states.items() if state in TERMINAL_STATES)
    waiting = {state: n for state, n in sizes.items() if state not in (INDEX, DELAYED, ENDED)}
    found = {
        ENTRIES: counts.get(ENTRIES, 0) - sum(tally.lanes.values()),
        TIMERS: counts.get(TIMERS, 0) - sizes[DELAYED],
        LISTED: counts.get(LISTED, 0) - sizes[INDEX],
        INDEX: min(0, sum(states.values()) - sizes[INDEX]),
        ENDED: ended - sizes[ENDED],
        LIVE: counts.get(LIVE, 0) - (sum(states.values()) - ended),
        "groups": len(tally.groupless),
    }
    found |= {state: states.get(state, 0) - n for state, n in waiting.items()}
    return {name: by for name, by in found.items() if by}


def need_of(sight: Sight) -> Need:
    """Say whether anybody will come upon the task."""
    record = sight.record
    if record is None or not sight.known:
        return Need.NOTHING
    if record.stage is Stage.QUEUED:
        met = sight.has_entry and (sight.holder or not sight.passed)
        return Need.NOTHING if met else Need.ENTRY
    if record.stage is Stage.LEASED and not sight.holder:
        return Need.HOLDER
    return Need.NOTHING


def mends_of(sight: Sight, waiting: Iterable[str]) -> list[Mend]:
    """Say which sorted sets lack the task, or have it elsewhere than its record says.

    Args:
        waiting: The states that have a set.
    """
    record = sight.record
    if record is None:
        return []
    wanted: list[tuple[str, int | None]] = []
    if sight.listed_ms is None:
        wanted.append((INDEX, record.created_ms))
    if sight.timer_ms != (record.timer_ms or None):
        wanted.append((DELAYED, record.timer_ms or None))
    if record.state in waiting and sight.waits_ms is None:
        wanted.append((record.state, record.updated_ms))
    if record.terminal and record.state not in sight.ends and sight.expires_ms >= 0:
        wanted.append((ENDED, sight.expires_ms))
    return [_mend(sight, place, score) for place, score in wanted]


def stray_of(sight: Sight, place: str) -> Mend | None:
    """Say whether a member of a sorted set has nothing to do there.

    Args:
        sight: With every end that the ended set has of the task: one that has expired and was not
            trimmed is still counted, and keeps its place in the index and in the set of its state.
        place: INDEX, DELAYED, or a state that has a set.
    """
    record = sight.record
    if not sight.readable:
        return None
    if place == INDEX:
        belongs = record is not None or bool(sight.ends)
    elif place == DELAYED:
        belongs = record is not None and bool(record.timer_ms)
    else:
        belongs = place in sight.ends or (record is not None and record.state == place)
    return None if belongs else _mend(sight, place, None)


def _mend(sight: Sight, place: str, score: int | None) -> Mend:
    record = sight.record
    return Mend(
        task_id=sight.task_id,
        version=record.version if record else 0,
        place=place,
        score=score,
        state=record.state if record and place == ENDED else "",
    )


def is_passed(entry: str, delivered: str) -> bool:
    """Whether a lane that has delivered up to an entry will never deliver this one."""
    return bool(entry and delivered) and _number(entry) <= _number(delivered)


def _number(entry: str) -> list[int]:
    return [int(part) for part in entry.split("-")]


def crowded(truth: Mapping[str, int], tally: Tally) -> list[str]:
    """The sorted sets that have more members than there are tasks that belong there.

    All that belong there are in them by now.
    """
    listed = sum(n for name, n in truth.items() if name not in TOTALS)
    sets = set(tally.sizes) - {INDEX, DELAYED, ENDED}
    states = [state for state in sorted(sets) if tally.sizes[state] > truth.get(state, 0)]
    return [INDEX, *states] if tally.sizes[INDEX] > listed else states


def corrections(truth: Mapping[str, int], tally: Tally) -> dict[str, int]:
    """What the counts of states and `live` lack."""
    names = {name for name in tally.counts if name not in TOTALS} | truth.keys()
    return {name: truth.get(name, 0) - tally.counts.get(name, 0) for name in names}


def shifts(tally: Tally) -> dict[str, int]:
    """By how much what is counted by results was off."""
    found = differences(tally)
    return {name: -found.get(name, 0) for name in BY_RESULTS}
