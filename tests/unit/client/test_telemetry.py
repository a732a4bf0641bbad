"""Whether spans are sent: what the environment asks for, and what there is to send them with."""

import subprocess
import sys

import pytest
from structlog.testing import capture_logs

from stepstream.settings import TelemetrySettings, read
from stepstream.telemetry import open_telemetry

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "otlp"}, True),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, False),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "TRUE"}, False),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "false"}, True),
    ],
)
def test_the_environment_decides_whether_spans_are_wanted(environment, wanted):
    assert read(TelemetrySettings, environment).wanted is wanted


@pytest.mark.parametrize(
    "setting",
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "best"),
    ],
)
def test_a_setting_that_cannot_be_used_is_warned_of_and_nothing_is_sent(monkeypatch, setting):
    for name, value in (*ENDPOINT.items(), setting):
        monkeypatch.setenv(name, value)

    with capture_logs() as lines:
        assert open_telemetry(service="s", instance="i") is None

    (line,) = lines
    assert line["log_level"] == "warning"
    assert line["event"].startswith("no traces: ")


def test_without_the_packages_everything_runs_and_one_line_says_so():
    code = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Missing())
import stepstream_dispatcher.app, stepstream_worker.app, stepstream.client
from stepstream.telemetry import open_telemetry
assert open_telemetry(service="s", instance="i") is None
assert not any(name.startswith("opentelemetry") for name in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, text=True, env=ENDPOINT
    )

    assert done.returncode == 0, done.stderr
    assert "install stepstream[telemetry]" in done.stdout
