"""The composition root: settings in, a running dispatcher out, and its orderly end."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable

import structlog

from stepstream.errors import StoreUnavailable
from stepstream_dispatcher.addresses import split_address
from stepstream_dispatcher.core.pipeline import Pipeline, PipelineError
from stepstream_dispatcher.edge.app import build_app
from stepstream_dispatcher.edge.serve import open_listener, serve_http
from stepstream_dispatcher.engine.engine import Engine, EngineOptions
from stepstream_dispatcher.engine.metrics import run_metrics
from stepstream_dispatcher.engine.supervise import supervise
from stepstream_dispatcher.pipelines import read_pipelines
from stepstream_dispatcher.rpc.dispatcher_service import DispatcherService
from stepstream_dispatcher.rpc.operator_service import OperatorService
from stepstream_dispatcher.rpc.server import RpcServer
from stepstream_dispatcher.rpc.worker_service import WorkerService
from stepstream_dispatcher.settings import Settings
from stepstream_dispatcher.store.port import Store, StoreRefused
from stepstream_dispatcher.store.redis import RedisStore

__all__ = ["options_of", "run", "serve"]

STOP_GRACE_S = 1.0  # of grpc, after our own drain: unary calls still finish
OPEN_EVERY_S = 0.2  # between two tries to reach Redis at the start

_log = structlog.get_logger(__name__)


def run(settings: Settings) -> int:
    """Run a dispatcher until SIGTERM or SIGINT; returns the exit code."""
    if not settings.use_parallel_processing:
        sys.stderr.write("error: USE_PARALLEL_PROCESSING=false is not served by this release\n")
        return 2
    try:
        pipelines = read_pipelines(settings.pipelines)
    except PipelineError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    store = RedisStore(
        settings.redis_url, prefix=settings.key_prefix, dispatcher_id=settings.identity
    )
    try:
        asyncio.run(serve(settings, store, pipelines))
    except StoreRefused as error:
        sys.stderr.write(f"error: REDIS_URL: {error}\n")
        return 2
    return 0


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
    )


async def serve(
    settings: Settings,
    store: Store,
    pipelines: list[Pipeline],
    *,
    stop: asyncio.Event | None = None,
    started: Callable[[int, int], None] | None = None,
) -> None:
    """Serve until `stop` (or a signal) is set; then drain.

    Args:
        started: Called with the gRPC and the HTTP port once both listen.
    """
    leave = stop or _stop_on_signals()
    engine = Engine(store=store, pipelines=pipelines, options=options_of(settings))
    rpc = RpcServer(
        dispatcher=DispatcherService(engine),
        worker=WorkerService(engine),
        operator=OperatorService(engine),
    )
    listener = open_listener(settings.http_address)
    grpc_port = await _open(engine, rpc, settings, leave)
    if grpc_port is None:
        listener.close()
        return
    http_port = listener.getsockname()[1]
    edge = build_app(engine.stats, engine.ready)
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
