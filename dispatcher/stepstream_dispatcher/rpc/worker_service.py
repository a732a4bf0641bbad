"""WorkerService: one reader and one writer for each stream, and the protocol table between them."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc

from stepstream.errors import RateLimited, RemoteProtocolError, SessionSuperseded
from stepstream.session import HALF_CLOSE, Role
from stepstream.session import Session as Protocol
from stepstream.v1 import worker_service_pb2 as api
from stepstream.v1.worker_service_pb2_grpc import WorkerServiceServicer
from stepstream_dispatcher.engine.engine import Engine
from stepstream_dispatcher.engine.reception import Opened
from stepstream_dispatcher.engine.sessions import Session
from stepstream_dispatcher.rpc import _frames as frames

__all__ = ["WorkerService"]

REGISTER_WITHIN_S: Final = 10.0  # a stream that says nothing is closed
SILENT_MAX: Final = (
    5_000  # streams that have not said who they are; as many as there may be workers
)
# Turns of the loop after a report, before the next frame is read: what it has begun is then on its
# way to Redis, and does not wait for gRPC's part in reading, which takes longer.
TURNS_FIRST: Final = 3


class WorkerService(WorkerServiceServicer):
    """What workers call."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._silent = 0

    async def Work(  # type: ignore[override]  # the read/write form
        self, request_iterator: Any, context: Any
    ) -> None:
        """Serve one worker until its stream ends."""
        protocol = Protocol(Role.DISPATCHER)
        opened = await self._open(protocol, context)
        if opened is None:
            return
        session = opened.session
        try:
            await self._answer(protocol, opened, context)
            await self._serve(protocol, session, context)
        finally:
            self._engine.leases.broke(session)
        if session.outbox.superseded:
            raise SessionSuperseded("a newer stream of this worker instance took over")

    async def _first_frame(self, context: Any) -> Any:
        if self._silent >= SILENT_MAX:
            raise RateLimited(f"{SILENT_MAX} streams wait to register", retry_after_s=1.0)
        self._silent += 1
        try:
            async with asyncio.timeout(REGISTER_WITHIN_S):
                return await context.read()
        except TimeoutError:
            words = f"no register within {REGISTER_WITHIN_S:g} s"
            raise RemoteProtocolError(words) from None
        finally:
            self._silent -= 1

    async def _open(self, protocol: Protocol, context: Any) -> Opened | None:
        frame = await self._first_frame(context)
        if frame is grpc.aio.EOF:
            return None
        protocol.receive(frames.parts_of(frame))
        if not frame.HasField("register"):
            raise RemoteProtocolError("the first frame must carry register")
        return await self._engine.reception.open(
            frames.hello_of(frame.register), protocol_version=frame.register.protocol_version
        )

    async def _answer(self, protocol: Protocol, opened: Opened, context: Any) -> None:
        options = self._engine.options
        answer = frames.registered(
            opened,
            dispatcher_id=options.dispatcher_id,
            heartbeat_interval_s=options.heartbeat_interval_s,
            silence_limit_s=options.silence_limit_s,
        )
        protocol.send(frames.parts_of(answer))
        await context.write(answer)

    async def _serve(self, protocol: Protocol, session: Session, context: Any) -> None:
        """Read and write side by side; the writer's end is the stream's."""
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(self._read(protocol, session, context))
            await self._write(protocol, session, context)
            reader.cancel()

    async def _read(self, protocol: Protocol, session: Session, context: Any) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await session.outbox.room()  # a worker that reads no receipts may well be silent
            session.is_read = False
            await self._wait_for_room(session)
            session.is_read, session.heard_at = True, loop.time()
            frame = await context.read()
            if frame is grpc.aio.EOF:
                break
            session.is_read = False
            protocol.receive(frames.parts_of(frame))
            await self._take_in(session, frame)
            for _ in range(TURNS_FIRST if frame.HasField("report") else 0):
                await asyncio.sleep(0)
            session.is_read, session.heard_at = True, loop.time()
        protocol.receive([HALF_CLOSE])
        session.outbox.half_closed = True
        session.outbox.notify()

    async def _wait_for_room(self, session: Session) -> None:
        """Wait for one heartbeat at most; then say that nobody is forgotten, and read one frame."""
        interval_s = self._engine.options.heartbeat_interval_s
        if await self._engine.settling.room(session, at_most_s=interval_s):
            return
        if session.outbox.not_owned is None:
            session.outbox.not_owned = []
            session.outbox.notify()

    async def _take_in(self, session: Session, frame: api.WorkRequest) -> None:
        if frame.HasField("pull"):
            session.max_in_flight, session.ahead = frames.credit_of(frame.pull)
            self._engine.sessions.stir()
        if frame.HasField("report"):
            limit = self._engine.options.payload_bytes_max
            self._engine.settling.receive(session, frames.settlements_of(frame.report, limit))
        if frame.HasField("heartbeat"):
            await self._heard(session, frame.heartbeat)
        if frame.HasField("drain"):
            await self._engine.leases.worker_drains(session)

    async def _heard(self, session: Session, heartbeat: api.Heartbeat) -> None:
        names = {one.lease_token: one.assignment_id for one in heartbeat.held}
        not_owned = await self._engine.leases.heard(session, list(names), heartbeat.batch_received)
        session.outbox.not_owned = [names[token] for token in not_owned]
        session.outbox.notify()
        await self._engine.settling.progress(session, frames.held_of(heartbeat))

    async def _write(self, protocol: Protocol, session: Session, context: Any) -> None:
        outbox = session.outbox
        while True:
            await outbox.filled()
            for frame in frames.frames_of(session):
                protocol.send(frames.parts_of(frame))
                await context.write(frame)
            if outbox.written():
                self._engine.sessions.stir()
            done = outbox.half_closed and not session.settling and outbox.empty
            if done or outbox.closing or outbox.superseded:
                return
