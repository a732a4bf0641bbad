"""The command line against a scripted dispatcher."""

from collections.abc import Callable, Iterator

import pytest
from typer.testing import CliRunner, Result

from stepstream.cli.app import app
from tests.unit.client.dispatcher_stub import StubDispatcher, serving

Run = Callable[..., Result]


@pytest.fixture
def stub() -> StubDispatcher:
    return StubDispatcher()


@pytest.fixture
def run(stub: StubDispatcher, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a command; STEPSTREAM_ADDRESS leads to the stub."""
    with serving(stub) as address:
        monkeypatch.setenv("STEPSTREAM_ADDRESS", address)
        yield lambda *words, text=None: CliRunner().invoke(app, list(words), input=text)
