"""W3C trace context as text: read with suspicion, written as the standard has it.

A leaf without dependencies, so that a caller's context travels where no tracing is installed.
Source: https://www.w3.org/TR/trace-context/ and https://www.w3.org/TR/baggage/.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping

import msgspec

__all__ = [
    "BAGGAGE",
    "FIELDS",
    "TRACEPARENT",
    "TRACESTATE",
    "TraceContext",
    "parse_traceparent",
    "read_carrier",
    "span_id_of",
    "trace_fields",
]

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
BAGGAGE = "baggage"
FIELDS = (TRACEPARENT, TRACESTATE, BAGGAGE)

_TRACESTATE_MAX = 512  # characters that the standard asks every party to carry
_TRACESTATE_MEMBERS_MAX = 32
_BAGGAGE_MAX = (
    1024  # characters; it is stored with every task, so it is less than the standard's 8 KiB
)
_BAGGAGE_MEMBERS_MAX = 64
_VALUE_MAX = 8192  # characters of any header that are looked at
_KNOWN_FLAGS = 0x03  # sampled, and random trace id (level 2)

_TRACEPARENT = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})"
    r"(?P<rest>-.*)?"
)
_STATE_MEMBER = re.compile(
    r"([a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
    r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
_BAGGAGE_MEMBER = re.compile(
    r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+[ \t]*=[ \t]*[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*"
    r"([ \t]*;[\x20\x21\x23-\x2b\x2d-\x5b\x5d-\x7e\t]*)?"
)


class TraceContext(msgspec.Struct, frozen=True, kw_only=True):
    """Names one span of one trace."""

    trace_id: str  # 32 lower-case hexadecimal digits, not all zero
    span_id: str  # 16 of them, not all zero
    flags: int = 1  # bit 0: sampled
    state: str = ""  # tracestate, as it came

    @property
    def sampled(self) -> bool:
        """Whether the trace is recorded."""
        return bool(self.flags & 1)

    @property
    def traceparent(self) -> str:
        """The context as a header, in version 00."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


def parse_traceparent(text: str, state: str = "") -> TraceContext | None:
    """Read a traceparent; None when it is not one, which the standard says to ignore."""
    found = _TRACEPARENT.fullmatch(text[:_VALUE_MAX])
    if found is None or found["version"] == "ff" or (found["version"] == "00" and found["rest"]):
        return None
    if not (found["trace"].strip("0") and found["span"].strip("0")):
        return None
    return TraceContext(
        trace_id=found["trace"],
        span_id=found["span"],
        flags=int(found["flags"], 16) & _KNOWN_FLAGS,
        state=state,
    )


def read_carrier(headers: Iterable[tuple[str, str | bytes]]) -> dict[str, str]:
    """Take trace context and baggage out of headers, such as the metadata of a call.

    What is malformed, too long or given twice is left out as if it had not been sent; a tracestate
    without its traceparent too.
    """
    given: dict[str, list[str]] = {}
    for name, value in headers:
        if name in FIELDS and isinstance(value, str):
            given.setdefault(name, []).append(value)
    if not given:
        return {}
    carrier: dict[str, str] = {}
    parents = given.get(TRACEPARENT, [])
    context = parse_traceparent(parents[0]) if len(parents) == 1 else None
    if context is not None:
        carrier[TRACEPARENT] = context.traceparent
        if state := _checked_state(",".join(given.get(TRACESTATE, []))):
            carrier[TRACESTATE] = state
    if baggage := _checked_baggage(",".join(given.get(BAGGAGE, []))):
        carrier[BAGGAGE] = baggage
    return carrier


def trace_fields(carrier: Mapping[str, str]) -> dict[str, str]:
    """What a line of log says of the trace: trace_id, or nothing."""
    context = parse_traceparent(carrier.get(TRACEPARENT, "")) if carrier else None
    return {"trace_id": context.trace_id} if context else {}


def span_id_of(name: str) -> str:
    """The span id of something that has a name, the same for everybody who knows the name.

    It is the beginning of a SHA-256. So an attempt can be linked to the one before it, and be
    reported by a dispatcher when its worker is gone, without anybody handing span ids around.
    """
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def _checked_state(text: str) -> str:
    """A tracestate, or nothing."""
    if len(text) > _TRACESTATE_MAX:
        return ""
    members = [member for part in text.split(",") if (member := part.strip(" \t"))]
    keys = {member.partition("=")[0] for member in members}
    if len(members) > _TRACESTATE_MEMBERS_MAX or len(keys) < len(members):
        return ""
    return ",".join(members) if all(map(_STATE_MEMBER.fullmatch, members)) else ""


def _checked_baggage(text: str) -> str:
    """Baggage, or nothing."""
    if len(text) > _BAGGAGE_MAX:
        return ""
    members = [member for part in text.split(",") if (member := part.strip(" \t"))]
    if len(members) > _BAGGAGE_MEMBERS_MAX:
        return ""
    return ",".join(members) if all(map(_BAGGAGE_MEMBER.fullmatch, members)) else ""
