"""A span as plain data: made where its facts are known, turned into telemetry elsewhere.

A leaf without dependencies; `otlp` is what sends such spans.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import msgspec

from stepstream.trace_context import TraceContext

__all__ = ["AttributeValue", "Kind", "SpanRecord"]

Kind: TypeAlias = Literal["internal", "consumer"]
AttributeValue: TypeAlias = str | int | float | bool


class SpanRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One span that has ended."""

    name: str
    context: TraceContext  # its own
    parent_id: str  # span id of its parent in the same trace; empty: it is the first
    start_ms: int  # Unix ms
    end_ms: int  # Unix ms
    kind: Kind = "internal"
    attributes: Mapping[str, AttributeValue] = {}
    error: str = ""  # code of what went wrong; empty: nothing did
    links: tuple[TraceContext, ...] = ()
