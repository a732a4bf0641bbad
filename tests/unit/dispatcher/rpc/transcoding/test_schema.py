"""Schemas have what the messages have."""

from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor

from stepstream.v1 import dispatcher_service_pb2 as api
from stepstream.v1 import operator_service_pb2, task_pb2
from stepstream_dispatcher.rpc.transcoding.schema import schemas_of

MODULES = (task_pb2, api, operator_service_pb2)
MESSAGES = [one for module in MODULES for one in module.DESCRIPTOR.message_types_by_name.values()]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.name)
def test_a_schema_has_each_field_by_its_json_name(message: Any):
    schema = schemas_of(message)[message.name]

    assert list(schema["properties"]) == [field.json_name for field in message.fields]


def test_everything_referred_to_is_there():
    schemas = schemas_of(*MESSAGES)

    assert references(schemas) <= {f"#/components/schemas/{name}" for name in schemas}


def references(value: object) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(references, value))
    if not isinstance(value, dict):
        return set()
    own = {value["$ref"]} if "$ref" in value else set()
    return own.union(*map(references, value.values()))


def test_kinds_of_fields():
    properties = schemas_of(task_pb2.Task.DESCRIPTOR)["Task"]["properties"]

    assert properties["version"]["type"] == "string"
    assert properties["attempt"] == {"type": "integer", "format": "int32"}
    assert properties["createTime"] == {"type": "string", "format": "date-time"}
    assert properties["phase"] == {"$ref": "#/components/schemas/Phase"}
    assert properties["labels"] == {"type": "object", "additionalProperties": {"type": "string"}}
    assert properties["errors"]["items"] == {"$ref": "#/components/schemas/AttemptError"}


def test_every_kind_of_scalar_in_the_protos_has_a_schema():
    kinds = {field.type for message in MESSAGES for field in message.fields}

    assert kinds <= {
        FieldDescriptor.TYPE_BOOL,
        FieldDescriptor.TYPE_BYTES,
        FieldDescriptor.TYPE_DOUBLE,
        FieldDescriptor.TYPE_ENUM,
        FieldDescriptor.TYPE_INT32,
        FieldDescriptor.TYPE_INT64,
        FieldDescriptor.TYPE_MESSAGE,
        FieldDescriptor.TYPE_STRING,
    }
