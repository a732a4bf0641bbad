"""`stepstream start`: what it refuses and says before it starts anything."""

import pytest

from stepstream.cli.probe import free_address
from stepstream.cli.start import choose
from stepstream.settings import ClientSettings, LocalSettings, read


@pytest.fixture(autouse=True)
def synchronous(monkeypatch):
    monkeypatch.setenv("USE_PARALLEL_PROCESSING", "off")


def test_synchronous_mode_refuses_a_redis_of_its_own(run):
    result = run("start", "--embedded-redis")

    assert result.exit_code == 2
    assert result.stderr.startswith("error: synchronous mode has no Redis")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["WORKER_COUNT", "MAX_CONCURRENT_TASKS"])
def test_synchronous_mode_is_one_worker_of_one_slot_and_says_so(monkeypatch, capsys, name):
    monkeypatch.setenv(name, "4")

    chosen = choose(embedded_redis=False)

    assert (chosen.worker_count, chosen.slots) == (1, 1)
    assert f"warning: {name}=4 counts as 1 in synchronous mode" in capsys.readouterr().out


def test_nothing_is_said_when_nothing_was_set(capsys):
    choose(embedded_redis=False)

    assert capsys.readouterr().out == ""


def test_parallel_mode_is_as_it_was_set(monkeypatch):
    monkeypatch.setenv("USE_PARALLEL_PROCESSING", "true")
    monkeypatch.setenv("WORKER_COUNT", "5")

    assert choose(embedded_redis=True) == LocalSettings(worker_count=5)


def test_a_taken_address_is_named(run, monkeypatch, stub):
    """The stub itself listens there."""
    address = read(ClientSettings).address
    monkeypatch.setenv("STEPSTREAM_HTTP_ADDRESS", free_address())
    monkeypatch.setenv("STEPSTREAM_GRPC_ADDRESS", address)

    result = run("start")

    assert result.exit_code == 1
    assert f"somebody listens at {address} already" in result.stderr
