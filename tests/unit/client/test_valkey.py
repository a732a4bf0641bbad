import asyncio
import os
import signal
import socket
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from stepstream.cli.supervisor import Supervisor
from stepstream.cli.valkey import (
    EmbeddedValkey,
    EmbeddedValkeyError,
    find_allocator,
    find_server,
)
from tests.support.processes import ended_within

FAST_FAILURE_S = 0.05


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def connect(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, decode_responses=True, single_connection_client=True)


def test_it_keeps_what_was_written_across_a_stop(tmp_path: Path):
    with EmbeddedValkey(tmp_path / "data") as first, connect(first.url) as client:
        client.set("word", "kept")

    with EmbeddedValkey(tmp_path / "data") as second, connect(second.url) as client:
        assert client.get("word") == "kept"


def test_it_is_durable_and_never_evicts(tmp_path: Path):
    with EmbeddedValkey(tmp_path) as server, connect(server.url) as client:
        settings = client.config_get(
            "appendonly", "appendfsync", "maxmemory-policy", "save", "port"
        )

    assert settings == {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "save": "",
        "port": "0",
    }


def test_a_tcp_port_on_loopback_serves_the_same_data(tmp_path: Path):
    port = free_port()

    with EmbeddedValkey(tmp_path, tcp_port=port) as server:
        with connect(server.url) as client:
            client.set("word", "same")
        with connect(f"redis://127.0.0.1:{port}") as client:
            assert client.get("word") == "same"


def test_a_long_data_directory_does_not_lengthen_the_socket_path(tmp_path: Path):
    deep = tmp_path.joinpath(*["long" * 10] * 5)

    with EmbeddedValkey(deep) as server:
        assert len(os.fsencode(server.socket_path)) < 104
        assert server.answers()


def test_a_long_temporary_directory_is_left_for_a_short_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    deep = tmp_path.joinpath(*["long" * 10] * 3)
    deep.mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(deep))

    with EmbeddedValkey(tmp_path / "data") as server:
        assert server.answers()


def test_stop_ends_the_process_and_removes_the_socket_only(tmp_path: Path):
    server = EmbeddedValkey(tmp_path / "data")
    server.start()
    process, run_dir = server.process, server.socket_path.parent

    server.stop()

    assert process is not None
    assert process.returncode == 0
    assert not run_dir.exists()
    assert (tmp_path / "data" / "appendonlydir").is_dir()


def test_stop_twice_is_quiet(tmp_path: Path):
    server = EmbeddedValkey(tmp_path)
    server.start()

    server.stop()
    server.stop()

    assert server.process is None


def test_a_server_that_ignores_the_request_is_killed(tmp_path: Path):
    server = EmbeddedValkey(tmp_path)
    server.start()
    process = server.process
    assert process is not None
    process.send_signal(signal.SIGSTOP)

    server.stop(grace_s=0.1)

    assert process.returncode == -signal.SIGKILL


def test_a_port_in_use_is_an_error_with_the_reason(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = EmbeddedValkey(tmp_path, tcp_port=taken.getsockname()[1])

        with pytest.raises(EmbeddedValkeyError, match="in use"):
            server.start()

    assert server.process is None


def test_one_data_directory_serves_one_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stepstream.cli.valkey._LOCK_TIMEOUT_S", FAST_FAILURE_S)

    with (
        EmbeddedValkey(tmp_path),
        pytest.raises(EmbeddedValkeyError, match="in use by another"),
    ):
        EmbeddedValkey(tmp_path).start()


def test_the_url_needs_a_running_server(tmp_path: Path):
    with pytest.raises(EmbeddedValkeyError, match="neither started nor reserved"):
        _ = EmbeddedValkey(tmp_path).url


def test_without_any_server_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    monkeypatch.setenv("PATH", "")

    with pytest.raises(EmbeddedValkeyError, match=r"stepstream\[embedded\]"):
        find_server()


def test_a_server_on_the_path_replaces_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "redis-server").symlink_to(find_server())
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert find_server() == tmp_path / "redis-server"


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="the allocator is Linux's alone")


@needs_linux
def test_the_wheels_server_allocates_with_mimalloc(tmp_path: Path):
    with EmbeddedValkey(tmp_path) as server:
        assert server.process is not None
        assert is_mapped(server.process.pid, "libmimalloc")


def test_a_server_of_the_systems_keeps_its_allocator(tmp_path: Path):
    assert find_allocator(tmp_path / "redis-server") is None


@needs_linux
def test_without_the_allocators_wheel_the_server_runs_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def not_installed(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.distribution", not_installed)

    with EmbeddedValkey(tmp_path) as server, connect(server.url) as client:
        assert client.ping()
        assert server.process is not None
        assert not is_mapped(server.process.pid, "libmimalloc")


def is_mapped(pid: int, library: str) -> bool:
    return library in Path(f"/proc/{pid}/maps").read_text()


ORPHAN = """
import sys
from pathlib import Path
from stepstream.cli.valkey import EmbeddedValkey
server = EmbeddedValkey(Path(sys.argv[1]))
server.start()
print(server.process.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="the kernel's parent-death signal is Linux only"
)
def test_the_server_ends_when_its_parent_is_killed(tmp_path: Path):
    with subprocess.Popen(
        [sys.executable, "-c", ORPHAN, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout is not None
        server_fd = os.pidfd_open(int(parent.stdout.readline()))

        parent.kill()

        assert ended_within(server_fd, 10)
    with EmbeddedValkey(tmp_path) as heir:
        assert heir.answers()


async def test_a_supervisor_starts_it_again_on_the_same_socket(tmp_path: Path):
    server = EmbeddedValkey(tmp_path)

    with server.reserved() as spec:
        supervisor = Supervisor([spec], emit=lambda _name, _line: None)
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(supervisor.serve())
            await supervisor.ready.wait()
            assert spec.env == server.env
            write_and_kill(server, supervisor.pid("valkey"))
            await asyncio.to_thread(wait_until_it_answers, server)
            with connect(server.url) as client:
                assert client.get("word") == "kept"
            supervisor.request_stop()

    assert serving.result() == 0


def write_and_kill(server: EmbeddedValkey, pid: int | None) -> None:
    assert pid is not None
    with connect(server.url) as client:
        client.config_set("appendfsync", "always")
        client.set("word", "kept")
    os.kill(pid, signal.SIGKILL)


def wait_until_it_answers(server: EmbeddedValkey) -> None:
    connect_again = Retry(ConstantBackoff(0.01), retries=1_000)
    with redis.Redis.from_url(server.url, retry=connect_again) as client:
        client.ping()
