"""What a worker and its step processes say to each other.

Two channels, so that neither end ever waits for the other to read: on `work` an attempt goes there
and its progress and result come back; on `control` one byte asks to stop the attempt under way, and
its end says that the worker is gone.
Assignments and settlements travel as they do on the wire.
"""

from __future__ import annotations

from multiprocessing.connection import Connection

import msgspec

from stepstream.worker.targets import Target

__all__ = ["STOP", "Ended", "Frame", "Progress", "Ready", "Run", "Setup", "receive", "send"]

STOP = b"s"


class Setup(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The first frame: what the worker's own process has beside its environment."""

    parent: int  # process id of the worker
    path: list[str]  # where modules are looked for
    argv: list[str]
    targets: list[Target]


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Every function is loaded."""


class Run(msgspec.Struct, frozen=True, tag=True):
    """Do this attempt."""

    assignment: bytes  # stepstream.v1.Assignment


class Progress(msgspec.Struct, frozen=True, tag=True):
    """How far an attempt is."""

    token: str  # of its lease
    fraction: float
    note: str


class Ended(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The attempt is over."""

    settlement: bytes | None  # stepstream.v1.Settlement; None: it stopped because it was told to
    trace: str = ""  # of what the handler raised; its end


Frame = Setup | Ready | Run | Progress | Ended

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Frame] = msgspec.msgpack.Decoder(Frame)


def send(work: Connection, frame: Frame) -> None:
    """Writes a frame.

    Raises:
        OSError: The other end is gone.
    """
    work.send_bytes(_ENCODER.encode(frame))


def receive(work: Connection) -> Frame:
    """Waits for a frame.

    Raises:
        EOFError: The other end has closed.
        OSError: The other end is gone.
    """
    return _DECODER.decode(work.recv_bytes())
