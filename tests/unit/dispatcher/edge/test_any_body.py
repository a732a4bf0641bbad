"""Whatever is sent, it is never the dispatcher's fault."""

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepstream.v1 import dispatcher_service_pb2 as api
from stepstream.v1 import task_pb2 as pb
from tests.support.edge import serving_edge

JSON = {"Content-Type": "application/json"}
REQUESTS = (api.SubmitRequest, api.SubmitBatchRequest, api.DecideReviewRequest, pb.Payload)


def fields(message: Any) -> list[str]:
    """Names of fields, in both spellings."""
    return [name for one in message.DESCRIPTOR.fields for name in (one.name, one.json_name)]


NAMES = st.sampled_from(
    [field for message in REQUESTS for field in fields(message)] + ["__class__", "", "\ud800"]
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.sampled_from(["translation", "1.5s", "-1s", "REVIEW_DECISION_EDITED", "AA==", "\udfff"]),
)
BODIES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(), inner, max_size=5)
    ),
    max_leaves=20,
)
OBJECTS = st.dictionaries(NAMES, BODIES, max_size=6)
PATHS = st.sampled_from(
    ["/api/tasks", "/api/tasks:batch", f"/api/tasks/{'0' * 32}/cancel", "/api/tasks/x/review"]
)


@given(path=PATHS, body=OBJECTS | BODIES, cut=st.integers(0, 3))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_body_is_our_fault(http: httpx.Client, path: str, body: object, cut: int):
    content = json.dumps(body).encode()

    response = http.post(path, content=content[: len(content) - cut], headers=JSON)

    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        assert response.json()["reason"]


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """A client of a server in another thread, for a test that has no loop."""
    started: Future[int] = Future()
    stopped: Future[None] = Future()

    async def serve() -> None:
        async with serving_edge() as edge:
            started.set_result(edge.port)
            await asyncio.wrap_future(stopped)

    thread = threading.Thread(target=asyncio.run, args=[serve()])
    thread.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{started.result(20)}", timeout=20) as client:
        yield client
    stopped.set_result(None)
    thread.join(20)
