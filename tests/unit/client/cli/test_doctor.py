"""`stepstream doctor`: what it looks at, how it judges, and that it works when nothing runs."""

import json
import os
import resource
import socket
from collections.abc import Iterator

import pytest

import stepstream
from stepstream.cli.doctor.dispatcher import check_dispatcher, judge_sdks, judge_workers
from stepstream.cli.doctor.finding import Finding, State
from stepstream.cli.doctor.host import (
    judge_directory,
    judge_engine,
    judge_files,
    judge_parts,
    judge_python,
)
from stepstream.cli.doctor.listeners import owner_of
from stepstream.cli.doctor.redis_server import RedisFacts, check_redis, judge_redis
from stepstream.cli.probe import free_address
from stepstream.cli.services import ask
from stepstream.cli.stack import WORKER
from stepstream.types import WorkerInfo
from tests.unit.client.operator_stub import make_worker


@pytest.fixture
def alone(monkeypatch) -> None:
    """Addresses where nobody listens."""
    for name in ("STEPSTREAM_GRPC_ADDRESS", "STEPSTREAM_HTTP_ADDRESS"):
        monkeypatch.setenv(name, free_address())
    monkeypatch.setenv("REDIS_URL", f"redis://{free_address()}")


def by_name(findings) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


# --- the command ---------------------------------------------------------------------------------


def test_it_is_of_use_when_nothing_runs(run, monkeypatch, alone):
    monkeypatch.setenv("STEPSTREAM_ADDRESS", free_address())

    result = run("doctor", "--json")
    found = {one["name"]: one for one in json.loads(result.stdout)}

    assert result.exit_code == 1
    assert {name for name, one in found.items() if one["state"] == "bad"} == {"redis"}
    assert "stepstream start --embedded-redis" in found["redis"]["advice"]
    assert found["dispatcher"]["state"] == "warn"
    assert found["gRPC port"]["found"].endswith("is free")
    assert all(one["advice"] for one in found.values() if one["state"] != "ok")


def test_without_redis_on_purpose_nothing_is_bad(run, monkeypatch, alone):
    monkeypatch.setenv("USE_PARALLEL_PROCESSING", "false")
    monkeypatch.setenv("STEPSTREAM_ADDRESS", free_address())

    result = run("doctor")

    assert result.exit_code == 0, result.stdout
    assert "redis\tok\tnot needed" in result.stdout


def test_a_real_redis_is_fine(run, monkeypatch, alone, redis_url, stub):
    monkeypatch.setenv("REDIS_URL", redis_url)
    stub.workers[0] = [make_worker()]
    stub.stats.workers["worker-0"].is_running = True

    result = run("doctor", "--json")
    found = {one["name"]: one for one in json.loads(result.stdout)}

    assert found["redis"]["state"] == "ok"
    assert found["redis latency"]["found"].startswith("PING p50")
    assert found["workers"]["found"] == "1 connected: worker-0"
    assert found["worker versions"]["state"] == "ok"


def test_a_bad_setting_is_a_finding(run, monkeypatch, alone):
    monkeypatch.setenv("WORKER_COUNT", "many")

    result = run("doctor")

    assert result.exit_code == 1
    assert "settings\tbad\t" in result.stdout


@pytest.mark.parametrize("columns", [80, 120])
def test_on_a_terminal_it_fits_and_counts(on_terminal, alone, columns):
    terminal = on_terminal("doctor", columns=columns)

    assert terminal.end() == 1
    assert "1 bad" in terminal.text
    assert max(map(len, terminal.text.splitlines())) <= columns


# --- the judgements ------------------------------------------------------------------------------


def facts(**given) -> RedisFacts:
    return RedisFacts(
        info={
            "redis_version": "7.2.4",
            "role": "master",
            "used_memory": 2**20,
            **given.pop("info", {}),
        },
        config={
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory": "0",
            "maxmemory-policy": "noeviction",
            **given.pop("config", {}),
        },
        latency_ms=given.get("latency_ms", [0.1] * 100),
        skew_s=given.get("skew_s", 0.0),
    )


def test_a_good_redis_is_all_fine():
    assert {one.state for one in judge_redis("redis://h", facts())} == {State.OK}


@pytest.mark.parametrize(
    ("given", "name", "state"),
    [
        ({"info": {"redis_version": "6.2.14"}}, "redis", State.BAD),
        ({"info": {"redis_version": "7.2.4", "valkey_version": "7.1.0"}}, "redis", State.BAD),
        ({"info": {"redis_version": "7.2.4", "valkey_version": "9.1.2"}}, "redis", State.OK),
        ({"info": {"redis_version": "strange"}}, "redis", State.BAD),
        ({"info": {"role": "slave"}}, "redis role", State.BAD),
        ({"config": {"appendonly": "no"}}, "redis durability", State.WARN),
        ({"config": {"appendfsync": "no"}}, "redis durability", State.WARN),
        ({"config": {"maxmemory-policy": "allkeys-lru"}}, "redis eviction", State.BAD),
        ({"config": {"maxmemory": str(2**20)}}, "redis memory", State.WARN),
        ({"latency_ms": [0.1] * 98 + [50.0] * 2}, "redis latency", State.WARN),
        ({"skew_s": -5.0}, "redis clock", State.WARN),
    ],
)
def test_each_trouble_of_redis_is_judged(given, name, state):
    finding = by_name(judge_redis("redis://h", facts(**given)))[name]

    assert finding.state is state
    assert bool(finding.advice) is (state is not State.OK)


def test_a_redis_that_forbids_config_is_a_warning():
    shy = RedisFacts(info={"redis_version": "7.2.4"}, config={}, latency_ms=[1.0], skew_s=0.0)

    assert by_name(judge_redis("redis://h", shy))["redis config"].state is State.WARN


@pytest.mark.parametrize(("needed", "state"), [(True, State.BAD), (False, State.WARN)])
def test_no_redis_is_bad_only_where_it_is_needed(needed, state):
    (finding,) = check_redis(f"redis://u:secret@{free_address()}", needed=needed)

    assert finding.state is state
    assert "secret" not in finding.found


def test_the_host_is_judged(tmp_path):
    file = tmp_path / "file"
    file.touch()

    assert judge_python((3, 10, 2)).state is State.BAD
    assert judge_python((3, 11, 0)).state is State.OK
    assert judge_files(256).state is State.WARN
    assert judge_files(resource.RLIM_INFINITY).state is State.OK
    assert judge_parts("worker", ["opencc"]).advice == (
        "to run it here: pip install 'stepstream[worker]'"
    )
    assert judge_directory(tmp_path / "new" / "deep").state is State.OK
    assert judge_directory(file / "below").state is State.BAD


def test_nobody_works():
    assert judge_workers({"w": False}).state is State.WARN


@pytest.mark.parametrize(
    ("sdk", "state"),
    [
        (f"stepstream-python/{stepstream.__version__}", State.OK),
        ("stepstream-python/0.0.9", State.WARN),
        ("stepstream-go/3.1.0", State.OK),
        ("", State.OK),
    ],
)
def test_a_worker_of_another_version_is_a_warning(sdk, state):
    worker = WorkerInfo(
        name="w",
        instance_id="i",
        dispatcher_id="d",
        queues=[],
        step_types=[],
        max_in_flight=1,
        in_flight=0,
        processed=0,
        failed=0,
        last_seen_time=None,
        sdk=sdk,
        draining=False,
    )

    assert judge_sdks([worker], stepstream.__version__).state is state


@pytest.fixture
def stranger() -> Iterator[str]:
    """An address where somebody else listens, who says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_port_that_somebody_else_has_is_bad_and_names_him(stranger):
    findings = by_name(check_dispatcher(stranger, free_address(), free_address()))

    assert findings["gRPC port"].state is State.BAD
    assert f"pid {os.getpid()}" in findings["gRPC port"].found


def test_nobody_owns_a_free_port():
    assert owner_of(int(free_address().rpartition(":")[2])) == ""


def test_a_worker_that_is_asked_what_it_does_not_know_starts_nothing():
    reply = ask(WORKER, "--no-such-question")

    assert (reply.status, reply.answer) == (2, None)


def test_engines_are_judged_by_what_they_say():
    usable = judge_engine({"name": "opencc", "available": True, "detail": "Chinese variants"})
    idle = judge_engine({"name": "llm", "available": False, "detail": "no key", "advice": "set it"})

    assert (usable.name, usable.state, usable.found) == ("engine opencc", "ok", "Chinese variants")
    assert (idle.state, idle.found, idle.advice) == ("warn", "no key", "set it")
