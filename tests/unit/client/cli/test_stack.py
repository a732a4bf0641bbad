"""The processes of an installation, what they are told, and how their readiness is asked for."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import typer

from stepstream.cli.options import parse_labels, parse_seconds
from stepstream.cli.probe import Roster, dialable, free_address, is_ready, is_taken
from stepstream.cli.samples import find_samples, load_documents
from stepstream.cli.stack import Stack


class _Edge(BaseHTTPRequestHandler):
    answers: dict[str, tuple[int, str]] = {}  # noqa: RUF012

    def do_GET(self):
        status, body = self.answers[self.path]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format, *args):  # noqa: A002
        pass


@pytest.fixture
def edge() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Edge) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def _stack(**fields: object) -> Stack:
    given = {
        "redis_url": "redis://r",
        "grpc_address": "0.0.0.0:5",
        "http_address": "127.0.0.1:6",
        "data_dir": Path("d"),
        "worker_count": 2,
        "slots": 4,
        "extra": {"X": "y"},
    }
    return Stack(**{**given, **fields})


def test_the_dispatcher_comes_before_the_workers():
    children = _stack().children()

    assert [(child.name, child.stage) for child in children] == [
        ("dispatcher", 1),
        ("worker-0", 2),
        ("worker-1", 2),
    ]


def test_each_process_is_told_what_it_needs():
    dispatcher, worker, _ = _stack().children()

    assert dispatcher.env["REDIS_URL"] == "redis://r"
    assert dispatcher.env["STEPSTREAM_GRPC_ADDRESS"] == "0.0.0.0:5"
    assert dispatcher.env["X"] == "y"
    assert worker.env == {
        "STEPSTREAM_ADDRESS": "127.0.0.1:5",
        "STEPSTREAM_WORKER_NAME": "worker-0",
        "MAX_CONCURRENT_TASKS": "4",
        "X": "y",
    }


def test_synchronous_mode_is_without_redis():
    dispatcher, *_ = _stack(parallel=False, worker_count=1).children()

    assert dispatcher.env["USE_PARALLEL_PROCESSING"] == "false"
    assert "REDIS_URL" not in dispatcher.env


@pytest.mark.parametrize(
    ("status", "body", "ready"), [(200, "{}", True), (503, "{}", False), (200, "no JSON", False)]
)
def test_the_dispatcher_is_ready_when_it_says_so(edge, status, body, ready):
    _Edge.answers = {"/readyz": (status, body)}

    assert is_ready(edge) is ready


def test_a_worker_is_ready_when_the_dispatcher_has_it(edge):
    workers = {"worker-0": {"isRunning": True}, "worker-1": {"isRunning": False}}
    _Edge.answers = {"/api/stats": (200, json.dumps({"workers": workers}))}
    roster = Roster(edge)

    assert [roster.has(f"worker-{n}") for n in range(3)] == [True, False, False]


def test_nobody_there_is_not_ready_and_not_taken(edge):
    silent = free_address()

    assert not is_ready(silent)
    assert not Roster(silent).has("worker-0")
    assert not is_taken(silent)
    assert is_taken(edge)


@pytest.mark.parametrize(
    ("listened", "called"),
    [
        ("0.0.0.0:1", "127.0.0.1:1"),
        ("[::]:1", "[::1]:1"),
        ("a.example:1", "a.example:1"),
        ("[fe80::1]:1", "[fe80::1]:1"),
    ],
)
def test_any_host_is_called_on_loopback(listened, called):
    assert dialable(listened) == called


def test_the_samples_are_found_and_whole():
    documents = load_documents(find_samples())

    assert len(documents) >= 6
    assert all(document.text.strip() and document.title for document in documents)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1.5s", 1.5), ("10m", 600), ("2h", 7200), ("500ms", 0.5)]
)
def test_times_have_units(text, seconds):
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1", "1w", "nan", "inf", "1 s"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(typer.BadParameter):
        parse_seconds(text)


def test_labels_are_words_with_an_equals_sign():
    assert parse_labels(["a=b=c", "d="]) == {"a": "b=c", "d": ""}
    with pytest.raises(typer.BadParameter):
        parse_labels(["=x"])
