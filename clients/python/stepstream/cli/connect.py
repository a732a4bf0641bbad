"""A client for a command: to a dispatcher that runs, or to one started for the command alone."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import stepstream
from stepstream.cli.stack import temporary_dispatcher

if TYPE_CHECKING:
    from stepstream import Client

__all__ = ["connected"]

_CALL_TIMEOUT_S = 30.0
_PATIENCE_S = 1.0  # a person who mistyped an address should not wait for longer


@contextlib.contextmanager
def connected(address: str | None, data_dir: Path | None = None) -> Iterator["Client"]:
    """Yields a client of the dispatcher at the address, or of one on a data directory.

    The client is loaded only now, after what has to be spawned: see `stack`.
    """
    with contextlib.ExitStack() as stack:
        addresses: list[str] | None = address.split(",") if address else None
        if data_dir is not None:
            addresses = [stack.enter_context(temporary_dispatcher(data_dir))]
        client = stepstream.Client(addresses, timeout_s=_CALL_TIMEOUT_S, retry_s=_PATIENCE_S)
        yield stack.enter_context(client)
