"""Fixtures of every suite."""

import gc
import os
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support import redis as test_redis
from tests.support.headings import HEADINGS, heading_of

# Read by grpc at its import, which comes later. Its handlers of a fork would run in every child
# that is spawned with a `preexec_fn` beside a server of the same test process, and break it.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

# A machine that stands still for a moment is no fault of the example that ran then.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keeps the collector away while a failure is written down.

    That parses source, and so does a finalizer that logs a traceback: within the other, it makes
    Python 3.11 raise a SystemError, which ends the run in place of the failure's report.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


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
