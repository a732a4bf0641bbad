"""A dispatcher for tests of workers: a real grpc.aio server whose WorkerService does what a test
says.

Each worker stream becomes a `FakeSession`, which keeps every frame that it received and sends what
the test wants. By itself it answers Register, acknowledges heartbeats and receipts results; each of
these can be switched off. Every wait has a limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from time import monotonic
from typing import TypeGuard, TypeVar

import grpc
from grpc import aio

from stepstream._convert import seconds_to_duration, value_to_payload
from stepstream.session import HALF_CLOSE, Role, Session
from stepstream.types import Value
from stepstream.v1 import worker_service_pb2 as pb
from stepstream.v1 import worker_service_pb2_grpc as pb_grpc

__all__ = ["FakeDispatcher", "FakeSession", "assignment", "fake_dispatcher"]

WAIT_LIMIT_S = 10.0

FoundT = TypeVar("FoundT")
Servicer = aio.ServicerContext[pb.WorkRequest, pb.WorkResponse]


def assignment(
    number: int, step: str = "echo", *, value: Value = None, token: str = "", task_id: str = ""
) -> pb.Assignment:
    """An attempt of its own: `task-<n>`, assignment `task-<n>/<step>/1`, lease `lease-<n>`."""
    task_id = task_id or f"task-{number}"
    return pb.Assignment(
        assignment_id=f"{task_id}/{step}/1",
        lease_token=token or f"lease-{number}",
        task_id=task_id,
        pipeline="test",
        step=step,
        attempt=1,
        timeout=seconds_to_duration(300, "timeout"),
        input=value_to_payload(value),
        labels={"n": str(number)},
    )


class FakeSession:
    """One stream of one worker, seen from the dispatcher."""

    def __init__(self, dispatcher: FakeDispatcher) -> None:
        self.frames: list[pb.WorkRequest] = []
        self.beats_mono: list[float] = []  # when each heartbeat came
        self.half_closed = False
        self.closed = asyncio.Event()  # the worker has half-closed or gone
        self._dispatcher = dispatcher
        self._session = Session(Role.DISPATCHER)
        self._out: asyncio.Queue[pb.WorkResponse | None] = asyncio.Queue()
        self._status: tuple[grpc.StatusCode, str] | None = None
        self._batches = 0

    @property
    def register(self) -> pb.Register:
        """The first frame's register."""
        return self.frames[0].register

    @property
    def settlements(self) -> list[pb.Settlement]:
        """Every settlement received, in order."""
        return [one for frame in self.frames for one in frame.report.settlements]

    @property
    def heartbeats(self) -> list[pb.Heartbeat]:
        """Every heartbeat received, in order."""
        return [frame.heartbeat for frame in self.frames if frame.HasField("heartbeat")]

    @property
    def pulls(self) -> list[int]:
        """Every capacity received, the registered one first."""
        later = [frame.pull.max_in_flight for frame in self.frames if frame.HasField("pull")]
        return [self.register.max_in_flight, *later]

    @property
    def drained(self) -> bool:
        """Whether the worker has said that it leaves."""
        return any(frame.HasField("drain") for frame in self.frames)

    def send(self, response: pb.WorkResponse) -> None:
        """Sends a frame; what is read later has not been heard when it was said."""
        self._session.send([field.name for field, _ in response.ListFields()])
        self._out.put_nowait(response)

    def batch(self, *assignments: pb.Assignment) -> None:
        """Sends a batch with the next number."""
        self._batches += 1
        self.send(pb.WorkResponse(batch=pb.Batch(number=self._batches, assignments=assignments)))

    def cancel(
        self, assignment_id: str, reason: pb.CancelReason.ValueType, *, grace_s: float = 5
    ) -> None:
        """Sends a cancel."""
        grace = seconds_to_duration(grace_s, "grace")
        cancel = pb.Cancel(assignment_id=assignment_id, reason=reason, grace=grace)
        self.send(pb.WorkResponse(cancels=[cancel]))

    def receipt(self, settlement: pb.Settlement, status: pb.ReceiptStatus.ValueType) -> None:
        """Sends one receipt."""
        self.send(pb.WorkResponse(receipts=receipts([settlement], status)))

    def drain(self, *, leave: bool = False) -> None:
        """Says that the dispatcher leaves."""
        self.send(pb.WorkResponse(drain=pb.DispatcherDrain(reason="test", leave=leave)))

    def end(self, code: grpc.StatusCode, words: str = "ended by the test") -> None:
        """Ends the stream with a status once everything sent before is written."""
        self._status = (code, words)
        self._out.put_nowait(None)

    async def until(self, condition: Callable[[FakeSession], FoundT]) -> FoundT:
        """Waits until the condition is true of this session and returns what it gave."""
        return await self._dispatcher.until(lambda _: condition(self))

    async def settled(self, count: int) -> list[pb.Settlement]:
        """Waits for so many settlements."""
        await self.until(lambda session: len(session.settlements) >= count)
        return self.settlements

    async def serve(self, context: Servicer) -> None:
        """Reads and writes until either end is done."""
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(self._read(context))
            await self._write(context)
            reader.cancel()
        if self._status is not None:
            await context.abort(*self._status)

    async def _read(self, context: Servicer) -> None:
        try:
            while is_frame(frame := await context.read()):
                self._session.receive([field.name for field, _ in frame.ListFields()])
                self.frames.append(frame)
                self._answer(frame)
                await self._dispatcher.notify()
            self._session.receive([HALF_CLOSE])
            self.half_closed = True
        finally:
            self.closed.set()
            await self._dispatcher.notify()
        if self._dispatcher.ends_streams:
            self._out.put_nowait(None)

    async def _write(self, context: Servicer) -> None:
        while (response := await self._out.get()) is not None:
            await context.write(response)

    def _answer(self, frame: pb.WorkRequest) -> None:
        fake = self._dispatcher
        response = pb.WorkResponse()
        if frame.HasField("register"):
            if fake.refusal is not None:
                self.end(*fake.refusal)
            if not fake.answers_register or fake.refusal is not None:
                return
            response.registered.CopyFrom(fake.registered(self))
        if frame.HasField("report") and fake.receipt_status is not None:
            response.receipts.CopyFrom(receipts(frame.report.settlements, fake.receipt_status))
        if frame.HasField("heartbeat"):
            self.beats_mono.append(monotonic())
        if frame.HasField("heartbeat") and fake.acknowledges:
            response.heartbeat_ack.SetInParent()
        if response.ListFields():
            self.send(response)


class FakeDispatcher(pb_grpc.WorkerServiceServicer):
    """Serves worker streams and lets a test look at them."""

    def __init__(self) -> None:
        self.address = ""
        self.sessions: list[FakeSession] = []
        self.answers_register = True
        self.acknowledges = True
        self.ends_streams = True  # when the worker half-closes
        self.refusal: tuple[grpc.StatusCode, str] | None = None
        self.receipt_status: pb.ReceiptStatus.ValueType | None = pb.RECEIPT_STATUS_ACCEPTED
        self.verdicts: dict[
            str, pb.Verdict.ValueType
        ] = {}  # by assignment id; KEEP where none is given
        self.heartbeat_interval_s = 5.0
        self.silence_limit_s = 15.0
        self._changed = asyncio.Condition()

    async def Work(  # type: ignore[override]  # noqa: N802 - the name of the RPC
        self, request_iterator: object, context: Servicer
    ) -> None:
        """One worker stream."""
        session = FakeSession(self)
        self.sessions.append(session)
        await session.serve(context)

    def registered(self, session: FakeSession) -> pb.Registered:
        """The answer to a Register, with a verdict for each inventory item."""
        return pb.Registered(
            session_id=f"session-{len(self.sessions)}",
            dispatcher_id="fake",
            heartbeat_interval=seconds_to_duration(self.heartbeat_interval_s, "interval"),
            silence_limit=seconds_to_duration(self.silence_limit_s, "limit"),
            verdicts=[
                pb.InventoryVerdict(
                    assignment_id=item.assignment_id,
                    verdict=self.verdicts.get(item.assignment_id, pb.VERDICT_KEEP),
                )
                for item in session.register.inventory
            ],
        )

    async def session(self, number: int = 1) -> FakeSession:
        """Waits for the number-th stream, from 1, to have registered."""
        await self.until(
            lambda fake: len(fake.sessions) >= number and bool(fake.sessions[number - 1].frames)
        )
        return self.sessions[number - 1]

    async def until(self, condition: Callable[[FakeDispatcher], FoundT]) -> FoundT:
        """Waits until the condition is true and returns what it gave.

        Raises:
            TimeoutError: It was not within WAIT_LIMIT_S.
        """
        async with asyncio.timeout(WAIT_LIMIT_S), self._changed:
            return await self._changed.wait_for(lambda: condition(self))

    async def notify(self) -> None:
        """Lets everyone who waits look again."""
        async with self._changed:
            self._changed.notify_all()


def is_frame(read: object) -> TypeGuard[pb.WorkRequest]:
    """Whether a read gave a frame, and not the half-close."""
    return isinstance(read, pb.WorkRequest)


def receipts(
    settlements: Iterable[pb.Settlement], status: pb.ReceiptStatus.ValueType
) -> pb.Receipts:
    """The same receipt for each settlement."""
    return pb.Receipts(
        receipts=[
            pb.Receipt(assignment_id=one.assignment_id, lease_token=one.lease_token, status=status)
            for one in settlements
        ]
    )


@asynccontextmanager
async def fake_dispatcher(address: str = "127.0.0.1:0") -> AsyncIterator[FakeDispatcher]:
    """A running fake; leaving the block stops it and breaks its streams."""
    server = aio.server(options=[("grpc.so_reuseport", 0)])
    fake = FakeDispatcher()
    pb_grpc.add_WorkerServiceServicer_to_server(fake, server)
    port = server.add_insecure_port(address)
    fake.address = f"127.0.0.1:{port}"
    await server.start()
    try:
        yield fake
    finally:
        await server.stop(None)
