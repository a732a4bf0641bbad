"""What a log line looks like."""

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest
import structlog

from stepstream_dispatcher.logs import configure_logs


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_has_event_level_time_and_values():
    stream = io.StringIO()
    configure_logs(stream=stream)

    structlog.get_logger().info("task.done", task_id="t1", text="訳")

    (line,) = lines(stream)
    assert line.pop("timestamp")
    assert line == {"event": "task.done", "level": "info", "task_id": "t1", "text": "訳"}
    assert "訳" in stream.getvalue()


def test_traceback_is_in_the_line():
    stream = io.StringIO()
    configure_logs(stream=stream)

    structlog.get_logger().error("loop.failed", exc_info=ValueError("why"))

    assert "ValueError: why" in str(lines(stream)[0]["exception"])


def test_libraries_look_the_same_and_are_quieter():
    stream = io.StringIO()
    configure_logs(stream=stream)

    logging.getLogger("library").info("quiet")
    logging.getLogger("library").warning("loud %s", 1)

    assert [line["event"] for line in lines(stream)] == ["loud 1"]


@pytest.mark.parametrize(("options", "events"), [({}, []), ({"debug": True}, ["detail"])])
def test_debug_events_are_written_on_request(options: dict[str, bool], events: list[str]):
    stream = io.StringIO()
    configure_logs(stream=stream, **options)

    structlog.get_logger().debug("detail")

    assert [line["event"] for line in lines(stream)] == events


@pytest.mark.parametrize(
    ("log_format", "stream", "first"),
    [
        ("auto", Terminal(), "2"),
        ("json", Terminal(), "{"),
        ("console", io.StringIO(), "2"),
    ],
)
def test_format_follows_the_terminal_unless_named(log_format: str, stream: io.StringIO, first: str):
    configure_logs(log_format, stream=stream)

    structlog.get_logger().info("hello")

    assert re.sub(r"\x1b\[\d*m", "", stream.getvalue())[0] == first


def test_console_traceback_shows_no_local_variables():
    stream = Terminal()
    configure_logs(stream=stream)

    def fail() -> None:
        password = "hunter2"
        raise ValueError(len(password))

    try:
        fail()
    except ValueError:
        structlog.get_logger().exception("bad")

    assert "ValueError: 7" in stream.getvalue()
    assert "'hunter2'" not in stream.getvalue()
