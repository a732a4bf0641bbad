"""JSON Schemas of messages, as `writer` writes them and `reader` reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor

__all__ = ["schemas_of"]

_SCALARS: Final[Mapping[int, Mapping[str, Any]]] = {
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number"},
    FieldDescriptor.TYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.TYPE_INT64: {"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"},
    FieldDescriptor.TYPE_STRING: {"type": "string"},
}
_WELL_KNOWN: Final[Mapping[str, Mapping[str, Any]]] = {
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"},
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
}


def schemas_of(*messages: Descriptor) -> dict[str, dict[str, Any]]:
    """Describe messages and all that they contain: by the message's or enum's name."""
    found: dict[str, dict[str, Any]] = {}
    for message in messages:
        _add(found, message)
    return dict(sorted(found.items()))


def _add(found: dict[str, dict[str, Any]], message: Descriptor) -> None:
    if message.name in found:
        return
    found[message.name] = {"type": "object"}  # before its fields: a message may hold itself
    found[message.name]["properties"] = {
        field.json_name: _field(found, field) for field in message.fields
    }


def _field(found: dict[str, dict[str, Any]], field: FieldDescriptor) -> dict[str, Any]:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        inner = _one(found, kind.fields_by_name["value"])
        return {"type": "object", "additionalProperties": inner}
    if field.is_repeated:
        return {"type": "array", "items": _one(found, field)}
    return _one(found, field)


def _one(found: dict[str, dict[str, Any]], field: FieldDescriptor) -> dict[str, Any]:
    if field.enum_type is not None:
        names = [value.name for value in field.enum_type.values]
        found[field.enum_type.name] = {"type": "string", "enum": names}
        return _reference(field.enum_type.name)
    if field.message_type is None:
        return dict(_SCALARS[field.type])
    if field.message_type.full_name in _WELL_KNOWN:
        return dict(_WELL_KNOWN[field.message_type.full_name])
    _add(found, field.message_type)
    return _reference(field.message_type.name)


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}
