"""Query parameters: each known, each once, each of its type."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from starlette.exceptions import HTTPException

from stepstream.errors import InvalidTask

__all__ = ["Parameter", "read_query"]

_QUERY_BYTES_MAX: Final = 4096
_DIGITS: Final = re.compile(r"[0-9]{1,18}\Z")
_SWITCH: Final[Mapping[str, bool]] = {"true": True, "false": False}


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """One parameter of a query."""

    name: str  # in the query
    field: str  # of the request message
    kind: str = "text"  # text, number, switch, or pairs: key=value, any number of times
    description: str


def read_query(query: bytes, parameters: tuple[Parameter, ...]) -> dict[str, Any]:
    """Read a query into fields of a request.

    Raises:
        InvalidTask: Naming the parameter that is unknown, stands twice or is not of its type.
        HTTPException: 414 too long, 400 not UTF-8.
    """
    if len(query) > _QUERY_BYTES_MAX:
        raise HTTPException(414, f"the query must have at most {_QUERY_BYTES_MAX} bytes")
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict")
    except ValueError:
        raise HTTPException(400, "the query is not percent-encoded UTF-8") from None
    known = {parameter.name: parameter for parameter in parameters}
    fields: dict[str, Any] = {}
    for name, value in pairs:
        parameter = known.get(name)
        if parameter is None:
            shown = name[:64]
            raise InvalidTask(f"{shown!r} is not a parameter of this route", field=shown)
        if parameter.kind == "pairs":
            _add_pair(fields.setdefault(parameter.field, {}), parameter, value)
        elif parameter.field in fields:
            raise InvalidTask(f"{name} stands twice", field=parameter.name)
        else:
            fields[parameter.field] = _KINDS[parameter.kind](parameter, value)
    return fields


def _add_pair(pairs: dict[str, str], parameter: Parameter, value: str) -> None:
    key, equals, inner = value.partition("=")
    if not key or not equals:
        raise InvalidTask(f"{parameter.name} must be KEY=VALUE", field=parameter.name)
    if key in pairs:
        raise InvalidTask(f"{parameter.name} has {key[:64]!r} twice", field=parameter.name)
    pairs[key] = inner


def _text(_parameter: Parameter, value: str) -> str:
    return value


def _number(parameter: Parameter, value: str) -> int:
    if not _DIGITS.match(value):
        raise InvalidTask(f"{parameter.name} must be a whole number", field=parameter.name)
    return int(value)


def _switch(parameter: Parameter, value: str) -> bool:
    if value not in _SWITCH:
        raise InvalidTask(f"{parameter.name} must be true or false", field=parameter.name)
    return _SWITCH[value]


_KINDS: Final[Mapping[str, Callable[[Parameter, str], Any]]] = {
    "number": _number,
    "switch": _switch,
    "text": _text,
}
