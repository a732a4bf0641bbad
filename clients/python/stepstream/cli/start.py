"""`stepstream start`: dispatcher and workers on this host, kept running."""

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer
from msgspec.structs import replace

from stepstream.cli.exits import CommandError, Exit
from stepstream.cli.options import check_directory
from stepstream.cli.output import on_terminal
from stepstream.cli.probe import dialable, is_taken
from stepstream.cli.stack import DISPATCHER, WORKER, Stack, embedded_valkey, require
from stepstream.cli.supervisor import ChildSpec, Supervisor, print_line
from stepstream.settings import LocalSettings, describe, read

__all__ = ["choose", "start"]

_GRACE_S = 35.0  # a service gives its own steps 30 s
_DATA_DIR = Path(".stepstream/data")
_ONE = frozenset({"WORKER_COUNT", "MAX_CONCURRENT_TASKS"})  # in synchronous mode


def start(
    embedded_redis: Annotated[
        bool,
        typer.Option(
            "--embedded-redis", help="Run a Valkey of our own instead of using REDIS_URL."
        ),
    ] = False,
    data_dir: Annotated[
        Path,
        typer.Option(
            "--data-dir", metavar="DIR", callback=check_directory, help="Where data is kept."
        ),
    ] = _DATA_DIR,
) -> None:
    """Run a dispatcher and WORKER_COUNT workers, and start again what dies.

    With USE_PARALLEL_PROCESSING=false it is synchronous mode: a dispatcher on a database in the
    data directory, without Redis, and one worker that does one step at a time.

    Settings come from the environment: REDIS_URL, WORKER_COUNT (2), MAX_CONCURRENT_TASKS (3 slots
    for each worker), STEPSTREAM_GRPC_ADDRESS, STEPSTREAM_HTTP_ADDRESS and those of the dispatcher.
    Ctrl-C or SIGTERM stops everything in order; a second one at once.

    Examples:
      stepstream start --embedded-redis
      REDIS_URL=redis://localhost:6379 WORKER_COUNT=4 stepstream start
      USE_PARALLEL_PROCESSING=false stepstream start
    """
    settings = choose(embedded_redis=embedded_redis)
    require(DISPATCHER)
    require(WORKER)
    _check_free(settings)
    with contextlib.ExitStack() as stack:
        specs: list[ChildSpec] = []
        redis_url = settings.redis_url
        if embedded_redis:
            server = embedded_valkey(data_dir)
            specs.append(stack.enter_context(server.reserved()))
            redis_url = server.url
        processes = Stack(
            redis_url=redis_url,
            grpc_address=settings.grpc_address,
            http_address=settings.http_address,
            data_dir=data_dir / "dispatcher",
            worker_count=settings.worker_count,
            slots=settings.slots,
            extra=_log_format(settings),
            parallel=settings.parallel,
        )
        specs += processes.children()
        shown_url = redis_url if embedded_redis else ""
        supervisor = Supervisor(
            specs, grace_s=_GRACE_S, on_ready=lambda: _announce(settings, shown_url)
        )
        code = supervisor.run()
    raise typer.Exit(code)


def choose(*, embedded_redis: bool) -> LocalSettings:
    """The settings; in synchronous mode one worker of one slot, whatever they say.

    Raises:
        CommandError: synchronous mode, and a Redis was asked for.
        SettingsError: one cannot be used.
    """
    settings = read(LocalSettings)
    if settings.parallel:
        return settings
    if embedded_redis:
        words = "synchronous mode has no Redis: leave out --embedded-redis"
        raise CommandError(f"{words}, or set USE_PARALLEL_PROCESSING=true", Exit.USAGE)
    for setting in describe(LocalSettings):
        if setting.name in _ONE and setting.source == "environment" and setting.value != "1":
            words = f"warning: {setting.name}={setting.value} counts as 1 in synchronous mode"
            print_line("stepstream", words)
    return replace(settings, worker_count=1, slots=1)


def _check_free(settings: LocalSettings) -> None:
    """Refuses an address where somebody listens, before anything is started.

    Raises:
        CommandError: the message names the setting.
    """
    for name, address in (
        ("STEPSTREAM_GRPC_ADDRESS", settings.grpc_address),
        ("STEPSTREAM_HTTP_ADDRESS", settings.http_address),
    ):
        if is_taken(address):
            raise CommandError(f"somebody listens at {address} already: stop it or set {name}")


def _log_format(settings: LocalSettings) -> dict[str, str]:
    """On a terminal the services write for people, although their output goes through a pipe."""
    for_people = settings.log_format == "auto" and on_terminal()
    return {"STEPSTREAM_LOG_FORMAT": "console"} if for_people else {}


def _workers_words(settings: LocalSettings) -> str:
    if not settings.parallel:
        return "synchronous mode, one worker with one slot, no Redis"
    return f"{settings.worker_count} workers with {settings.slots} slots each"


def _announce(settings: LocalSettings, embedded_url: str) -> None:
    """Says where everything is."""
    print_line("stepstream", f"ready: {_workers_words(settings)}")
    print_line("stepstream", f"gRPC   {dialable(settings.grpc_address)}")
    print_line("stepstream", f"HTTP   http://{dialable(settings.http_address)}/api/stats")
    if embedded_url:
        path = embedded_url.removeprefix("unix://")
        print_line("stepstream", f"Valkey redis-cli -s {path}")
    print_line("stepstream", "Ctrl-C stops it")
    sys.stdout.flush()
