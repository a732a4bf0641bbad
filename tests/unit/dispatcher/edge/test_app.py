"""The HTTP answers, from outside."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
from structlog.testing import capture_logs

from stepstream.errors import ERRORS_BY_REASON, QueueFull, StepstreamError, StoreUnavailable
from stepstream_dispatcher.edge.app import build_app
from stepstream_dispatcher.edge.problems import HTTP_STATUS, http_status
from stepstream_dispatcher.engine.stats import Stats, assemble

STATS = assemble(
    {"pending": 1, "translating": 2, "llm_verification": 3, "human_review": 4, "done": 9},
    {
        "worker-0": {
            "processed": "5",
            "failed": "1",
            "current_tasks": "2",
            "is_running": "1",
            "max_in_flight": "3",
        }
    },
)


async def good_stats() -> Stats:
    return STATS


async def is_ready() -> str | None:
    return None


def raising(error: Exception) -> Callable[[], Awaitable[Stats]]:
    async def stats() -> Stats:
        raise error

    return stats


@asynccontextmanager
async def client(
    stats: Callable[[], Awaitable[Stats]] = good_stats,
    ready: Callable[[], Awaitable[str | None]] = is_ready,
) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(build_app(stats, ready), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as session:
        yield session


async def test_stats_have_exactly_the_documented_shape():
    async with client() as session:
        response = await session.get("/api/stats")

    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "parallelProcessing": True,
        "isRunning": True,
        "workers": {
            "worker-0": {"processed": 5, "failed": 1, "currentTasks": 2, "isRunning": True}
        },
        "totals": {"processed": 5, "failed": 1, "currentTasks": 2},
        "queue": {"pending": 1, "translating": 2, "verifying": 3, "reviewing": 4},
    }


async def test_health_does_not_ask_the_store():
    async def never() -> str | None:
        raise StoreUnavailable

    async with client(raising(StoreUnavailable()), never) as session:
        response = await session.get("/healthz")

    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_ready():
    async with client() as session:
        response = await session.get("/readyz")

    assert (response.status_code, response.json()) == (200, {"status": "ready", "mode": "PARALLEL"})


async def test_not_ready_says_why():
    async def draining() -> str | None:
        return "DRAINING"

    async with client(ready=draining) as session:
        response = await session.get("/readyz")

    assert response.status_code == 503
    assert response.json() == {"status": "not_ready", "reason": "DRAINING"}


@pytest.mark.parametrize(
    ("method", "path", "status", "title"),
    [
        ("GET", "/nothing", 404, "No such route"),
        ("GET", "/", 404, "No such route"),
        ("GET", "/healthz/", 404, "No such route"),
        ("POST", "/api/stats", 405, "Method not allowed"),
        ("DELETE", "/healthz", 405, "Method not allowed"),
    ],
)
async def test_other_requests_are_problems(method: str, path: str, status: int, title: str):
    async with client() as session:
        response = await session.request(method, path)

    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.json()["status"], response.json()["title"]) == (status, title)


async def test_method_not_allowed_names_the_allowed_ones():
    async with client() as session:
        response = await session.post("/api/stats")

    assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD"}


async def test_domain_error_is_a_problem_with_its_reason():
    error = QueueFull("full", field="input", retry_after_s=2.4)
    async with client(raising(error)) as session:
        response = await session.get("/api/stats")

    assert response.status_code == 429
    assert response.headers["retry-after"] == "3"
    assert response.json() == {
        "type": "urn:stepstream:problem:QUEUE_FULL",
        "title": "Queue full",
        "status": 429,
        "detail": "full",
        "code": "RESOURCE_EXHAUSTED",
        "reason": "QUEUE_FULL",
        "field": "input",
        "retryAfter": 2.4,
    }


async def test_store_outage_is_unavailable():
    async with client(raising(StoreUnavailable("redis does not answer"))) as session:
        response = await session.get("/api/stats")

    assert response.status_code == 503
    assert response.json()["reason"] == "STORE_UNAVAILABLE"
    assert (response.headers["retry-after"], response.json()["retryAfter"]) == ("1", 1.0)


async def test_any_other_error_tells_an_incident_only():
    with capture_logs() as logs:
        async with client(raising(ValueError("secret"))) as session:
            response = await session.get("/api/stats")

    assert response.status_code == 500
    assert response.json()["incident"] == logs[0]["incident"]
    assert "secret" not in response.text


@pytest.mark.parametrize("path", ["/api/stats", "/healthz", "/readyz", "/nothing"])
async def test_every_answer_forbids_sniffing_and_caching(path: str):
    async with client(raising(ValueError())) as session:
        response = await session.get(path)

    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-store"


async def test_head_has_no_body():
    async with client() as session:
        response = await session.head("/api/stats")

    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize("error", ERRORS_BY_REASON.values())
def test_every_error_has_an_http_status(error: type[StepstreamError]):
    assert error.status in HTTP_STATUS
    assert 400 <= http_status(error) < 600
