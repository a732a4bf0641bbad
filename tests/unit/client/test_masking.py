"""Secrets are recognised by the name of the variable, and inside URLs."""

import pytest

from stepstream.masking import is_secret, masked


@pytest.mark.parametrize(
    "name",
    [
        "LLM_API_KEY",
        "STEPSTREAM_LLM_API_KEY",
        "STEPSTREAM_TOKEN",
        "REDIS_PASSWORD",
        "CLIENT_SECRET",
        "OTEL_EXPORTER_OTLP_HEADERS",
    ],
)
def test_a_secret_is_never_shown(name):
    assert is_secret(name)
    assert masked(name, "sk-123") == "***"
    assert masked(name, "") == ""


@pytest.mark.parametrize("name", ["STEPSTREAM_KEY_PREFIX", "LLM_MAX_TOKENS", "REDIS_URL"])
def test_other_names_are_no_secrets(name):
    assert not is_secret(name)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379", "redis://localhost:6379"),
        ("redis://:pw@h:1/0", "redis://:***@h:1/0"),
        ("redis://u:p@w@h:1", "redis://u:***@h:1"),
        ("redis://u@h:1", "redis://u@h:1"),
        ("redis://h?password=a&db=2", "redis://h?password=***&db=2"),
        ("https://h/v1?api_key=a", "https://h/v1?api_key=***"),
        ("redis://a:1,redis://b:2", "redis://a:1,redis://b:2"),
    ],
)
def test_a_url_is_shown_without_its_password(url, shown):
    assert masked("REDIS_URL", url) == shown
