"""The seam to storage: what the engine asks of a store, and nothing more.

Two stores exist, Redis and SQLite; tests/contract holds both to this page.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from enum import StrEnum
from typing import Final, Literal, Protocol, TypeAlias, runtime_checkable

import msgspec

from stepstream.errors import InternalError, StoreUnavailable
from stepstream_dispatcher.core.reconcile import Mend, Sight, Tally
from stepstream_dispatcher.core.record import Event, TaskRecord, Transition

__all__ = [
    "JOURNAL_FIELD",
    "MINUTE_MS",
    "CommitFailed",
    "CommitKind",
    "CommitPartly",
    "Durability",
    "Entry",
    "Imported",
    "ImportingStore",
    "IndexPage",
    "Intents",
    "Journal",
    "Journaled",
    "Page",
    "RepairableStore",
    "Result",
    "Signal",
    "Store",
    "StoreRefused",
    "StoreUnreachable",
    "Survey",
    "SurveyMode",
    "Verdict",
]

MINUTE_MS: Final = 60_000
JOURNAL_FIELD: Final = "journal"  # of a record: the operation that created it in a journal

CommitKind: TypeAlias = Literal["submit", "settle"]
SurveyMode: TypeAlias = Literal["quick", "whole", "thorough"]
Durability: TypeAlias = Literal["AOF_1S", "AOF_SYNC", "LOCAL", "VOLATILE"]


class Verdict(StrEnum):
    """What became of one transition."""

    APPLIED = "APPLIED"
    DUPLICATE = "DUPLICATE"  # this very change was made before
    VERSION_CONFLICT = "VERSION_CONFLICT"  # decide again from the record that comes with it
    STALE_LEASE = "STALE_LEASE"  # the lease token is not the record's
    NOT_FOUND = "NOT_FOUND"  # no record
    FULL = "FULL"  # too many live tasks, or no memory (kind "submit" only)


class Result(msgspec.Struct, frozen=True):
    """Verdict on one transition, with the record where deciding again needs it."""

    verdict: Verdict
    record: TaskRecord | None = None  # VERSION_CONFLICT, and DUPLICATE of a creation
    entry: str = ""  # APPLIED with `enqueue`: id of the entry that was added


class Entry(msgspec.Struct, frozen=True):
    """One entry of a lane."""

    queue: str
    entry_id: str
    task_id: str
    step: str


class IndexPage(msgspec.Struct, frozen=True):
    """A page of task ids, newest first."""

    task_ids: list[str]
    next_cursor: str  # empty on the last page


class Intents(msgspec.Struct, frozen=True, kw_only=True):
    """What operators want of all dispatchers."""

    paused: dict[str, int] = {}  # queues, and since when, Unix ms by the store's clock
    draining: frozenset[str] = frozenset()  # worker instances that were told to leave


class Signal(msgspec.Struct, frozen=True):
    """Something heard from another process: a doorbell, never the truth."""

    kind: Literal["event", "intent", "resync"]  # resync: messages may have been missed
    task_id: str = ""  # of an event
    event: Event | None = None  # of another process
    payload: bytes = b""  # the intent


class Imported(StrEnum):
    """What became of a task of the journal when it was brought to Redis."""

    CREATED = "created"  # Redis did not know it
    SUPERSEDED = "superseded"  # Redis knew it and had nothing settled; the journal's result counts
    DROPPED = "dropped"  # Redis has recorded another result; the journal's is forgotten
    ALREADY = "already"  # it was taken in before


class Journaled(msgspec.Struct, frozen=True, kw_only=True):
    """All that the journal keeps of one task."""

    task_id: str
    fields: dict[str, str]  # the record, those of the store itself included
    data: dict[str, bytes]
    history: list[Event]
    since_ms: int  # when it entered its state
    due_ms: int | None  # of a scheduled task
    expires_ms: int | None  # of an ended task
    tallies: dict[tuple[str, str], int] = {}  # attempts to count, by (worker, counter)


class StoreRefused(ValueError):
    """The server must not be used as it is configured; the operator changes it."""


class StoreUnreachable(StoreUnavailable):
    """No byte of the call reached a socket, so that none of it can have happened."""


class CommitPartly(StoreUnavailable):
    """The store carried out some transitions; nobody knows about the others.

    Args:
        message: Why.
        results: One for each transition, in order; None for the others.
    """

    def __init__(self, message: str, results: Sequence[Result | None]) -> None:
        super().__init__(message)
        self.results = results


class CommitFailed(InternalError):
    """The store could not carry out some transitions; the others were.

    Args:
        message: What the store said about the first that failed.
        results: One for each transition, in order; None for those that failed.
    """

    def __init__(self, message: str, results: Sequence[Result | None]) -> None:
        super().__init__(message)
        self.results = results


class Store(Protocol):
    """All that is kept outside a process.

    Every method may raise StoreUnavailable, or StoreBusy: nothing was done, and the store answers.
    """

    async def open(self) -> None:
        """Connect and check the server (version, eviction policy).

        Raises:
            StoreRefused: The server could lose tasks as it is; the message says what to change.
        """

    async def close(self) -> None:
        """Let go of every connection. Idempotent."""

    async def ping(self) -> None:
        """Return when the store answers."""

    async def durability(self) -> Durability:
        """Read what an applied commit survives.

        AOF_SYNC: a crash of the server's host. AOF_1S: all but its last 2 s. LOCAL: a crash of this
        process. VOLATILE: nothing, or nobody knows.
        """

    async def faults(self) -> list[str]:
        """Say what would now have `open` refuse the server, in words; empty: nothing."""

    def now_ms(self) -> int:
        """Unix milliseconds by the store's own clock, extrapolated by the monotonic clock."""

    async def commit(
        self, transitions: Sequence[Transition], *, kind: CommitKind, live_max: int = 0
    ) -> list[Result]:
        """Carry out transitions, each by itself; one result each, in order.

        Args:
            transitions: 1 to 256, at most one per task, about 1 MiB in all.
            kind: "submit" is refused (FULL) when Redis is out of memory; "settle" is not.
            live_max: creations are FULL beyond this many live tasks; 0: no limit.

        Atomicity: all guards and writes of a call happen at one instant.
        Idempotence: a call whose answer was lost may be repeated as it is; the store does so itself
            for 5 s. A caller that is cancelled does not stop it.

        Raises:
            CommitFailed: The store could not carry out some of them; it has the other results.
            StoreUnreachable: Nothing was carried out.
            StoreUnavailable: Nobody knows what was carried out.
        """

    async def records(self, task_ids: Sequence[str]) -> list[TaskRecord | None]:
        """Read records, in order; None where there is none."""

    async def data(self, task_ids: Sequence[str]) -> list[dict[str, bytes]]:
        """Read all data fields of tasks, in order; empty where there are none."""

    async def load(
        self, task_ids: Sequence[str]
    ) -> list[tuple[TaskRecord | None, dict[str, bytes]]]:
        """Read records with all their data fields in one go, in order."""

    async def settled(self, task_id: str, step: str) -> str:
        """The lease token by which a worker settled a step last; empty when none did."""

    async def traces(self, task_ids: Sequence[str]) -> list[bytes]:
        """Read the `trace` field of tasks' data, in order; empty where there is none."""

    async def labels(self, task_ids: Sequence[str]) -> list[bytes]:
        """Read the `labels` field of tasks' data, in order; empty where there is none."""

    async def keep_pipelines(self, definitions: Mapping[str, bytes]) -> None:
        """Store definitions by "name@version" for as long as tasks may need them."""

    async def pipelines(self) -> dict[str, bytes]:
        """Read all kept definitions by "name@version"."""

    async def history(self, task_id: str, *, after: int) -> list[Event]:
        """Read the kept events with a sequence greater than `after`, oldest first."""

    async def index(self, *, cursor: str, count: int) -> IndexPage:
        """Page through all tasks, newest first. `cursor` is empty for the first page."""

    async def waiting(self, state: str, *, cursor: str, count: int) -> IndexPage:
        """Page through tasks in `scheduled`, `human_review` or `failed`, latest first."""

    async def counts(self) -> dict[str, int]:
        """Read how many tasks are in each state, and `live` and `retries`."""

    async def ended_in(self, minute: int) -> int:
        """How many attempts ended, well or badly, in a minute since the Unix epoch.

        Kept for the last two full minutes.
        """

    async def oldest_ms(self, state: str) -> int | None:
        """When the oldest task of `scheduled`, `human_review` or `failed` entered it; else None."""

    # --- lanes -----------------------------------------------------------------------------------

    async def ensure_lanes(self, queues: Sequence[str]) -> None:
        """Create the lanes and their group from the beginning where they are missing."""

    async def read(self, queue: str, count: int) -> list[Entry]:
        """Take up to `count` new entries of one lane without waiting; they become pending."""

    async def wait(self, queues: Sequence[str], *, count: int, timeout_s: float) -> list[Entry]:
        """Wait for a new entry of any lane, and take up to `count` of each lane that has some.

        Empty at the time limit or after `wake`.
        """

    async def wake(self) -> None:
        """End a `wait` of this process now, if there is one."""

    async def pending(self, queue: str, *, consumer: str, after: str, count: int) -> list[Entry]:
        """List entries that a consumer has taken and not settled, with ids after `after`.

        Entries whose body is gone have an empty task id.
        """

    async def discard(self, queue: str, entry_ids: Sequence[str]) -> None:
        """Acknowledge and delete entries that are no task's current one."""

    # --- time ------------------------------------------------------------------------------------

    async def due(self, *, limit: int) -> tuple[list[str], int | None]:
        """Task ids whose timer is due by now, and when the one after them is (Unix ms, or None).

        A timer is set by `Transition.due_ms`: the due time of a delayed task, or a deadline.
        """

    async def drop_timers(self, task_ids: Sequence[str]) -> int:
        """Take away the timers of those tasks that have no record; returns how many were.

        Atomicity: a task that is created meanwhile keeps its timer.
        """

    # --- processes -------------------------------------------------------------------------------

    async def beat(self) -> None:
        """Say that this dispatcher lives, and read the store's clock."""

    async def dispatchers(self) -> dict[str, int]:
        """Dispatchers that have ever beaten, with the milliseconds since their last beat."""

    async def forget_dispatcher(self, dispatcher_id: str) -> None:
        """Take a dispatcher (with nothing pending) out of the list and of the groups."""

    async def save_worker(self, name: str, fields: Mapping[str, str | int]) -> None:
        """Write what is known about a worker: a flat mapping. Counters are left alone."""

    async def mark_left(self, names: Sequence[str]) -> None:
        """Write that workers have left this dispatcher, and forget that they were to leave.

        Atomicity: one that another dispatcher has saved since stays as that one says.
        """

    async def workers(self) -> dict[str, dict[str, str]]:
        """Everything known about the workers seen in the last 10 minutes, counters included."""

    async def pause(self, queue: str) -> None:
        """Store that nothing of a queue is to be handed out. Idempotent: the first time stays."""

    async def resume(self, queue: str) -> None:
        """Take back `pause`. Idempotent."""

    async def dismiss(self, instance_id: str) -> None:
        """Store that a worker instance is to leave. Kept for 25 h; idempotent.

        No attempt runs for longer than 24 h, so by then it has left.
        """

    async def intents(self) -> Intents:
        """Read what `pause` and `dismiss` have stored."""

    async def notify(self, dispatcher_id: str, payload: bytes) -> None:
        """Tell another dispatcher that an intent of its concern was stored."""

    def signals(self, *, events: bool) -> AsyncGenerator[Signal, None]:
        """Listen for intents, and for the events of other processes while `events` is set."""

    # --- housekeeping ----------------------------------------------------------------------------

    async def trim(self, *, results_max: int, limit: int) -> int:
        """Drop expired tasks from the index, and ended ones beyond `results_max`, oldest first.

        Returns how many were dropped, at most `limit`.
        """


class ImportingStore(Store, Protocol):
    """A store that takes in what a journal has kept while it was away."""

    async def take_in(self, task: Journaled) -> Imported:
        """Record a task of the journal, once.

        No record: it is created. A live one with the same input, of which no step is settled: it
        gives way, and its lease is void. Else the journal's is dropped: another task or result is
        recorded.

        Args:
            task: At rest: ended, waiting for a person, or scheduled.

        Idempotence: a task that was taken in before is told by its JOURNAL_FIELD.

        Raises:
            StoreUnreachable: It was not taken in by this call.
            StoreUnavailable: Nobody knows whether it was taken in; try again.
            InternalError: The store could not do it.
        """


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a walk that misses nothing which is there from its beginning to its end."""

    names: list[str]  # one may come twice
    cursor: str  # of the next page; empty after the last one
    cost_s: float  # of the server's time, rounded up


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """Records beside what the indexes hold of them."""

    sights: list[Sight]
    cost_s: float  # of the server's time


@runtime_checkable
class RepairableStore(Store, Protocol):
    """A store that others can reach, so that its indexes may need repair.

    `queues` are the lanes that any task may be on; `place` is "index", "delayed", "ended" or a
    state in which tasks wait.
    """

    @property
    def lanes_made(self) -> int:
        """How many lanes were made here because they, or their group, were missing."""

    def all_signals(self) -> AsyncGenerator[Signal, None]:
        """Listen for every event, also those of this process, and for markers: as intents."""

    async def tally(self, queues: Sequence[str], *, marker: bytes = b"") -> Tally:
        """Read counts and sizes at one instant.

        Args:
            marker: Sent to this dispatcher's listeners at that instant; empty: nothing is.
        """

    async def claim_sweep(self, *, ttl_s: float) -> bool:
        """Become the one that sweeps, or stay it; False while another dispatcher does."""

    async def enlist(self, dispatcher_ids: Sequence[str]) -> None:
        """Let whoever of them has no beat have his last one now, so that he is missed in time."""

    async def sweep_is_due(self) -> bool:
        """Whether no sweep has ended for as long as `end_sweep` has said."""

    async def end_sweep(self, *, quiet_s: float) -> None:
        """Let others sweep.

        Args:
            quiet_s: Until the next one is due; 0: it is, since this one failed.
        """

    async def hold_trims(self, *, ttl_s: float) -> None:
        """Have `trim` forget nothing for as long, or until `recount`."""

    async def record_page(self, cursor: str, *, count: int) -> Page:
        """Walk the ids of all tasks that have a record; `count` is about how many."""

    async def member_page(self, place: str, cursor: str, *, count: int) -> Page:
        """Walk the members of a sorted set; those of "ended" are a state and an id."""

    async def lane_page(
        self, queue: str, after: str, *, count: int, delivered: bool = True
    ) -> list[Entry]:
        """List entries of a lane, with ids after `after`.

        Args:
            delivered: Those that it has delivered and still has; else all.
        """

    async def survey(
        self, task_ids: Sequence[str], queues: Sequence[str], *, how: SurveyMode = "whole"
    ) -> Survey:
        """Look at tasks, in order, each at one instant.

        Args:
            how: "quick" leaves `has_entry` False; "thorough" looks for ends of former lives too, as
                `stray_of` needs.
        """

    async def mend(self, mends: Sequence[Mend]) -> tuple[int, list[Mend]]:
        """Change sorted sets; returns how many changed, and what was left as it was.

        Atomicity: a task whose record has another version by now keeps all as it is.
        """

    async def recount(self, corrections: Mapping[str, int]) -> bool:
        """Add to the counts, and end the sweep; False: another dispatcher sweeps by now.

        Idempotence: carried out once, but a repeat whose first answer was lost says False.
        """


class Journal(Store, Protocol):
    """A store on this host whose tasks are taken to another one in time."""

    async def journaled_ids(self) -> list[str]:
        """List all tasks, oldest first."""

    async def journaled(self, task_id: str) -> Journaled | None:
        """Read all that is kept of a task; None if there is none."""

    async def depart(self, task_id: str) -> None:
        """Mark a task that is about to be taken elsewhere: it may be there from now on."""

    async def departed(self) -> list[str]:
        """List the tasks that are marked so."""

    async def drop(self, task_id: str) -> None:
        """Forget a task that was taken elsewhere, and what it has counted."""

    def is_own_entry(self, entry_id: str) -> bool:
        """Whether an entry id was given out here."""
