"""What the environment says to the client side; the only place here that reads it.

Read with msgspec, because the command line cannot wait half a second for a larger library.
"""

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec
from msgspec import Meta, Struct

from stepstream.masking import masked

__all__ = [
    "Address",
    "Addresses",
    "ClientSettings",
    "EditorSettings",
    "LocalSettings",
    "Setting",
    "SettingsError",
    "TelemetrySettings",
    "child_environment",
    "describe",
    "is_address_list",
    "read",
]

SettingsT = TypeVar("SettingsT", bound=Struct)

_SECRET = frozenset({"REDIS_URL", "LLM_BASE_URL", "LLM_API_KEY"})  # may hold a password
_SHOWN_MAX = 40  # characters of a bad value in its message

_PORT = r"(6553[0-5]|655[0-2]\d|65[0-4]\d\d|6[0-4]\d{3}|[1-5]\d{4}|[1-9]\d{0,3})"
_HOST_PORT = rf"(\[[0-9A-Fa-f:.%]+\]|[^\s,;:/]+):{_PORT}"
_TARGET = rf"(dns:(//[^\s,/]*/)?)?{_HOST_PORT}"  # gRPC's words for a name, and who resolves it

Address = Annotated[
    str, Meta(pattern=f"^{_HOST_PORT}$", description="host:port with a port from 1 to 65535")
]
Addresses = Annotated[
    str,
    Meta(
        pattern=rf"^{_TARGET}(\s*,\s*{_TARGET})*$",
        description="host:port, or several of them with commas between",
    ),
]
RedisUrl = Annotated[
    str,
    Meta(
        pattern=r"^(rediss?|unix)://.+",
        description="a redis://, rediss:// or unix:// URL",
    ),
]


_FLAGS = {"yes": "true", "on": "true", "no": "false", "off": "false"}  # words of the dispatcher


class Setting(Struct, frozen=True, kw_only=True):
    """One setting as `stepstream config` shows it."""

    name: str
    value: str  # what is in force; secrets masked
    source: str  # environment or default
    takes: str  # the range in words
    default: str


class SettingsError(ValueError):
    """A setting has a value that cannot be used; the message is one line."""


class ClientSettings(Struct, frozen=True, rename={"address": "STEPSTREAM_ADDRESS"}):
    """What a client reads."""

    address: Addresses = "127.0.0.1:50051"

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses of the dispatchers, in the order of preference."""
        return tuple(address.strip() for address in self.address.split(","))


class LocalSettings(
    Struct,
    frozen=True,
    rename={
        "worker_count": "WORKER_COUNT",
        "slots": "MAX_CONCURRENT_TASKS",
        "redis_url": "REDIS_URL",
        "grpc_address": "STEPSTREAM_GRPC_ADDRESS",
        "http_address": "STEPSTREAM_HTTP_ADDRESS",
        "log_format": "STEPSTREAM_LOG_FORMAT",
        "parallel": "USE_PARALLEL_PROCESSING",
    },
):
    """What `stepstream start` reads before it hands the environment on to its processes."""

    worker_count: Annotated[int, Meta(ge=0, le=256, description="an integer, 0 to 256")] = 2
    slots: Annotated[int, Meta(ge=1, le=1000, description="an integer, 1 to 1000")] = 3
    redis_url: RedisUrl = "redis://localhost:6379"
    grpc_address: Address = "127.0.0.1:50051"
    http_address: Address = "127.0.0.1:3000"
    log_format: Annotated[
        Literal["auto", "json", "console"], Meta(description="one of auto, json, console")
    ] = "auto"
    parallel: Annotated[bool, Meta(description="true or false")] = True  # false: without Redis


class EditorSettings(Struct, frozen=True, rename={"visual": "VISUAL", "editor": "EDITOR"}):
    """What `stepstream review` opens a translation with."""

    visual: str = ""
    editor: str = "vi"

    @property
    def command(self) -> str:
        """The command line of the editor."""
        return self.visual or self.editor


class TelemetrySettings(
    Struct,
    frozen=True,
    kw_only=True,
    rename={
        "endpoint": "OTEL_EXPORTER_OTLP_ENDPOINT",
        "traces_endpoint": "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "protocol": "OTEL_EXPORTER_OTLP_PROTOCOL",
        "traces_protocol": "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        "exporter": "OTEL_TRACES_EXPORTER",
        "disabled": "OTEL_SDK_DISABLED",
    },
):
    """What decides whether a process sends spans; the OpenTelemetry SDK reads the rest itself."""

    endpoint: str = ""
    traces_endpoint: str = ""
    protocol: str = ""
    traces_protocol: str = ""
    exporter: str = ""
    disabled: str = ""

    @property
    def wanted(self) -> bool:
        """Whether the environment asks for traces."""
        named = bool(self.endpoint or self.traces_endpoint)
        return named and self.exporter in {"", "otlp"} and self.disabled.lower() != "true"

    @property
    def wire(self) -> str:
        """The protocol that it asks for; empty: whichever we have."""
        return self.traces_protocol or self.protocol


def read(kind: type[SettingsT], environment: Mapping[str, str] | None = None) -> SettingsT:
    """Reads settings from the environment, or from another mapping; an empty value is none.

    Raises:
        SettingsError: one line that names the setting, its value and what is expected.
    """
    source = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    for setting in msgspec.structs.fields(kind):
        if given := source.get(setting.encode_name, "").strip():
            values[setting.name] = _convert(setting.encode_name, given, setting.type)
    return kind(**values)


def describe(kind: type[SettingsT], environment: Mapping[str, str] | None = None) -> list[Setting]:
    """Says of each setting what is in force and where it comes from.

    Raises:
        SettingsError: one cannot be used.
    """
    source = os.environ if environment is None else environment
    settings, defaults = read(kind, source), kind()
    return [
        Setting(
            name=field.encode_name,
            value=masked(field.encode_name, _shown(getattr(settings, field.name))),
            source="environment" if source.get(field.encode_name, "").strip() else "default",
            takes=_expected(field.type),
            default=_shown(getattr(defaults, field.name)),
        )
        for field in msgspec.structs.fields(kind)
    ]


def child_environment(changes: Mapping[str, str]) -> dict[str, str]:
    """The environment to start a process with: ours, with changes."""
    return {**os.environ, **changes}


def is_address_list(text: str) -> bool:
    """Whether a text can stand in STEPSTREAM_ADDRESS."""
    try:
        msgspec.convert(text, Addresses)
    except msgspec.ValidationError:
        return False
    return True


def _convert(name: str, given: str, kind: Any) -> Any:
    try:
        word = _FLAGS.get(given.lower(), given) if get_args(kind)[:1] == (bool,) else given
        return msgspec.convert(word, kind, strict=False)
    except msgspec.ValidationError as error:
        shown = "(not shown)" if name in _SECRET else repr(given[:_SHOWN_MAX])
        raise SettingsError(f"{name}: {shown} is not {_expected(kind)}") from error


def _expected(kind: Any) -> str:
    metas = get_args(kind)[1:]
    return str(metas[0].description) if metas else "a text"


def _shown(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case _:
            return str(value)
