"""One dispatcher on a store in memory, listening for HTTP and gRPC on free ports."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
import httpx
import msgspec

from stepstream._stubs import stub_of
from stepstream_dispatcher.edge.api import api_routes
from stepstream_dispatcher.edge.app import build_app
from stepstream_dispatcher.edge.bodies import IntakeLimits
from stepstream_dispatcher.edge.serve import open_listener, serve_http
from stepstream_dispatcher.rpc.dispatcher_service import DispatcherService
from stepstream_dispatcher.rpc.json_calls import json_calls, json_schemas
from stepstream_dispatcher.rpc.operator_service import OperatorService
from stepstream_dispatcher.rpc.server import RpcServer
from stepstream_dispatcher.rpc.worker_service import WorkerService
from stepstream_dispatcher.store.local_database import LocalDatabase
from tests.support.engine import Dispatcher

__all__ = ["LIMITS", "Answer", "Edge", "exchange", "refused", "serving_edge", "serving_grpc"]

LIMITS = IntakeLimits(body_bytes=2 * (1 << 20) + 65_536)
LIMIT_S = 20.0


class Edge:
    """What a test speaks to."""

    def __init__(self, dispatcher: Dispatcher, port: int, http: httpx.AsyncClient) -> None:
        self.dispatcher = dispatcher
        self.port = port
        self.http = http

    async def submit(self, **members: Any) -> str:
        """Submit a task by HTTP; returns its id."""
        body = {"pipeline": "translation", "input": {"text": "你好"}} | members
        response = await self.http.post("/api/tasks", json=body)
        assert response.status_code == 201, response.text
        return str(response.json()["taskId"])


@asynccontextmanager
async def serving_edge(limits: IntakeLimits = LIMITS) -> AsyncIterator[Edge]:
    """Serve HTTP until the end of the block."""
    listener = open_listener("127.0.0.1:0")
    port = listener.getsockname()[1]
    stop = asyncio.Event()
    shared = LocalDatabase(outlives_stores=True)
    async with Dispatcher(shared, "committer", "settling", "feeder") as dispatcher:
        engine = dispatcher.engine
        calls = json_calls(DispatcherService(engine), OperatorService(engine), engine.desk)
        app = build_app(engine.stats, engine.ready, api_routes(calls, json_schemas(), limits))
        async with (
            asyncio.TaskGroup() as group,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=LIMIT_S) as http,
        ):
            group.create_task(serve_http(app, listener, stop))
            try:
                yield Edge(dispatcher, port, http)
            finally:
                stop.set()
    shared.close()


@asynccontextmanager
async def serving_grpc(dispatcher: Dispatcher) -> AsyncIterator[Any]:
    """Serve gRPC beside it; gives a stub."""
    engine = dispatcher.engine
    server = RpcServer(
        dispatcher=DispatcherService(engine),
        worker=WorkerService(engine),
        operator=OperatorService(engine),
    )
    port = await server.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield stub_of(channel)
    await server.stop(0)


class Answer(msgspec.Struct, frozen=True):
    """An answer as its bytes came."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


async def exchange(port: int, *sent: bytes) -> Answer:
    """Send bytes as they are, and read to the end of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in sent:
            writer.write(part)
            await writer.drain()
        async with asyncio.timeout(LIMIT_S):
            return _answer(await reader.read())
    finally:
        writer.close()


def _answer(received: bytes) -> Answer:
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    return Answer(int(first.split()[1]), headers, body)


def refused(response: httpx.Response, status: int, reason: str, field: str | None) -> None:
    """See that an answer is this problem."""
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert (response.status_code, problem["status"]) == (status, status), response.text
    assert (problem["reason"], problem.get("field")) == (reason, field)
    assert problem["type"] == f"urn:stepstream:problem:{reason}"
