"""Decides whether a process sends spans; nothing of OpenTelemetry is imported where it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from stepstream.settings import TelemetrySettings, read

if TYPE_CHECKING:
    from stepstream.otlp import Otlp

__all__ = ["open_telemetry"]

_log = structlog.get_logger("stepstream.telemetry")


def open_telemetry(*, service: str, instance: str) -> Otlp | None:
    """What sends the spans of this process; None when it is to send none.

    Whatever is wrong with telemetry is warned of, and never keeps a process from its work.

    Args:
        service: `service.name`, unless the environment sets another.
        instance: `service.instance.id`, likewise.
    """
    settings = read(TelemetrySettings)
    if not settings.wanted:
        return None
    if settings.wire not in {"", "grpc"}:
        _log.warning("no traces: only OTLP over gRPC is served", protocol=settings.wire[:64])
        return None
    try:
        from stepstream.otlp import Otlp  # noqa: PLC0415 - 0.3 s that most processes need not pay

        return Otlp(service=service, instance=instance)
    except ModuleNotFoundError as error:
        _log.warning("no traces: install stepstream[telemetry]", missing=error.name)
    except ValueError as error:
        _log.warning("no traces: a setting of OTEL_* cannot be used", error=str(error))
    return None
