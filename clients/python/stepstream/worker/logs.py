"""Logs of a worker process, where its own code has not set structlog up."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

import structlog

__all__ = ["configure_logs"]


def configure_logs(log_format: str, *, debug: bool, stream: TextIO | None = None) -> None:
    """Sets structlog up: lines for people on a terminal, JSON otherwise.

    Args:
        log_format: `json`, `console`, or `auto`, which looks at the stream.
        debug: Whether to write debug events.
        stream: Where to; standard error unless given, so that standard output stays the handlers'.
    """
    out = stream or sys.stderr
    console = log_format == "console" or (log_format == "auto" and out.isatty())
    render: list[structlog.typing.Processor] = (
        [_console(colors=out.isatty())]
        if console
        else [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.DEBUG if debug else logging.INFO
        ),
        logger_factory=structlog.WriteLoggerFactory(file=out),
    )


def _console(*, colors: bool) -> structlog.dev.ConsoleRenderer:
    # Plain: a rich traceback shows local variables, and with them what a task is about.
    return structlog.dev.ConsoleRenderer(
        colors=colors, exception_formatter=structlog.dev.plain_traceback
    )
