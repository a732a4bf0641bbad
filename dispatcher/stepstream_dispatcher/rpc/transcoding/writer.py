"""Writes a message as plain JSON values, by the rules of proto3 JSON."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

__all__ = ["written"]

_EXACT_INT_MAX: Final = 2**53  # beyond it a double skips integers


def written(message: Message) -> dict[str, Any]:
    """Write a message: names in lowerCamelCase, 64-bit integers as strings, bytes as base64.

    A field without presence is always there, also when it is empty or zero; any other only when it
    is set. Numbers that are not finite become "NaN", "Infinity" and "-Infinity".
    """
    return {
        field.json_name: _field(message, field)
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
    }


def _field(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        inner = kind.fields_by_name["value"]
        return {key: _one(inner, value[key]) for key in value}
    if field.is_repeated:
        return [_one(field, member) for member in value]
    return _one(field, value)


def _one(field: Any, value: Any) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_MESSAGE:
            return _writer_of(field.message_type.full_name)(value)
        case FieldDescriptor.CPPTYPE_ENUM:
            known = field.enum_type.values_by_number.get(value)
            return known.name if known is not None else value
        case FieldDescriptor.CPPTYPE_INT64:
            return str(value)
        case FieldDescriptor.CPPTYPE_DOUBLE:
            return value if isfinite(value) else _NOT_FINITE[str(value)]
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return base64.b64encode(value).decode()
        case _:
            return value


def _writer_of(name: str) -> Callable[[Any], Any]:
    return _WELL_KNOWN.get(name, written)


def _json_string(message: Any) -> str:
    return str(message.ToJsonString())


def _struct(struct: Any) -> dict[str, Any]:
    return {key: _value(member) for key, member in struct.fields.items()}


def _value(value: Any) -> Any:
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "number_value":
            return _number(value.number_value)
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return _struct(value.struct_value)
        case "list_value":
            return [_value(item) for item in value.list_value.values]
        case _:
            return None


def _number(number: float) -> float | str:
    if not isfinite(number):
        return _NOT_FINITE[str(number)]
    exact = number.is_integer() and abs(number) <= _EXACT_INT_MAX
    return int(number) if exact else number


_NOT_FINITE: Final[Mapping[str, str]] = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}

_WELL_KNOWN: Final[Mapping[str, Callable[[Any], Any]]] = {
    "google.protobuf.Duration": _json_string,
    "google.protobuf.Struct": _struct,
    "google.protobuf.Timestamp": _json_string,
}
