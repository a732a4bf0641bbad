"""What a worker reads from the environment, by way of the SDK's one reader."""

from __future__ import annotations

import os
import re
import socket
from typing import Annotated

from msgspec import Meta, Struct

from stepstream.settings import Addresses

__all__ = ["WorkerSettings", "default_name"]

Name = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z0-9._-]{0,64}$", description="1 to 64 characters of A-Z a-z 0-9 . _ -"),
]
Slots = Annotated[int, Meta(ge=1, le=1000, description="an integer, 1 to 1000")]
Grace = Annotated[float, Meta(ge=0, le=3600, description="a number of seconds, 0 to 3600")]
LogFormat = Annotated[
    str, Meta(pattern="^(auto|json|console)$", description="one of auto, json, console")
]
Flag = Annotated[bool, Meta(description="true or false")]


class WorkerSettings(
    Struct,
    frozen=True,
    kw_only=True,
    rename={
        "address": "STEPSTREAM_ADDRESS",
        "name": "STEPSTREAM_WORKER_NAME",
        "slots": "MAX_CONCURRENT_TASKS",
        "takes_ahead": "STEPSTREAM_WORKER_AHEAD",
        "grace_s": "STEPSTREAM_WORKER_GRACE",
        "debug": "DEBUG",
        "log_format": "STEPSTREAM_LOG_FORMAT",
    },
):
    """What a worker reads where its code does not say."""

    address: Addresses = "127.0.0.1:50051"
    name: Name = ""  # empty: made of the host's name and the process id
    slots: Slots = 3
    takes_ahead: Flag = True  # more steps than slots, while steps are short
    grace_s: Grace = 30.0  # seconds for running steps after SIGTERM
    debug: Flag = False  # log debug events
    log_format: LogFormat = "auto"

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses of the dispatchers, in the order of preference."""
        return tuple(address.strip() for address in self.address.split(","))


def default_name() -> str:
    """A name that a person recognises: the host and the process."""
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:48] or "worker"
    return f"{host}-{os.getpid()}"
