"""The composition root: settings in, a running dispatcher out, and its orderly end."""

from __future__ import annotations

import asyncio
import gc
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import structlog

from stepstream.errors import StoreUnavailable
from stepstream.telemetry import open_telemetry
from stepstream_dispatcher import _telemetry
from stepstream_dispatcher.addresses import split_address
from stepstream_dispatcher.core.pipeline import Pipeline, PipelineError
from stepstream_dispatcher.edge.api import api_routes
from stepstream_dispatcher.edge.app import build_app
from stepstream_dispatcher.edge.bodies import IntakeLimits
from stepstream_dispatcher.edge.serve import open_listener, serve_http
from stepstream_dispatcher.engine.engine import Engine, EngineOptions
from stepstream_dispatcher.engine.metrics import run_metrics
from stepstream_dispatcher.engine.supervise import supervise
from stepstream_dispatcher.engine.switch import SwitchStore
from stepstream_dispatcher.engine.traces import SpanSink
from stepstream_dispatcher.pipelines import read_pipelines
from stepstream_dispatcher.rpc.dispatcher_service import DispatcherService
from stepstream_dispatcher.rpc.intake import CallLimits
from stepstream_dispatcher.rpc.json_calls import json_calls, json_schemas
from stepstream_dispatcher.rpc.operator_service import OperatorService
from stepstream_dispatcher.rpc.server import RpcServer
from stepstream_dispatcher.rpc.worker_service import WorkerService
from stepstream_dispatcher.settings import Settings
from stepstream_dispatcher.store.leftovers import leftover_journals
from stepstream_dispatcher.store.local import LocalStore
from stepstream_dispatcher.store.local_database import LocalDatabase
from stepstream_dispatcher.store.port import Store, StoreRefused
from stepstream_dispatcher.store.redis import RedisStore

__all__ = ["options_of", "run", "serve"]

STOP_GRACE_S = 1.0  # of grpc, after our own drain: unary calls still finish
TRACES_LIMIT_S = 0.5  # to read the traces of what was applied last
OPEN_EVERY_S = 0.2  # between two tries to reach Redis at the start
# Containers made since the last look for cycles. Python's 700 are fewer than one round of commits
# has in the air, so that each look finds most of them alive: a seventh of a busy dispatcher's time.
CYCLES_AFTER = 20_000

_log = structlog.get_logger(__name__)


def run(settings: Settings) -> int:
    """Run a dispatcher until SIGTERM or SIGINT; returns the exit code."""
    try:
        pipelines = read_pipelines(settings.pipelines)
        store = make_store(settings)
    except PipelineError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"error: STEPSTREAM_DATA_DIR: {error}\n")
        return 2
    telemetry = open_telemetry(service=_telemetry.SERVICE, instance=settings.identity)
    _look_less_for_cycles()
    try:
        asyncio.run(serve(settings, store, pipelines, spans=telemetry))
    except StoreRefused as error:
        sys.stderr.write(f"error: REDIS_URL: {error}\n")
        return 2
    finally:
        if telemetry is not None:
            telemetry.close()
    return 0


def _look_less_for_cycles() -> None:
    """Leave out what was imported, which stays, and wait until most of a round is through."""
    gc.freeze()
    gc.set_threshold(CYCLES_AFTER, *gc.get_threshold()[1:])


def make_store(settings: Settings) -> Store:
    """Build the store of the settings' mode; opens nothing.

    Raises:
        OSError: The data directory cannot be made.
    """
    if not settings.use_parallel_processing:
        return LocalStore(_database(settings, "tasks"), dispatcher_id=settings.identity)
    redis = RedisStore(
        settings.redis_url, prefix=settings.key_prefix, dispatcher_id=settings.identity
    )
    if not settings.fallback:
        return redis
    database = _database(settings, f"journal-{_file_name(settings.identity)}", now_ms=redis.now_ms)
    for path, tasks in leftover_journals(Path(database.path)).items():
        _log.warning("journal of another dispatcher", path=str(path), tasks=tasks)
    journal = LocalStore(database, dispatcher_id=settings.identity)
    return SwitchStore(redis, journal, running_max=settings.fallback_max)


def _database(
    settings: Settings, name: str, *, now_ms: Callable[[], int] | None = None
) -> LocalDatabase:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    path = settings.data_dir / f"{name}.sqlite"
    return LocalDatabase(path, now_ms=now_ms) if now_ms else LocalDatabase(path)


def _file_name(identity: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", identity)


def options_of(settings: Settings) -> EngineOptions:
    """The engine's slice of the settings."""
    return EngineOptions(
        dispatcher_id=settings.identity,
        namespace=settings.key_prefix,
        timeout_ms=settings.processing_timeout_ms,
        heartbeat_interval_s=settings.heartbeat_interval_s,
        silence_limit_s=settings.silence_limit_s,
        retain_s=settings.result_ttl_s,
        results_max=settings.results_max,
        live_max=settings.queue_max,
        payload_bytes_max=settings.payload_max_bytes,
        watchers_max=settings.watchers_max,
        sessions_max=settings.sessions_max,
        synchronous=not settings.use_parallel_processing,
    )


def call_limits_of(settings: Settings) -> CallLimits:
    """The gRPC server's slice of the settings."""
    return CallLimits(
        bytes_in_hand=settings.intake_max_bytes, streams_of_peer=settings.peer_streams_max
    )


def intake_limits_of(settings: Settings) -> IntakeLimits:
    """The HTTP edge's slice of the settings.

    JSON takes up to twice the bytes of what it says, when a client writes each letter beyond ASCII
    as an escape; the payload's own limit is held where it is known.
    """
    return IntakeLimits(body_bytes=2 * settings.payload_max_bytes + 65_536)


async def serve(
    settings: Settings,
    store: Store,
    pipelines: list[Pipeline],
    *,
    stop: asyncio.Event | None = None,
    started: Callable[[int, int], None] | None = None,
    spans: SpanSink | None = None,
) -> None:
    """Serve until `stop` (or a signal) is set; then drain.

    Args:
        started: Called with the gRPC and the HTTP port once both listen.
        spans: Where spans go; its maker closes it.
    """
    leave = stop or _stop_on_signals()
    engine = Engine(store=store, pipelines=pipelines, options=options_of(settings), spans=spans)
    dispatcher, operator = DispatcherService(engine), OperatorService(engine)
    rpc = RpcServer(
        dispatcher=dispatcher,
        worker=WorkerService(engine),
        operator=operator,
        limits=call_limits_of(settings),
    )
    listener = open_listener(settings.http_address)
    grpc_port = await _open(engine, rpc, settings, leave)
    if grpc_port is None:
        listener.close()
        return
    http_port = listener.getsockname()[1]
    calls = json_calls(dispatcher, operator, engine.desk)
    routes = api_routes(calls, json_schemas(), intake_limits_of(settings))
    edge = build_app(engine.stats, engine.ready, routes, mode=lambda: engine.home_of("").mode)
    http_stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        loops = group.create_task(engine.run())
        http = group.create_task(serve_http(edge, listener, http_stop))
        metrics = group.create_task(_metrics(engine)) if settings.enable_metrics else None
        await rpc.set_serving(serving=True)
        _announce(settings, grpc_port, http_port, started)
        await leave.wait()
        _log.info("draining", grace_s=settings.grace_s)
        await rpc.drain()
        await engine.drain(grace_s=settings.grace_s)
        await rpc.stop(STOP_GRACE_S)
        http_stop.set()
        await http
        for task in filter(None, (loops, metrics)):
            task.cancel()
    await engine.traces.close(TRACES_LIMIT_S)
    await store.close()
    _log.info("stopped")


async def _open(
    engine: Engine, rpc: RpcServer, settings: Settings, leave: asyncio.Event
) -> int | None:
    """Listen, once the store answers; None when told to leave before."""
    waiting = False
    while not leave.is_set():
        try:
            await engine.open()
        except StoreUnavailable as error:
            if not waiting:
                _log.warning("waiting for redis", error=error.message)
            waiting = True
            await asyncio.sleep(OPEN_EVERY_S)
        else:
            return await rpc.start(settings.grpc_address)
    return None


async def _metrics(engine: Engine) -> None:
    async def printed() -> None:
        await run_metrics(engine.stats, sys.stdout.write)

    await supervise("metrics", printed)


def _announce(
    settings: Settings,
    grpc_port: int,
    http_port: int,
    started: Callable[[int, int], None] | None,
) -> None:
    _log.info(
        "serving",
        dispatcher=settings.identity,
        grpc=f"{split_address(settings.grpc_address)[0]}:{grpc_port}",
        http=f"{split_address(settings.http_address)[0]}:{http_port}",
    )
    if started is not None:
        started(grpc_port, http_port)


def _stop_on_signals() -> asyncio.Event:
    """The first SIGTERM or SIGINT asks to leave; the second ends the process at once."""
    leave = asyncio.Event()
    loop = asyncio.get_running_loop()

    def leave_or_end(number: int) -> None:
        if leave.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        leave.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leave_or_end, number)
    return leave
