"""Fixtures of every suite."""

import os
from collections.abc import Iterator

import pytest

from tests.support import redis as test_redis

# Read by grpc at its import, which comes later. Its handlers of a fork would run in every child
# that is spawned with a `preexec_fn` beside a server of the same test process, and break it.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of one server for the whole session; tests share it by `key_prefix`."""
    try:
        test_redis.wanted_server()
    except test_redis.ServerMissingError as error:
        missing(str(error))
    with test_redis.running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture
def key_prefix() -> str:
    """A key prefix that belongs to this test alone."""
    return test_redis.new_key_prefix()


def missing(reason: str) -> None:
    """Skips the test, or fails it where STEPSTREAM_TEST_ALL promises every tool."""
    if os.environ.get("STEPSTREAM_TEST_ALL") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
