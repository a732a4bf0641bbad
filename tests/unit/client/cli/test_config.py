"""`stepstream config`."""

import json

import pytest


@pytest.fixture
def settings(run, monkeypatch):
    """Reads the settings as `config --json` shows them, by name."""

    def ask(**environment: str) -> dict[str, dict[str, object]]:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        result = run("config", "--json")
        assert result.exit_code == 0, result.stderr
        return {one["name"]: one for one in json.loads(result.stdout)}

    return ask


def test_each_setting_has_value_source_range_and_readers(settings):
    found = settings(WORKER_COUNT="5")

    assert found["WORKER_COUNT"] == {
        "name": "WORKER_COUNT",
        "value": "5",
        "source": "environment",
        "takes": "an integer, 0 to 256",
        "default": "2",
        "read_by": ["dispatcher", "start"],
    }
    assert found["STEPSTREAM_GRACE"]["source"] == "default"
    assert found["STEPSTREAM_ADDRESS"]["read_by"] == ["worker", "client"]
    assert found["EDITOR"]["read_by"] == ["review"]


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@localhost:6379/0",
        "rediss://user:hunter2@localhost",
        "redis://user:p@ss/hunter2@localhost",
        "redis://localhost?db=1&password=hunter2",
        "unix:///run/redis.sock?password=hunter2&db=1",
    ],
)
def test_no_password_is_shown(settings, url):
    shown = settings(REDIS_URL=url)["REDIS_URL"]["value"]

    assert "hunter2" not in shown
    assert "***" in shown


@pytest.mark.parametrize("command", ["config", "doctor"])
def test_no_command_shows_a_password(run, monkeypatch, command):
    monkeypatch.setenv("REDIS_URL", "redis://user:hunter2@localhost:1")

    result = run(command)

    assert "hunter2" not in result.stdout + result.stderr
    assert "user:***@localhost" in result.stdout


def test_in_a_pipe_it_is_a_line_each(run, monkeypatch):
    monkeypatch.setenv("DEBUG", "yes")

    lines = [line.split("\t") for line in run("config").stdout.splitlines()]

    assert ["DEBUG", "true", "environment", "true or false", "dispatcher,worker"] in lines


@pytest.mark.parametrize(
    ("name", "value"),
    [("WORKER_COUNT", "-1"), ("REDIS_URL", "http://secret"), ("STEPSTREAM_WORKER_GRACE", "nan")],
)
def test_a_bad_value_is_exit_2_and_names_the_setting(run, monkeypatch, name, value):
    monkeypatch.setenv(name, value)

    result = run("config")

    assert result.exit_code == 2
    assert f"error: {name}: " in result.stderr
    assert "secret" not in result.stderr


def test_a_mistyped_name_is_warned_of(run, monkeypatch):
    monkeypatch.setenv("STEPSTREAM_GRACEE", "1")

    result = run("config")

    assert result.exit_code == 0
    assert "STEPSTREAM_GRACEE; did you mean STEPSTREAM_GRACE?" in result.stderr


@pytest.mark.parametrize("columns", [80, 120])
def test_on_a_terminal_it_fits(on_terminal, columns):
    terminal = on_terminal("config", columns=columns, NO_COLOR="1")

    assert terminal.end() == 0
    assert "USE_PARALLEL_PROCESSING" in terminal.text
    assert max(map(len, terminal.text.splitlines())) <= columns
    assert "\x1b[3" not in terminal.shown
