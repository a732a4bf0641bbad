"""What a worker reads from the environment."""

import pytest

from stepstream.settings import SettingsError, read
from stepstream.worker.settings import WorkerSettings, default_name


def test_defaults() -> None:
    settings = read(WorkerSettings, {})

    assert settings.addresses == ("127.0.0.1:50051",)
    assert (settings.name, settings.slots, settings.grace_s) == ("", 3, 30)
    assert (settings.takes_ahead, settings.debug) == (True, False)


def test_reads_each_setting() -> None:
    settings = read(
        WorkerSettings,
        {
            "STEPSTREAM_ADDRESS": "a:1, b:2",
            "STEPSTREAM_WORKER_NAME": "worker-0",
            "MAX_CONCURRENT_TASKS": "1000",
            "STEPSTREAM_WORKER_AHEAD": "false",
            "STEPSTREAM_WORKER_GRACE": "0.5",
            "DEBUG": "true",
        },
    )

    assert settings.addresses == ("a:1", "b:2")
    assert (settings.name, settings.slots, settings.grace_s) == ("worker-0", 1000, 0.5)
    assert (settings.takes_ahead, settings.debug) == (False, True)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MAX_CONCURRENT_TASKS", "0", "an integer, 1 to 1000"),
        ("MAX_CONCURRENT_TASKS", "many", "an integer, 1 to 1000"),
        ("MAX_CONCURRENT_TASKS", "1001", "an integer, 1 to 1000"),
        ("STEPSTREAM_WORKER_NAME", "two words", "1 to 64 characters of"),
        ("STEPSTREAM_WORKER_GRACE", "-1", "a number of seconds, 0 to 3600"),
        ("STEPSTREAM_WORKER_GRACE", "nan", "a number of seconds, 0 to 3600"),
        ("STEPSTREAM_ADDRESS", "nowhere", "host:port"),
        ("DEBUG", "perhaps", "true or false"),
    ],
)
def test_a_bad_value_is_one_line(name: str, value: str, message: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name}.*{message}") as caught:
        read(WorkerSettings, {name: value})

    assert "\n" not in str(caught.value)


def test_the_default_name_is_one() -> None:
    assert read(WorkerSettings, {"STEPSTREAM_WORKER_NAME": default_name()}).name == default_name()
