"""Fills a message from plain JSON values, and names the member that can't be read."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from functools import cache
from math import isfinite
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from stepstream.errors import InvalidTask

__all__ = ["DEPTH_MAX", "fill"]

DEPTH_MAX: Final = 32  # task.proto, Payload.json
_EXACT_INT_MAX: Final = 2**53  # beyond it a double skips integers
_SEGMENT_MAX: Final = 64  # characters shown of a member's name
_PATH_MAX: Final = 256  # characters shown of a path
_DURATION: Final = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,9})?s\Z")
_INTEGER: Final = re.compile(r"-?[0-9]{1,20}\Z")
_URL_SAFE: Final = str.maketrans("-_", "+/")
_BASE64_DIGITS: Final = 4  # to a group of three bytes


def fill(message: Message, value: Any, path: str = "") -> None:
    """Read a JSON object into a message: names as in the proto or in lowerCamelCase.

    Args:
        message: Empty; half filled after an error.
        value: As a JSON parser returned it; numbers may be infinite.
        path: What error messages call the value; empty for the body itself.

    Raises:
        InvalidTask: With the path of the member that is unknown, given twice, or not of its type.
    """
    if not isinstance(value, Mapping):
        raise _refused(path, "must be an object")
    fields = _fields_by_name(message.DESCRIPTOR)
    seen: set[str] = set()
    for name, member in value.items():
        inner = _joined(path, name)
        field = fields.get(name)
        if field is None:
            raise _refused(inner, f"is not a field of {message.DESCRIPTOR.name}")
        if member is None:
            continue
        oneof = field.containing_oneof
        slot = oneof.name if oneof is not None else field.name
        if slot in seen:
            raise _refused(
                inner, "is given twice" if oneof is None else "stands beside another of its kind"
            )
        seen.add(slot)
        _fill_field(message, field, member, inner)


@cache
def _fields_by_name(descriptor: Descriptor) -> dict[str, FieldDescriptor]:
    names = {field.json_name: field for field in descriptor.fields}
    return names | {field.name: field for field in descriptor.fields}


def _fill_field(message: Message, field: FieldDescriptor, value: Any, path: str) -> None:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        _fill_map(getattr(message, field.name), kind, value, path)
    elif field.is_repeated:
        _fill_list(getattr(message, field.name), field, value, path)
    elif kind is not None:
        part = getattr(message, field.name)
        part.SetInParent()
        _fill_message(part, value, path)
    else:
        setattr(message, field.name, _scalar(field, value, path))


def _fill_map(target: Any, entry: Descriptor, value: Any, path: str) -> None:
    if not isinstance(value, Mapping):
        raise _refused(path, "must be an object")
    kind = entry.fields_by_name["value"]
    for key, member in value.items():
        inner = _joined(path, key)
        if kind.message_type is not None:
            _fill_message(target[_text(key, path)], member, inner)
        else:
            target[_text(key, path)] = _scalar(kind, member, inner)


def _fill_list(target: Any, field: FieldDescriptor, value: Any, path: str) -> None:
    if not isinstance(value, list):
        raise _refused(path, "must be a list")
    for index, member in enumerate(value):
        inner = f"{path}[{index}]"
        if field.message_type is not None:
            _fill_message(target.add(), member, inner)
        else:
            target.append(_scalar(field, member, inner))


def _fill_message(message: Any, value: Any, path: str) -> None:
    _reader_of(message.DESCRIPTOR.full_name)(message, value, path)


def _reader_of(name: str) -> Callable[[Any, Any, str], None]:
    return _WELL_KNOWN.get(name, fill)


# --- well-known messages -------------------------------------------------------------------------


def _fill_duration(message: Any, value: Any, path: str) -> None:
    if not isinstance(value, str) or not _DURATION.match(value):
        raise _refused(path, 'must be a duration in seconds, as "1.5s"')
    try:
        message.FromJsonString(value)
    except ValueError:
        raise _refused(path, "is out of range") from None


def _fill_struct(target: Any, value: Any, path: str) -> None:
    if not isinstance(value, Mapping):
        raise _refused(path, "must be an object")
    _fill_members(target, value, path, 1)


def _fill_members(target: Any, value: Mapping[str, Any], path: str, depth: int) -> None:
    _check_depth(path, depth)
    members = target.fields
    for key, member in value.items():
        _fill_value(members[_text(key, path)], member, path, key, depth)


def _fill_value(target: Any, value: Any, path: str, key: str | int, depth: int) -> None:
    """Fill one google.protobuf.Value; the path is joined only where it is needed."""
    match value:
        case None:
            target.null_value = 0
        case bool():
            target.bool_value = value
        case str():
            target.string_value = value if value.isascii() else _text(value, _joined(path, key))
        case int() | float():
            target.number_value = _number(value, path, key)
        case list():
            inner = _joined(path, key)
            _check_depth(inner, depth + 1)
            target.list_value.SetInParent()
            items = target.list_value.values
            for index, item in enumerate(value):
                _fill_value(items.add(), item, inner, index, depth + 1)
        case _:
            assert isinstance(value, Mapping)
            target.struct_value.SetInParent()
            _fill_members(target.struct_value, value, _joined(path, key), depth + 1)


def _check_depth(path: str, depth: int) -> None:
    if depth > DEPTH_MAX:
        raise _refused(path, f"is nested deeper than {DEPTH_MAX} levels")


def _number(value: float, path: str, key: str | int) -> float:
    if isinstance(value, int) and abs(value) > _EXACT_INT_MAX:
        raise _refused(_joined(path, key), "is an integer beyond 2^53; send it as a string")
    if not isfinite(value):
        raise _refused(_joined(path, key), "is beyond the numbers that a double holds")
    return value


# A Timestamp stands in no request; the reader of one would go here.
_WELL_KNOWN: Final[Mapping[str, Callable[[Any, Any, str], None]]] = {
    "google.protobuf.Duration": _fill_duration,
    "google.protobuf.Struct": _fill_struct,
}


# --- scalars -------------------------------------------------------------------------------------


def _scalar(field: FieldDescriptor, value: Any, path: str) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            if not isinstance(value, str):
                raise _refused(path, "must be a string")
            binary = field.type == FieldDescriptor.TYPE_BYTES
            return _bytes(value, path) if binary else _text(value, path)
        case FieldDescriptor.CPPTYPE_BOOL:
            if not isinstance(value, bool):
                raise _refused(path, "must be true or false")
            return value
        case FieldDescriptor.CPPTYPE_ENUM:
            return _enum(field.enum_type, value, path)
        case FieldDescriptor.CPPTYPE_INT32:
            return _integer(value, 31, path)
        case FieldDescriptor.CPPTYPE_INT64:
            return _integer(value, 63, path)
        case _:
            raise AssertionError(f"no request has a field such as {field.full_name}")


def _integer(value: Any, bits: int, path: str) -> int:
    """Read an integer; also as a string, or with nothing behind its point, as JSON has them."""
    written = isinstance(value, str) and _INTEGER.match(value)
    if written or (isinstance(value, float) and value.is_integer()):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _refused(path, "must be an integer")
    if not -(2**bits) <= value < 2**bits:
        raise _refused(path, f"must fit into {bits + 1} bits")
    return value


def _enum(enum: Any, value: Any, path: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return _integer(value, 31, path)
    found = enum.values_by_name.get(value) if isinstance(value, str) else None
    if found is None:
        raise _refused(path, "must be one of " + ", ".join(one.name for one in enum.values[1:]))
    return int(found.number)


def _text(value: str, path: str) -> str:
    """Refuse lone surrogates, which UTF-8 has no bytes for."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _refused(path, "holds half of a surrogate pair, which is not text") from None
    return value


def _bytes(value: str, path: str) -> bytes:
    digits = value.translate(_URL_SAFE)
    if len(digits) % _BASE64_DIGITS and not digits.endswith("="):
        digits += "=" * (-len(digits) % _BASE64_DIGITS)
    try:
        return base64.b64decode(digits, validate=True)
    except (binascii.Error, ValueError):
        raise _refused(path, "must be base64") from None


# --- words ---------------------------------------------------------------------------------------


def _joined(path: str, key: str | int) -> str:
    if isinstance(key, int):
        return f"{path}[{key}]"
    shown = key[:_SEGMENT_MAX].encode(errors="replace").decode()
    return f"{path}.{shown}" if path else shown


def _refused(path: str, words: str) -> InvalidTask:
    shown = path[:_PATH_MAX]
    return InvalidTask(f"{shown or 'the body'} {words}", field=shown)
