"""Fixtures of every suite."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import redis as test_redis
from tests.support.headings import HEADINGS, heading_of

# Read by grpc at its import, which comes later. Its handlers of a fork would run in every child
# that is spawned with a `preexec_fn` beside a server of the same test process, and break it.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


WHOLE_SYSTEM = {"integration", "interop"}  # the suites that stand under headings


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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Counts the tests of the whole system under their headings."""
    passed = (report.nodeid for report in terminalreporter.getreports("passed"))
    paths = (Path(nodeid.partition("::")[0]) for nodeid in passed)
    modules = (path.stem for path in paths if path.parent.name in WHOLE_SYSTEM)
    counts = Counter(filter(None, map(heading_of, modules)))
    if counts:
        terminalreporter.section("whole system, passed", sep="-")
        for heading in HEADINGS:
            terminalreporter.write_line(f"{counts[heading]:5}  {heading}")


def missing(reason: str) -> None:
    """Skips the test, or fails it where STEPSTREAM_TEST_ALL promises every tool."""
    if os.environ.get("STEPSTREAM_TEST_ALL") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
