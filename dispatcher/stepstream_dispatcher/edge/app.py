"""The HTTP application: statistics, health, and what else it is given to serve."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stepstream_dispatcher.edge.framing import OneLength
from stepstream_dispatcher.edge.problems import EXCEPTION_HANDLERS, json_response
from stepstream_dispatcher.engine.modes import ExecutionMode
from stepstream_dispatcher.engine.stats import Stats

__all__ = ["build_app"]


def build_app(
    stats: Callable[[], Awaitable[Stats]],
    ready: Callable[[], Awaitable[str | None]],
    routes: Sequence[Route] = (),
    *,
    mode: Callable[[], ExecutionMode] = lambda: "PARALLEL",
) -> Starlette:
    """Build the application.

    Args:
        stats: Reads the counters.
        ready: Says in one upper-case word why calls should not be sent here; None when they may.
        routes: Of the task API.
        mode: How new tasks are run.
    """

    async def get_stats(_request: Request) -> Response:
        return json_response(_stats_body(await stats()))

    async def get_health(_request: Request) -> Response:
        return json_response({"status": "ok"})

    async def get_readiness(_request: Request) -> Response:
        reason = await ready()
        if reason is None:
            return json_response({"status": "ready", "mode": mode()})
        return json_response({"status": "not_ready", "reason": reason}, status=503)

    app = Starlette(
        routes=[
            Route("/api/stats", get_stats),
            Route("/healthz", get_health),
            Route("/readyz", get_readiness),
            *routes,
        ],
        exception_handlers=dict(EXCEPTION_HANDLERS),
        middleware=[Middleware(OneLength)],
    )
    app.router.redirect_slashes = False  # it would lead to wherever the Host header says
    return app


def _stats_body(stats: Stats) -> dict[str, object]:
    return {
        "parallelProcessing": stats.parallel_processing,
        "isRunning": stats.is_running,
        "workers": {
            name: {
                "processed": worker.processed,
                "failed": worker.failed,
                "currentTasks": worker.current_tasks,
                "isRunning": worker.is_running,
            }
            for name, worker in stats.workers.items()
        },
        "totals": {
            "processed": stats.totals.processed,
            "failed": stats.totals.failed,
            "currentTasks": stats.totals.current_tasks,
        },
        "queue": {
            "pending": stats.queue.pending,
            "translating": stats.queue.translating,
            "verifying": stats.queue.verifying,
            "reviewing": stats.queue.reviewing,
        },
    }
