"""Settings: names, defaults, and what a wrong value says."""

from pathlib import Path

import pytest

from stepstream_dispatcher.settings import (
    Settings,
    environment_name,
    load_settings,
    unknown_settings,
)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch):
    for field in Settings.model_fields:
        monkeypatch.delenv(environment_name(field), raising=False)


def test_defaults_are_the_documented_ones():
    settings = load_settings()

    assert settings.use_parallel_processing
    assert settings.max_concurrent_tasks == 3
    assert settings.worker_count == 2
    assert settings.processing_timeout_ms == 300_000
    assert settings.redis_url == "redis://localhost:6379"
    assert settings.enable_metrics
    assert not settings.debug
    assert settings.grpc_address == "127.0.0.1:50051"
    assert settings.http_address == "127.0.0.1:3000"
    assert settings.heartbeat_interval_s == 5
    assert settings.silence_limit_s == 15


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("processing_timeout_ms", "PROCESSING_TIMEOUT"),
        ("redis_url", "REDIS_URL"),
        ("result_ttl_s", "STEPSTREAM_RESULT_TTL"),
        ("results_max", "STEPSTREAM_RESULTS_MAX"),
        ("payload_max_bytes", "STEPSTREAM_PAYLOAD_MAX"),
        ("key_prefix", "STEPSTREAM_KEY_PREFIX"),
    ],
)
def test_variable_is_the_field_without_its_unit(field: str, name: str):
    assert environment_name(field) == name


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("USE_PARALLEL_PROCESSING", "false", "use_parallel_processing", False),
        ("MAX_CONCURRENT_TASKS", "7", "max_concurrent_tasks", 7),
        ("PROCESSING_TIMEOUT", "1500", "processing_timeout_ms", 1500),
        ("REDIS_URL", "unix:///run/redis.sock", "redis_url", "unix:///run/redis.sock"),
        ("STEPSTREAM_GRPC_ADDRESS", "[::1]:0", "grpc_address", "[::1]:0"),
        (
            "STEPSTREAM_PIPELINES",
            "a.toml:b/c.toml",
            "pipelines",
            (Path("a.toml"), Path("b/c.toml")),
        ),
        ("STEPSTREAM_LOG_FORMAT", "json", "log_format", "json"),
        ("STEPSTREAM_GRACE", "0.5", "grace_s", 0.5),
        ("MAX_CONCURRENT_TASKS", "", "max_concurrent_tasks", 3),
    ],
)
def test_variable_is_read(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, field: str, expected: object
):
    monkeypatch.setenv(name, value)

    assert getattr(load_settings(), field) == expected


def test_keyword_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STEPSTREAM_GRPC_ADDRESS", "h:1")

    assert Settings(grpc_address="h:2").grpc_address == "h:2"


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("MAX_CONCURRENT_TASKS", "abc", "'abc' is not an integer, 1 to 1000"),
        ("MAX_CONCURRENT_TASKS", "0", "'0' is not an integer, 1 to 1000"),
        ("WORKER_COUNT", "257", "'257' is not an integer, 0 to 256"),
        ("PROCESSING_TIMEOUT", "1.5", "'1.5' is not an integer, 1 to 86400000"),
        ("DEBUG", "maybe", "'maybe' is not true or false"),
        (
            "REDIS_URL",
            "http://user:hunter2@host",
            "(not shown) is not a redis://, rediss:// or unix:// URL",
        ),
        ("STEPSTREAM_HTTP_ADDRESS", "3000", "'3000' is not host:port"),
        ("STEPSTREAM_HTTP_ADDRESS", "h:70000", "'h:70000' is not host:port"),
        ("STEPSTREAM_LOG_FORMAT", "xml", "'xml' is not one of auto, json, console"),
        ("STEPSTREAM_GRACE", "nan", "'nan' is not a number, 0 to 3600"),
        (
            "STEPSTREAM_KEY_PREFIX",
            "a b",
            "'a b' is not up to 64 letters, digits and :_.{}-",
        ),
        (
            "STEPSTREAM_SILENCE_LIMIT",
            "9",
            "'9' is not a number, 0.1 to 600, at least two STEPSTREAM_HEARTBEAT_INTERVAL",
        ),
    ],
)
def test_bad_value_ends_the_process_with_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
    line: str,
):
    monkeypatch.setenv(name, value)

    with pytest.raises(SystemExit) as ended:
        load_settings()

    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {name}: {line}\n"


def test_long_bad_value_is_cut(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("WORKER_COUNT", "x" * 10_000)

    with pytest.raises(SystemExit):
        load_settings()

    assert len(capsys.readouterr().err) < 120


def test_secret_is_in_no_representation(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REDIS_URL", "redis://user:hunter2@host")

    assert "hunter2" not in repr(load_settings())


def test_unknown_name_is_warned_of_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("STEPSTREAM_GRPC_ADRESS", "h:1")

    load_settings()

    assert capsys.readouterr().err == (
        "warning: unknown setting STEPSTREAM_GRPC_ADRESS; did you mean STEPSTREAM_GRPC_ADDRESS?\n"
    )


def test_names_of_the_other_processes_are_no_mistakes():
    names = ["STEPSTREAM_ADDRESS", "STEPSTREAM_WORKER_NAME", "STEPSTREAM_TEST_ALL", "PATH"]

    assert unknown_settings(dict.fromkeys(names, "x")) == []


@pytest.mark.parametrize(
    ("fields", "ending"),
    [
        ({"dispatcher_id": "d-1"}, "d-1"),
        ({"grpc_address": "0.0.0.0:50052"}, ":50052"),
    ],
)
def test_identity_is_as_set_or_host_and_port(fields: dict[str, str], ending: str):
    assert Settings(**fields).identity.endswith(ending)


def test_identity_without_a_port_holds_the_process():
    assert ":p" in Settings(grpc_address="127.0.0.1:0").identity
