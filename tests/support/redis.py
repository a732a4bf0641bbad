"""The Redis-compatible server of the tests: the embedded Valkey, or the system's redis-server.

`STEPSTREAM_TEST_REDIS=system` chooses the second.
"""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stepstream.cli.valkey import EmbeddedValkey

__all__ = ["ServerMissingError", "new_key_prefix", "running_redis", "wanted_server"]


class ServerMissingError(LookupError):
    """The server that the environment asks for is not installed."""


def wanted_server() -> Path | None:
    """The binary to test with; None is the embedded one.

    Raises:
        ServerMissingError: STEPSTREAM_TEST_REDIS=system and there is no redis-server.
    """
    if os.environ.get("STEPSTREAM_TEST_REDIS", "embedded") != "system":
        return None
    if (found := shutil.which("redis-server")) is None:
        message = "STEPSTREAM_TEST_REDIS=system, and redis-server is not on the PATH"
        raise ServerMissingError(message)
    return Path(found)


@contextmanager
def running_redis(data_dir: Path, *, tcp_port: int | None = None) -> Iterator[EmbeddedValkey]:
    """Runs a server of the wanted kind on data_dir for as long as the block lasts."""
    with EmbeddedValkey(data_dir, tcp_port=tcp_port, server=wanted_server()) as server:
        yield server


def new_key_prefix() -> str:
    """A key prefix that no other test has."""
    return f"test-{uuid.uuid4().hex[:12]}:"
