"""Structured logs: console lines on a terminal, JSON otherwise; libraries' logs look the same."""

from __future__ import annotations

import logging
import sys
from typing import Literal, TextIO

import structlog

__all__ = ["configure_logs"]


def configure_logs(
    log_format: Literal["auto", "json", "console"] = "auto",
    *,
    debug: bool = False,
    stream: TextIO | None = None,
) -> None:
    """Set up structlog and the standard library's logging, once per process.

    Args:
        log_format: `auto` writes console lines when the stream is a terminal.
        debug: Write debug events too, and those of libraries from INFO up.
        stream: Where to; standard error unless given, so that standard output stays for results.
    """
    out = stream or sys.stderr
    console = log_format == "console" or (log_format == "auto" and out.isatty())
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_shared(), processors=_render(console=console, tty=out.isatty())
        )
    )
    logging.basicConfig(
        handlers=[handler], level=logging.INFO if debug else logging.WARNING, force=True
    )
    structlog.configure(
        processors=[*_shared(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.DEBUG if debug else logging.INFO
        ),
        logger_factory=_StreamLoggers(),
        cache_logger_on_first_use=False,
    )


class _StreamLoggers:
    """Makes loggers of ours that pass the root level: ours are filtered before they get here."""

    def __call__(self, *_: object) -> logging.Logger:
        logger = logging.getLogger("stepstream")
        logger.setLevel(logging.DEBUG)
        return logger


def _shared() -> list[structlog.typing.Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _render(*, console: bool, tty: bool) -> list[structlog.typing.Processor]:
    clean = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    if console:
        renderer = structlog.dev.ConsoleRenderer(
            colors=tty, exception_formatter=structlog.dev.plain_traceback
        )
        return [clean, renderer]  # plain: a rich traceback shows local variables
    return [
        clean,
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(ensure_ascii=False),
    ]
