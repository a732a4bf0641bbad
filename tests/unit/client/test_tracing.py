"""A client takes part in the tracing of its program, and brings none along."""

import asyncio
import subprocess
import sys
from contextlib import contextmanager

import grpc
from opentelemetry import baggage, context, trace

from stepstream import AsyncClient, Client, SubmitItem
from stepstream._tracing import producing
from tests.unit.client.dispatcher_stub import BareStatus, StubDispatcher, serving

PARENT = trace.SpanContext(
    trace_id=0x0AF7651916CD43DD8448EB211C80319C,
    span_id=0xB7AD6B7169203331,
    is_remote=False,
    trace_flags=trace.TraceFlags(1),
    trace_state=trace.TraceState([("shop", "1")]),
)
METADATA = (
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("tracestate", "shop=1"),
    ("baggage", "tenant=7"),
)


class Hearing(StubDispatcher):
    """Keeps the metadata of calls."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[tuple[str, str], ...]] = []

    def _begin(self, request, context):
        sent = [tuple(one) for one in context.invocation_metadata()]
        self.heard.append(tuple(one for one in METADATA if one in sent))
        super()._begin(request, context)


ITEMS = [SubmitItem(pipeline=name, input="text") for name in ("a", "b")]


@contextmanager
def traced():
    """The program is in a trace, with baggage."""
    here = baggage.set_baggage("tenant", "7")
    token = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(PARENT), here))
    try:
        yield
    finally:
        context.detach(token)


def test_the_current_context_goes_with_a_submit():
    stub = Hearing()
    with serving(stub) as address, Client(address) as client, traced():
        client.submit("a", "text")
        client.submit_batch(ITEMS)

    assert stub.heard == [METADATA, METADATA]


async def test_the_current_context_goes_with_an_asynchronous_submit():
    stub = Hearing()
    with serving(stub) as address, traced():
        async with AsyncClient(address) as client:
            await client.submit("a", "text")
            await client.submit_batch(ITEMS)

    assert stub.heard == [METADATA, METADATA]


async def test_submits_in_a_trace_go_each_with_their_own_context():
    stub = Hearing()
    with serving(stub) as address:
        async with AsyncClient(address) as client:
            await client.submit("a", "text")
            with traced():
                async with asyncio.TaskGroup() as group:
                    for _ in range(3):
                        group.create_task(client.submit("a", "text"))

    assert stub.heard == [(), METADATA, METADATA, METADATA]


def test_a_call_that_is_made_again_carries_the_same_context():
    stub = Hearing()
    stub.refusals.append(BareStatus(code=grpc.StatusCode.UNAVAILABLE))
    with serving(stub) as address, Client(address) as client, traced():
        client.submit("a", "text")

    assert stub.heard == [METADATA, METADATA]


def test_outside_of_a_trace_nothing_goes_along():
    with producing("translation") as one:
        assert one.metadata == ()


def test_nothing_is_made_where_the_api_is_imported_and_nobody_traces():
    assert producing("a") is producing("b")
    with traced():
        assert producing("a") is not producing("b")


def test_nobody_who_does_not_trace_imports_opentelemetry():
    code = """
import sys
import stepstream, stepstream.client, stepstream.sync_client, stepstream.worker
import stepstream.telemetry, stepstream._tracing
assert stepstream.telemetry.open_telemetry(service="s", instance="i") is None
with stepstream._tracing.producing("p") as one:
    assert one.metadata == ()
found = [name for name in sys.modules if name.startswith("opentelemetry")]
assert not found, found
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, env={})

    assert done.returncode == 0, done.stderr.decode()
