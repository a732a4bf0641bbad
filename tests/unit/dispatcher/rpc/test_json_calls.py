"""Calls in JSON reach the methods that gRPC serves."""

import asyncio
from typing import Any

import pytest

from stepstream.errors import InvalidTask
from stepstream.v1 import dispatcher_service_pb2 as api
from stepstream_dispatcher.rpc.dispatcher_service import DispatcherService
from stepstream_dispatcher.rpc.json_calls import CALLS, json_calls, json_schemas
from stepstream_dispatcher.rpc.operator_service import OperatorService
from tests.support.engine import Dispatcher, database


class Recording(DispatcherService):
    """Keeps what it was asked."""

    def __init__(self, engine: Any) -> None:
        super().__init__(engine)
        self.asked: list[tuple[Any, Any]] = []

    async def Submit(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        self.asked.append((request, context))
        return api.SubmitResponse(task_id="a")


@pytest.fixture
async def service() -> Recording:
    return Recording(Dispatcher(database()).engine)


def call(service: Recording, name: str, body: Any, size: int = 0) -> Any:
    calls = json_calls(service, OperatorService(), service._engine.desk)
    return calls[name](body, size, [("traceparent", "00-x")])


async def test_a_call_is_the_method_with_a_message(service: Recording):
    answer = await call(service, "Submit", {"requestId": "one"})

    ((request, context),) = service.asked
    assert request == api.SubmitRequest(request_id="one")
    assert context.time_remaining() is None
    assert context.invocation_metadata() == (("traceparent", "00-x"),)
    assert answer["taskId"] == "a"


async def test_what_cannot_be_read_never_reaches_the_method(service: Recording):
    with pytest.raises(InvalidTask):
        await call(service, "Submit", {"foo": 1})

    assert service.asked == []


async def test_the_loop_goes_on_while_a_large_request_is_read(service: Recording):
    """Reading this takes tens of milliseconds, in which the loop would not turn."""
    body = {"input": {"json": {"numbers": [1] * 100_000}}}
    turns = 0

    async with asyncio.TaskGroup() as group:
        reading = group.create_task(call(service, "Submit", body, size=200_000))
        while not reading.done():
            await asyncio.sleep(0)
            turns += 1

    assert turns > 3


def test_every_call_has_schemas_of_its_request_and_its_answer():
    schemas = json_schemas()

    assert {f"{name}{end}" for name in CALLS for end in ("Request", "Response")} <= set(schemas)
