"""The command line against a scripted dispatcher."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from stepstream.cli.app import app
from tests.support.terminal import Terminal
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


@pytest.fixture
def on_terminal(stub: StubOperator) -> Iterator[Callable[..., Terminal]]:
    """Runs a command in a terminal; STEPSTREAM_ADDRESS leads to the stub."""
    opened: list[Terminal] = []

    def open_one(
        *words: str, columns: int = 100, stdout: Path | None = None, **environment: str
    ) -> Terminal:
        given = {"STEPSTREAM_ADDRESS": address, **environment}
        opened.append(Terminal(*words, environment=given, columns=columns, stdout=stdout))
        return opened[-1]

    with serving_both(stub) as address:
        yield open_one
        for terminal in opened:
            terminal.close()
