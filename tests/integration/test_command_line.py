"""The command line with the processes that it starts: demo, review afterwards, start."""

import itertools
import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepstream.cli.probe import free_address
from stepstream.settings import child_environment

pytestmark = [pytest.mark.parallel, pytest.mark.timeout(180)]

_LIMIT_S = 60.0
_CLI = (sys.executable, "-m", "stepstream.cli")


def _run(directory: Path, *words: str, text: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*_CLI, *words],
        cwd=directory,
        input=text,
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )


@pytest.mark.slow
def test_the_command_that_the_demo_prints_decides_the_task(tmp_path):
    """Twice on one directory: the second run finds the data of the first."""
    for _ in range(2):
        demo = _run(tmp_path, "demo")
        assert demo.returncode == 0, demo.stdout + demo.stderr
        assert demo.stdout.count(" done  ") >= 5
        printed = re.findall(r"^  (.*review .* --approve .*)$", demo.stdout, re.MULTILINE)
        assert printed

        command = shlex.split(printed[0])
        decided = _run(tmp_path, *command[command.index("review") :])

        assert decided.returncode == 0, decided.stderr
        assert decided.stdout.endswith("the task is now done\n")
        again = _run(tmp_path, *command[command.index("review") :])
        assert (again.returncode, again.stderr.count("\n")) == (1, 1)

    waiting = _run(tmp_path, "review", "--json", "--data-dir", ".stepstream/demo")
    assert json.loads(waiting.stdout) == []


@pytest.fixture
def started(tmp_path) -> Iterator["tuple[subprocess.Popen[str], str]"]:
    """`stepstream start --embedded-redis`, ready; with its gRPC address."""
    address = free_address()
    environment = {
        "STEPSTREAM_GRPC_ADDRESS": address,
        "STEPSTREAM_HTTP_ADDRESS": free_address(),
        "WORKER_COUNT": "2",
    }
    process = subprocess.Popen(
        [*_CLI, "start", "--embedded-redis"],
        cwd=tmp_path,
        env=child_environment(environment),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert any("ready: 2 workers with 3 slots each" in line for line in process.stdout)
    yield process, address
    process.kill()
    process.wait()
    process.stdout.close()


def test_start_serves_until_it_is_told_to_stop(started, tmp_path):
    process, address = started
    (tmp_path / "in.txt").write_text("鼠标和打印机", encoding="utf-8")

    pair = ("--from", "zh-CN", "--to", "zh-TW", "--address", address)
    waited = _run(tmp_path, "submit", *pair, "--file", "in.txt", "--wait")
    tasks = json.loads(_run(tmp_path, "list", "--json", "--address", address).stdout)
    watched = _run(tmp_path, "watch", tasks[0]["task_id"], "--address", address)
    stats = json.loads(_run(tmp_path, "stats", "--json", "--address", address).stdout)
    process.send_signal(signal.SIGTERM)

    assert (waited.returncode, waited.stdout) == (0, "滑鼠和印表機\n"), waited.stderr
    assert [line.split()[1] for line in watched.stdout.splitlines()[1:]][-1] == "done"
    assert sorted(stats["workers"]) == ["worker-0", "worker-1"]
    assert process.wait(_LIMIT_S) == 0


def test_a_taken_address_is_said_before_anything_is_started(started, tmp_path):
    _, address = started

    result = subprocess.run(
        [*_CLI, "start", "--embedded-redis", "--data-dir", "other"],
        cwd=tmp_path,
        env=child_environment({"STEPSTREAM_GRPC_ADDRESS": address}),
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )

    assert result.returncode == 1
    assert f"somebody listens at {address} already" in result.stderr
    assert not (tmp_path / "other").exists()


def test_synchronous_mode_needs_no_redis(tmp_path):
    """One worker of one slot; afterwards the data can be read at rest."""
    address = free_address()
    environment = {
        "USE_PARALLEL_PROCESSING": "false",
        "STEPSTREAM_GRPC_ADDRESS": address,
        "STEPSTREAM_HTTP_ADDRESS": free_address(),
        "REDIS_URL": f"redis://{free_address()}",
        "WORKER_COUNT": "4",
    }
    process = subprocess.Popen(
        [*_CLI, "start"],
        cwd=tmp_path,
        env=child_environment(environment),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = list(itertools.takewhile(lambda line: "Ctrl-C stops it" not in line, process.stdout))
        pair = ("--from", "zh-CN", "--to", "zh-TW", "--address", address)
        waited = _run(tmp_path, "submit", *pair, "鼠标和打印机", "--wait")
        stats = json.loads(_run(tmp_path, "stats", "--json", "--address", address).stdout)
        process.send_signal(signal.SIGTERM)
        code = process.wait(_LIMIT_S)
        process.stdout.close()
    finally:
        process.kill()
        process.wait()
    at_rest = json.loads(_run(tmp_path, "list", "--json", "--data-dir", ".stepstream/data").stdout)

    assert any("ready: synchronous mode" in line for line in said)
    assert any("WORKER_COUNT=4 counts as 1" in line for line in said)
    assert (waited.returncode, waited.stdout) == (0, "滑鼠和印表機\n"), waited.stderr
    assert [worker["max_in_flight"] for worker in stats["workers"].values()] == [1]
    assert stats["execution_mode"] == "SYNCHRONOUS"
    assert code == 0
    assert [task["state"] for task in at_rest] == ["done"]
