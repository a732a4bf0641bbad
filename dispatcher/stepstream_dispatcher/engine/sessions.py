"""Worker sessions: who is connected, how much room each has, and what it holds.

The table of a session is the dispatcher's own count of what a worker has been given: an attempt
enters it when an entry is matched, and leaves it when its result is received. Free credit is the
worker's `max_in_flight` less the table, absolute at every instant, so nothing can leak; what it
takes ahead of its slots is counted in the same way. What follows from a frame is decided here
without waiting; what must be recorded goes to `settling`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from stepstream_dispatcher.core.assign import Offer
from stepstream_dispatcher.core.record import TaskRecord

__all__ = [
    "Attempt",
    "Handout",
    "Hello",
    "Inventory",
    "Outbox",
    "ReceiptWord",
    "Session",
    "Sessions",
]

RECEIPTS_MAX: Final = 10_000  # receipts that may wait for a worker that does not read
UNREAD_BYTES_MAX: Final = 8 * 1024 * 1024  # of payloads that wait for it; two full batches


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker said in Register."""

    worker_name: str
    instance_id: str
    sdk: str
    queues: frozenset[str]
    step_types: frozenset[str]
    max_in_flight: int
    max_message_bytes: int
    inventory: tuple[Inventory, ...] = ()


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that a worker brought along."""

    assignment_id: str
    lease_token: str
    elapsed_s: float
    settled: bool


class Attempt(msgspec.Struct, kw_only=True, eq=False):
    """One row of a session's table."""

    assignment_id: str
    task_id: str
    record: TaskRecord  # as of its lease or adoption
    timeout_at: float  # monotonic, when the attempt is beyond its limit
    batch: int  # number of the batch that carried it
    waits: bool = False  # whether it was handed out to wait for a slot
    named: bool = False  # whether any frame of the worker has named it
    cancelled: bool = False  # whether the worker was told to stop it
    leased_at: float = 0.0  # monotonic
    progress: float = 0.0  # as its worker last said, 0 to 1
    note: str = ""  # words beside the progress
    data: dict[str, bytes] | None = None  # fields of task:data as of its lease, where remembered


class Handout(msgspec.Struct, frozen=True, kw_only=True):
    """An assignment on its way out."""

    attempt: Attempt
    timeout_ms: int
    data: dict[str, bytes]  # fields of task:data

    @property
    def size(self) -> int:
        """Bytes of its payloads."""
        return sum(map(len, self.data.values()))


class ReceiptWord(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one result; `status` is a word of ReceiptStatus."""

    assignment_id: str
    lease_token: str
    status: str
    message: str = ""


class CancelWord(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt to stop; `reason` is a word of CancelReason."""

    assignment_id: str
    reason: str


class Outbox:
    """What waits to be written to one worker; one writer takes all of it at once.

    Bounded by the worker's credit (handouts, cancels), which is nothing while `UNREAD_BYTES_MAX`
    wait, and by `RECEIPTS_MAX`: the reader of the stream waits in `room` before it takes another
    frame.
    """

    def __init__(self) -> None:
        self.handouts: list[Handout] = []
        self.receipts: list[ReceiptWord] = []
        self.cancels: list[CancelWord] = []
        self.not_owned: list[str] | None = None  # a HeartbeatAck is due, with these
        self.drain = ""  # reason of a DispatcherDrain that is due
        self.leave = False  # that drain sends the worker away for good
        self.closing = False  # the dispatcher ends the stream once all is written
        self.half_closed = False  # the worker will say nothing more
        self.superseded = False  # the instance has opened a newer stream
        self._waiting_bytes = 0  # of handouts
        self._writing_bytes = 0  # of those that the writer has taken, and not written
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    @property
    def empty(self) -> bool:
        """Whether nothing waits to be written."""
        return not (self.handouts or self.receipts or self.cancels or self.drain) and (
            self.not_owned is None
        )

    @property
    def clogged(self) -> bool:
        """Whether so much is unread that nothing should be handed out."""
        return self._waiting_bytes + self._writing_bytes >= UNREAD_BYTES_MAX

    def hand_out(self, handout: Handout) -> None:
        """Leave an assignment for the writer, and wake it."""
        self.handouts.append(handout)
        self._waiting_bytes += handout.size
        self.notify()

    def take_handouts(self) -> list[Handout]:
        """Take all that waits to be handed out; say `written` when it has gone out."""
        taken, self.handouts = self.handouts, []
        self._writing_bytes += self._waiting_bytes
        self._waiting_bytes = 0
        return taken

    def written(self) -> bool:
        """What was taken has gone out; returns whether that unclogs it."""
        was_clogged = self.clogged
        self._writing_bytes = 0
        return was_clogged and not self.clogged

    def notify(self) -> None:
        """Wake the writer."""
        if len(self.receipts) >= RECEIPTS_MAX:
            self._room.clear()
        self._filled.set()

    async def filled(self) -> None:
        """Wait until there is something to write, or the outbox closes."""
        await self._filled.wait()
        self._filled.clear()

    async def room(self) -> None:
        """Wait while too many receipts are unread."""
        await self._room.wait()

    def emptied(self) -> None:
        """The writer took the receipts."""
        self._room.set()


class Session:
    """One stream of one worker instance."""

    def __init__(self, session_id: str, hello: Hello, *, now: float) -> None:
        self.id = session_id
        self.hello = hello
        self.max_in_flight = hello.max_in_flight
        self.ahead = 0  # attempts that it takes beyond those, to wait there for a slot
        self.attempts: dict[str, Attempt] = {}  # by lease token
        self.settling: dict[str, Attempt] = {}  # results received, not yet recorded
        self.parked: dict[str, Attempt] = {}  # ended; the worker keeps the result, and no slot
        self.unseen: dict[str, bool] = {}  # nobody can look up their tasks now: has it ended
        self.outbox = Outbox()
        self.reports = 0  # groups of results that are being recorded
        self.leasing = 0  # rounds of lease commits under way that have attempts for it
        self.draining = False
        self.dismissed = False  # an operator has told it to leave
        self.broken_at: float | None = None  # monotonic, once its stream is gone
        self.reserved = False  # kept free for an attempt that runs alone
        self.heard_at = now
        self.is_read = True  # while it is not, that nothing is heard of it says nothing
        self.busy_at = now  # when it was last given something, or was through with it
        self.batches = 0

    @property
    def left(self) -> bool:
        """Whether it takes nothing more: it drains, or its stream is gone."""
        return self.draining or self.broken_at is not None

    def idle_s(self, now: float) -> float:
        """How long it has had nothing to do."""
        return 0.0 if self.attempts or self.settling else now - self.busy_at

    @property
    def free(self) -> int:
        """Attempts that it can run now."""
        return max(0, self.max_in_flight - self._taken) if self._is_open else 0

    @property
    def free_ahead(self) -> int:
        """Attempts that it takes now beyond those that it can run."""
        if not (self.ahead and self.max_in_flight and self._is_open):
            return 0
        return max(0, self.ahead - max(0, self._taken - self.max_in_flight))

    @property
    def waits(self) -> bool:
        """Whether some of what it holds waits for a slot."""
        return self._taken > self.max_in_flight

    @property
    def _is_open(self) -> bool:
        return not (self.reserved or self.left or self.outbox.clogged)

    @property
    def _taken(self) -> int:
        taken = len(self.attempts)
        if self.unseen:
            taken += sum(not has_ended for has_ended in self.unseen.values())
        return taken

    def holds(self, token: str) -> bool:
        """Whether its worker answers for a lease."""
        tables = (self.attempts, self.settling, self.parked, self.unseen)
        return any(token in table for table in tables)

    def offer(self, queues: frozenset[str]) -> Offer:
        """Its offer for a round of assignment."""
        return Offer(
            session_id=self.id,
            queues=queues,
            free=self.free,
            held=len(self.attempts),
            ahead=self.free_ahead,
        )

    def cancel(self, attempt: Attempt, reason: str) -> None:
        """Tell the worker to stop an attempt."""
        attempt.cancelled = True
        self.outbox.cancels.append(CancelWord(assignment_id=attempt.assignment_id, reason=reason))
        self.outbox.notify()


class Sessions:
    """All sessions of this dispatcher."""

    def __init__(self) -> None:
        self._by_id: dict[str, Session] = {}
        self._queues: dict[str, frozenset[str]] = {}  # lanes that a session may be fed from
        self._served: Counter[str] = Counter()  # lane -> sessions that may be fed from it
        self._bells: list[asyncio.Event] = []
        self.adopted: dict[str, str] = {}  # lease token -> task id of what was brought here
        self.ending: dict[str, Attempt] = {}  # off every table; how they ended is not recorded yet
        self._waiters: list[asyncio.Future[None]] = []

    def bell(self) -> asyncio.Event:
        """An event that is set whenever credit or membership moves; its owner clears it."""
        self._bells.append(asyncio.Event())
        return self._bells[-1]

    def stir(self) -> None:
        """Say that credit or membership moved."""
        for bell in self._bells:
            bell.set()
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def stirred(self) -> None:
        """Wait until credit or membership moves next."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, session_id: str) -> Session | None:
        """The session of that id, if it is still open."""
        return self._by_id.get(session_id)

    def of_instance(self, instance_id: str) -> Session | None:
        """The open session of a worker instance."""
        return next((s for s in self if s.hello.instance_id == instance_id), None)

    def queues_of(self, session: Session) -> frozenset[str]:
        """The lanes that a session may be fed from."""
        return self._queues.get(session.id, frozenset())

    def serves(self, queue: str) -> bool:
        """Whether any session may be fed from a lane."""
        return self._served[queue] > 0

    def add(self, session: Session, queues: Iterable[str]) -> None:
        """Open a session that may be fed from `queues`."""
        self._by_id[session.id] = session
        self._queues[session.id] = frozenset(queues)
        self._served.update(self._queues[session.id])
        self.stir()

    def remove(self, session: Session) -> None:
        """Close a session. Idempotent."""
        self._by_id.pop(session.id, None)
        self._served.subtract(self._queues.pop(session.id, ()))
        self.stir()

    def offers(self) -> list[Offer]:
        """The offers of all sessions with room."""
        offers = (s.offer(self._queues[s.id]) for s in self._by_id.values())
        return [offer for offer in offers if offer.room > 0]

    def holder(self, token: str) -> tuple[Session, Attempt] | None:
        """Who holds a lease here."""
        for session in self._by_id.values():
            attempt = session.attempts.get(token)
            if attempt is not None:
                return session, attempt
        return None

    def holds(self, token: str) -> bool:
        """Whether a lease is held, or being settled, by any session here, or its end recorded."""
        return token in self.ending or any(session.holds(token) for session in self._by_id.values())

    def look_after(self, token: str, task_id: str) -> bool:
        """Remember a lease of this dispatcher by its task; False: a session holds it anyway."""
        if self.holds(token):
            return False
        self.adopted[token] = task_id
        return True

    def let_look_again(self) -> None:
        """Have workers that brought what nobody could look up dial again, and bring it again."""
        for session in self._by_id.values():
            if session.unseen:
                session.outbox.closing = True
                session.outbox.notify()

    def holder_of_task(self, task_id: str) -> tuple[Session, Attempt] | None:
        """Who holds an attempt of a task here."""
        for session in self._by_id.values():
            for attempt in session.attempts.values():
                if attempt.task_id == task_id:
                    return session, attempt
        return None
