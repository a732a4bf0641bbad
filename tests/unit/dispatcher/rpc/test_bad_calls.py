"""Bad input by gRPC: every field of every request, hostile values; the table in docs/errors.md.

The descriptors say which fields there are, so that a new one is tried, and needs a row, at once.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status

from stepstream.v1 import dispatcher_service_pb2, operator_service_pb2, worker_service_pb2
from stepstream.v1.task_pb2 import Payload
from tests.support.edge import serving_grpc
from tests.support.engine import Dispatcher, database
from tests.support.tree import ROOT

SERVICES = (
    dispatcher_service_pb2.DESCRIPTOR.services_by_name["DispatcherService"],
    operator_service_pb2.DESCRIPTOR.services_by_name["OperatorService"],
)
LIMIT_S = 2.0
# Calls that wait or stream until their deadline when nothing is wrong with them.
WAITING = {"WaitTask", "WatchTask", "WatchTasks"}
TEXTS = (
    *(
        "",
        " ",
        "a" * 129,
        "a" * 100_000,
        "\0",
        "a\r\nb",
        "\x1b[31m",
        "\u202e",
        "\u200b",
        "e\u0301" * 999,
    ),
    *(
        "😀",
        "../../x",
        "*?[",
        "{tag}",
        "'\";--",
        "<script>",
        "%00",
        "${jndi:x}",
        "null",
        "NaN",
        "Ⅷ",
    ),
)
INTEGERS = (0, 1, -1, 2**31 - 1, -(2**31), 1001)
LONG = (0, 1, -1, 2**53 + 1, 2**63 - 1, -(2**63))
DURATIONS = (
    (0, 0),
    (-1, 0),
    (1, -1),
    (0, 10**9),
    (-1, 5),
    (315_576_000_000, 0),
    (10**15, 0),
    (0, 1),
)
FINE = {  # members of requests that make a call whole
    "pipeline": "translation",
    "task_id": "0" * 32,
    "reviewer": "ana",
    "decision": 1,
    "name": "w",
    "queue": "default",
    "page_size": 1,
}


class Try(NamedTuple):
    """One call with one hostile value."""

    method: str
    path: str
    request: Message


def numbers(kind: int) -> tuple[int, ...]:
    long = {FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64}
    return LONG if kind in long else INTEGERS


def scalars(field: FieldDescriptor) -> tuple[Any, ...]:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return (b"", bytes(range(256)))
        case FieldDescriptor.CPPTYPE_STRING:
            return TEXTS
        case FieldDescriptor.CPPTYPE_INT32 | FieldDescriptor.CPPTYPE_INT64:
            return numbers(field.type)
        case FieldDescriptor.CPPTYPE_ENUM:
            return (0, 99, -1)
        case FieldDescriptor.CPPTYPE_BOOL:
            return (True, False)
        case _:
            return (-0.0, math.nan, math.inf, 1e308)


def payloads() -> Iterator[Payload]:
    yield Payload()
    yield Payload(text="a" * ((1 << 20) + 1))
    yield Payload(data=b"\xff" * 10)
    for value in (math.nan, math.inf, -math.inf):
        bad = Payload()
        bad.json.update({"a": 1})
        bad.json.fields["a"].number_value = value
        yield bad
    deep: Any = "x"
    for _ in range(33):
        deep = {"a": deep}
    too_deep = Payload()
    too_deep.json.update(deep)
    yield too_deep


def set_field(request: Message, field: FieldDescriptor) -> Iterator[tuple[str, Message]]:
    """The request with each hostile value in one field, and the path of that field."""
    name = field.name
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        for labels in (
            {"a" * 64: "b"},
            {"a": "b" * 64},
            {"": "b"},
            {f"k{n}": "" for n in range(65)},
        ):
            changed = copy_of(request)
            getattr(changed, name).update(labels)
            yield name, changed
    elif field.is_repeated and kind is None:
        for values in ([], ["x"] * 2, ["x"] * 1001, *([text] for text in TEXTS)):
            changed = copy_of(request)
            if scalars(field) is TEXTS:
                getattr(changed, name).extend(values)
            yield name, changed
    elif field.is_repeated:
        for count in (0, 1001):
            changed = copy_of(request)
            getattr(changed, name).extend([kind._concrete_class()] * count)
            yield name, changed
    elif kind is None:
        for value in scalars(field):
            changed = copy_of(request)
            setattr(changed, name, value)
            yield name, changed
    else:
        yield from set_message(request, field)


def set_message(request: Message, field: FieldDescriptor) -> Iterator[tuple[str, Message]]:
    name, kind = field.name, field.message_type
    if kind.full_name == "google.protobuf.Duration":
        for seconds, nanos in DURATIONS:
            changed = copy_of(request)
            getattr(changed, name).seconds, getattr(changed, name).nanos = seconds, nanos
            yield name, changed
    elif kind.full_name == Payload.DESCRIPTOR.full_name:
        for payload in payloads():
            changed = copy_of(request)
            getattr(changed, name).CopyFrom(payload)
            yield name, changed
    else:
        for inner in kind.fields:
            for path, part in set_field(getattr(request, name), inner):
                changed = copy_of(request)
                getattr(changed, name).CopyFrom(part)
                yield f"{name}.{path}", changed


def copy_of(message: Any) -> Any:
    copied = type(message)()
    copied.CopyFrom(message)
    return copied


def whole(kind: Descriptor) -> Any:
    """A request that nothing is wrong with, but for the task that does not exist."""
    request: Any = kind._concrete_class()
    for field in kind.fields:
        if field.name in FINE and not field.is_repeated:
            setattr(request, field.name, FINE[field.name])
        if field.name == "input":
            request.input.text = "x"
    return request


def tries() -> Iterator[Try]:
    for service in SERVICES:
        for method in service.methods:
            request = whole(method.input_type)
            for field in method.input_type.fields:
                for path, changed in set_field(request, field):
                    yield Try(method.name, path, changed)


async def answer(stub: Any, one: Try) -> grpc.aio.AioRpcError | None:
    """How a call ended; None: well, or it was still going on."""
    call = getattr(stub, one.method)(one.request, timeout=0.2 if one.method in WAITING else LIMIT_S)
    try:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        waited = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and one.method in WAITING
        return None if waited else error
    return None


def named(error: grpc.aio.AioRpcError) -> str:
    """The field that the answer blames."""
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    for detail in Status.FromString(details).details:
        if detail.Is(BadRequest.DESCRIPTOR):
            found = BadRequest()
            detail.Unpack(found)
            return found.field_violations[0].field
    return ""


FORBIDDEN = {
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.CANCELLED,
}


@pytest.fixture
async def stub() -> AsyncIterator[Any]:
    async with (
        Dispatcher(database(), "committer", "settling", "feeder") as dispatcher,
        serving_grpc(dispatcher) as made,
    ):
        yield made


@pytest.mark.timeout(120)
async def test_no_value_is_our_fault_and_the_field_is_named(stub: Any, capsys):
    places = asyncio.Semaphore(64)
    found: list[str] = []

    async def check(one: Try) -> None:
        async with places:
            error = await answer(stub, one)
        if error is None:
            return
        blamed = named(error)
        if (one.path, error.code()) == ("require_durable", grpc.StatusCode.UNAVAILABLE):
            return  # the store in memory keeps nothing, as it says
        if error.code() in FORBIDDEN:
            found.append(f"{one.method}.{one.path}: {error.code().name} {error.details()}")
        elif error.code() is grpc.StatusCode.INVALID_ARGUMENT and not re.match(
            rf"{re.escape(one.path.partition('.')[0])}\b", blamed
        ):
            found.append(f"{one.method}.{one.path}: blames {blamed!r}: {error.details()}")

    async with asyncio.TaskGroup() as group:
        for one in tries():
            group.create_task(check(one))

    assert found == []
    assert "Traceback" not in "".join(capsys.readouterr())


def fields() -> Iterator[str]:
    """Every field of every request, `Method.field`, those of messages by their path."""
    for service in SERVICES:
        for method in service.methods:
            yield from sorted({f"{method.name}.{one.name}" for one in method.input_type.fields})
    register = worker_service_pb2.Register.DESCRIPTOR
    yield from sorted(f"Register.{field.name}" for field in register.fields)


@pytest.mark.parametrize("field", list(fields()))
def test_each_field_has_a_row(field: str):
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")

    assert f"| `{field}` |" in page


def test_each_row_is_about_a_field():
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([A-Z]\w+\.\w+)` \|", page, re.MULTILINE)

    assert sorted(rows) == sorted(fields())
