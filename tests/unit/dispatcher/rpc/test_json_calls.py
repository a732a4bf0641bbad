"""Calls in JSON reach the methods that gRPC serves."""

import asyncio
from typing import Any

import pytest

from stepstream.errors import (
    InternalError,
    InvalidTask,
    StepstreamError,
    TaskContended,
    TaskNotFound,
)
from stepstream.v1 import dispatcher_service_pb2 as api
from stepstream.v1 import operator_service_pb2 as operator_api
from stepstream.v1 import task_pb2 as pb
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


class Operator(OperatorService):
    """Answers a redrive with a reason."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.asked: list[str] = []

    async def Redrive(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        self.asked += request.task_ids
        result = operator_api.RedriveResult(redriven=not self.reason, reason=self.reason)
        return operator_api.RedriveResponse(results=[result])


@pytest.fixture
async def service() -> Recording:
    return Recording(Dispatcher(database()).engine)


def call(service: Recording, name: str, body: Any, size: int = 0) -> Any:
    calls = json_calls(service, Operator(""), service._engine.desk)
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


async def test_a_task_that_is_redriven_is_the_answer():
    async with Dispatcher(database(), "committer") as dispatcher:
        task_id = await dispatcher.submit(pb.Payload(text="a").SerializeToString())
        operator = Operator("")
        desk = dispatcher.engine.desk
        calls = json_calls(DispatcherService(dispatcher.engine), operator, desk)

        answer = await calls["Redrive"]({"task_id": task_id, "includePayloads": True}, 0, [])

    assert operator.asked == [task_id]
    assert (answer["task"]["taskId"], answer["task"]["input"]) == (task_id, {"text": "a"})


@pytest.mark.parametrize("error", [TaskNotFound, TaskContended, InvalidTask, InternalError])
async def test_a_task_that_is_not_redriven_is_refused_with_its_reason(
    service: Recording, error: type[StepstreamError]
):
    calls = json_calls(service, Operator(error.reason), service._engine.desk)

    with pytest.raises(error):
        await calls["Redrive"]({"task_id": "0" * 32}, 0, [])


def test_every_call_has_schemas_of_its_request_and_its_answer():
    schemas = json_schemas()

    assert {f"{name}{end}" for name in CALLS for end in ("Request", "Response")} <= set(schemas)
