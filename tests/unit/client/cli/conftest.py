"""The command line against a scripted dispatcher."""

from collections.abc import Callable, Iterator

import pytest
from typer.testing import CliRunner, Result

from stepstream.cli.app import app
from tests.unit.client.operator_stub import StubOperator, serving_both

Run = Callable[..., Result]


@pytest.fixture
def stub() -> StubOperator:
    return StubOperator()


@pytest.fixture
def run(stub: StubOperator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a command; STEPSTREAM_ADDRESS leads to the stub."""
    with serving_both(stub) as address:
        monkeypatch.setenv("STEPSTREAM_ADDRESS", address)
        yield lambda *words, text=None: CliRunner().invoke(app, list(words), input=text)
