"""The settings of the dispatcher: one typed object, read once from the environment."""

from __future__ import annotations

import difflib
import os
import re
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from pydantic import AliasGenerator, Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from stepstream_dispatcher.addresses import split_address

__all__ = ["Settings", "environment_name", "expected_value", "load_settings", "unknown_settings"]

_PREFIX: Final = "STEPSTREAM_"
_UNPREFIXED: Final = frozenset(
    {
        "USE_PARALLEL_PROCESSING",
        "MAX_CONCURRENT_TASKS",
        "WORKER_COUNT",
        "PROCESSING_TIMEOUT",
        "REDIS_URL",
        "ENABLE_METRICS",
        "DEBUG",
    }
)
# What the client, the worker, the command line and the tests read: they share the environment.
_FOREIGN: Final = re.compile(r"STEPSTREAM_(ADDRESS|ENGINES|(WORKER|TEST|CLIENT|LLM)_[A-Z0-9_]+)")
# Those of them that are easily mistyped, for the hint.
_NEIGHBOURS: Final = ("STEPSTREAM_ADDRESS", "STEPSTREAM_WORKER_NAME", "STEPSTREAM_WORKER_GRACE")
_DAY_MS: Final = 86_400_000
_SHOWN_MAX: Final = 40  # characters of a bad value in its message


def environment_name(field: str) -> str:
    """Return the variable of a field: upper case, without the unit, with the prefix."""
    name = re.sub(r"_(ms|s|bytes)$", "", field).upper()
    return name if name in _UNPREFIXED else _PREFIX + name


class Settings(BaseSettings):
    """Everything that can be set; docs/configuration.md is held to this class by a test.

    An empty variable counts as unset.
    """

    model_config = SettingsConfigDict(
        alias_generator=AliasGenerator(validation_alias=environment_name),
        case_sensitive=True,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    use_parallel_processing: bool = True  # false: synchronous, without Redis
    max_concurrent_tasks: int = Field(default=3, ge=1, le=1000)  # slots of each started worker
    worker_count: int = Field(default=2, ge=0, le=256)  # workers that `stepstream start` runs
    processing_timeout_ms: int = Field(default=300_000, ge=1, le=_DAY_MS)  # of one attempt
    redis_url: str = Field(
        default="redis://localhost:6379",
        pattern=r"^(redis|rediss|unix)://",
        repr=False,
        json_schema_extra={"expected": "a redis://, rediss:// or unix:// URL", "secret": True},
    )
    enable_metrics: bool = True  # the metrics block every 30 s
    debug: bool = False  # log more

    grpc_address: str = Field(
        default="127.0.0.1:50051", json_schema_extra={"expected": "host:port"}
    )
    http_address: str = Field(default="127.0.0.1:3000", json_schema_extra={"expected": "host:port"})
    key_prefix: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9:_.{}-]{0,64}$",
        json_schema_extra={"expected": "up to 64 letters, digits and :_.{}-"},
    )
    dispatcher_id: str = Field(  # empty: host name and gRPC port; see `identity`
        default="",
        pattern=r"^[A-Za-z0-9:_.-]{0,128}$",
        json_schema_extra={"expected": "up to 128 letters, digits and :_.-"},
    )
    pipelines: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(), json_schema_extra={"expected": f"paths separated by {os.pathsep!r}"}
    )
    fallback: bool = True  # while Redis is down, run new tasks synchronously
    fallback_max: int = Field(default=64, ge=1, le=10_000)  # tasks that run so at once
    data_dir: Path = Path("data")  # where what must outlive the process is kept
    log_format: Literal["auto", "json", "console"] = "auto"  # auto: console on a terminal

    result_ttl_s: int = Field(
        default=86_400, ge=1, le=366 * 86_400
    )  # a finished task is kept this long
    results_max: int = Field(default=1_000_000, ge=1, le=100_000_000)  # finished tasks kept at most
    queue_max: int = Field(default=1_000_000, ge=1, le=100_000_000)  # live tasks before QUEUE_FULL
    payload_max_bytes: int = Field(
        default=1_048_576, ge=1_024, le=4_194_304
    )  # of one input or output
    intake_max_bytes: int = Field(
        default=67_108_864, ge=16_777_216, le=17_179_869_184
    )  # of requests that are not answered
    watchers_max: int = Field(default=10_000, ge=1, le=1_000_000)  # watches and waits at once
    peer_streams_max: int = Field(default=2_000, ge=1, le=1_000_000)  # those of one host
    sessions_max: int = Field(default=5_000, ge=1, le=100_000)  # connected workers
    grace_s: float = Field(default=30.0, ge=0, le=3_600, allow_inf_nan=False)  # to drain in
    heartbeat_interval_s: float = Field(default=5.0, ge=0.05, le=60, allow_inf_nan=False)
    silence_limit_s: float = Field(
        default=15.0, ge=0.1, le=600, allow_inf_nan=False
    )  # length of a lease

    @field_validator("grpc_address", "http_address")
    @classmethod
    def _address(cls, value: str) -> str:
        split_address(value)
        return value

    @field_validator("pipelines", mode="before")
    @classmethod
    def _paths(cls, value: object) -> object:
        return value.split(os.pathsep) if isinstance(value, str) else value

    @field_validator("silence_limit_s")
    @classmethod
    def _two_heartbeats(cls, value: float, info: ValidationInfo) -> float:
        if value < 2 * info.data.get("heartbeat_interval_s", 0):
            raise ValueError("below two heartbeats")
        return value

    @property
    def identity(self) -> str:
        """Id of this dispatcher: as set, else host name and gRPC port, else process id."""
        port = split_address(self.grpc_address)[1]
        return self.dispatcher_id or f"{socket.gethostname()}:{port or f'p{os.getpid()}'}"


def load_settings() -> Settings:
    """Read the environment; warn on standard error of unknown names.

    Raises:
        SystemExit: With 2, after one line for each bad value: name, value and what is expected.
            The value of a secret is not shown.
    """
    for name, nearest in unknown_settings(os.environ):
        sys.stderr.write(f"warning: unknown setting {name}; did you mean {nearest}?\n")
    try:
        return Settings()
    except ValidationError as error:
        for detail in error.errors():
            sys.stderr.write(f"error: {_complaint(detail['loc'], detail['input'])}\n")
        raise SystemExit(2) from None  # the chain would hold the values


def unknown_settings(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """List variables that look like ours and are not, each with the nearest name that is."""
    known = [environment_name(field) for field in Settings.model_fields]
    near = [*known, *_NEIGHBOURS]
    return [
        (name, difflib.get_close_matches(name, near, n=1, cutoff=0)[0])
        for name in sorted(environ)
        if name.startswith(_PREFIX) and name not in known and not _FOREIGN.fullmatch(name)
    ]


def expected_value(field: str) -> str:
    """Say what a field takes, for example `an integer, 1 to 1000`."""
    info = Settings.model_fields[field]
    named = _extra(info).get("expected")
    if named:
        return str(named)
    if get_origin(info.annotation) is Literal:
        return "one of " + ", ".join(get_args(info.annotation))
    return _KINDS[info.annotation] + _range(info)


_KINDS: Final[dict[Any, str]] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    Path: "a path",
}


def _range(info: FieldInfo) -> str:
    lowest = [item.ge for item in info.metadata if hasattr(item, "ge")]
    highest = [item.le for item in info.metadata if hasattr(item, "le")]
    return f", {lowest[0]} to {highest[0]}" if lowest and highest else ""


def _complaint(location: tuple[int | str, ...], value: object) -> str:
    field = next(
        field for field in Settings.model_fields if location[0] in {field, environment_name(field)}
    )
    shown = "(not shown)" if _extra(Settings.model_fields[field]).get("secret") else repr(value)
    words = expected_value(field)
    if field == "silence_limit_s":
        words += f", at least two {environment_name('heartbeat_interval_s')}"
    return f"{environment_name(field)}: {shown[:_SHOWN_MAX]} is not {words}"


def _extra(info: FieldInfo) -> dict[str, Any]:
    return info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
