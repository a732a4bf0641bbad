"""A dispatcher and a client for the tests of submits that are made at the same time."""

from collections.abc import AsyncIterator

import grpc.aio
import pytest

from stepstream import AsyncClient, _submits
from stepstream.v1.dispatcher_service_pb2_grpc import add_DispatcherServiceServicer_to_server
from tests.unit.client.dispatcher_stub import SERVER_OPTIONS
from tests.unit.client.submits.callers import NEVER_S
from tests.unit.client.submits.desk import Desk


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
async def address(desk: Desk) -> AsyncIterator[str]:
    server = grpc.aio.server(options=SERVER_OPTIONS)
    add_DispatcherServiceServicer_to_server(desk, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


@pytest.fixture
async def client(address: str, desk: Desk) -> AsyncIterator[AsyncClient]:
    """One that knows that its dispatcher works in parallel."""
    async with AsyncClient(address) as client:
        await client.submit("p", None)
        desk.calls.clear()
        desk.methods.clear()
        yield client


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time passes: what waits goes out because of an answer, or not at all."""
    monkeypatch.setattr(_submits, "WAIT_S_MAX", NEVER_S)
    monkeypatch.setattr(_submits, "TRUST_S", NEVER_S)
