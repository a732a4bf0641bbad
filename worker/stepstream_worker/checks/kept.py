"""Checks on what must come out as it went in: addresses, placeholders, tags and code."""

from __future__ import annotations

from collections.abc import Iterator

from stepstream_worker.checks.comparison import Comparison, compare_tokens
from stepstream_worker.checks.finding import Finding
from stepstream_worker.markdown import Line
from stepstream_worker.spans import SpanKind, find_spans

__all__ = ["check_code", "check_emails", "check_placeholders", "check_tags", "check_urls"]


def check_urls(comparison: Comparison) -> Iterator[Finding]:
    """Every address of the source stands in the translation, and no other."""
    return compare_tokens(comparison, "urls", "address", lambda line: _spans(line, "url"))


def check_emails(comparison: Comparison) -> Iterator[Finding]:
    """Every e-mail address of the source stands in the translation, and no other."""
    return compare_tokens(
        comparison, "emails", "e-mail address", lambda line: _spans(line, "email")
    )


def check_placeholders(comparison: Comparison) -> Iterator[Finding]:
    """Every placeholder of the source stands in the translation, and no other."""
    return compare_tokens(
        comparison, "placeholders", "placeholder", lambda line: _spans(line, "placeholder")
    )


def check_tags(comparison: Comparison) -> Iterator[Finding]:
    """Every tag of the source stands in the translation, and no other."""
    return compare_tokens(comparison, "tags", "tag", lambda line: _spans(line, "tag"))


def check_code(comparison: Comparison) -> Iterator[Finding]:
    """Code fences and inline code are what they were."""
    return compare_tokens(comparison, "code", "code", _code)


def _spans(line: Line, kind: SpanKind) -> Iterator[str]:
    if line.kind not in {"blank", "fence", "code"}:
        yield from (span.text for span in find_spans(line.body) if span.kind == kind)


def _code(line: Line) -> Iterator[str]:
    if line.kind in {"fence", "code"}:
        if line.body.strip():
            yield line.body
    else:
        yield from _spans(line, "code")
