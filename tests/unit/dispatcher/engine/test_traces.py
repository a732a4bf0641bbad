"""Traces are begun with their tasks, and shown beside the commits, never in their way."""

import asyncio

import msgspec
import pytest
from structlog.testing import capture_logs

from stepstream.trace_context import span_id_of
from stepstream_dispatcher.core.facts import Completed, Failed, Lost
from stepstream_dispatcher.engine.traces import KNOWN_MAX, WAITING_MAX, Traces
from tests.support.engine import Dispatcher, database
from tests.support.records import TASK_ID, TOKEN, decided, leased
from tests.support.virtual_time import in_virtual_time

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
LOOPS = ("committer", "settling", "feeder", "traces")


class Sink:
    """Keeps spans."""

    def __init__(self, *, sampled=True):
        self.spans = []
        self.asked = []
        self._sampled = sampled
        self._news = asyncio.Event()

    def is_sampled(self, name, trace_id, parent):
        self.asked.append((name, trace_id, parent and parent.span_id))
        return self._sampled

    def emit(self, record):
        self.spans.append(record)
        self._news.set()

    async def until(self, amount):
        async with asyncio.timeout(60):
            while len(self.spans) < amount:
                self._news.clear()
                await self._news.wait()
        return [one.name for one in self.spans]


def traced(sink, shared=None):
    return Dispatcher(shared or database(), *LOOPS, spans=sink)


async def stored_of(dispatcher, task_id):
    (stored,) = await dispatcher.store.traces([task_id])
    return msgspec.json.decode(stored or b"null")


@in_virtual_time
async def test_a_task_without_a_caller_begins_a_trace():
    async with traced(sink := Sink()) as dispatcher:
        stored = await stored_of(dispatcher, await dispatcher.submit())

    version, trace_id, span_id, flags = stored["traceparent"].split("-")
    assert sink.asked == [("task translation", trace_id, None)]
    assert (version, flags, stored["parent"]) == ("00", "03", "")
    assert span_id.strip("0")


@in_virtual_time
async def test_a_task_of_a_traced_caller_is_a_child_of_its_span():
    async with traced(sink := Sink()) as dispatcher:
        task_id = await dispatcher.submit(trace={"traceparent": CALLER, "baggage": "a=1"})
        stored = await stored_of(dispatcher, task_id)

    _, trace_id, parent_id, _ = CALLER.split("-")
    assert sink.asked == [("task translation", trace_id, parent_id)]
    assert (stored["parent"], stored["baggage"]) == (parent_id, "a=1")
    assert stored["traceparent"].startswith(f"00-{trace_id}-")
    assert parent_id not in stored["traceparent"]


@pytest.mark.parametrize("sink", [None, Sink(sampled=False)], ids=["off", "not sampled"])
@pytest.mark.parametrize("given", [{}, {"traceparent": CALLER, "tracestate": "a=1"}])
def test_what_is_not_traced_here_is_stored_as_it_came(sink, given):
    @in_virtual_time
    async def check():
        async with traced(sink) as dispatcher:
            stored = await stored_of(dispatcher, await dispatcher.submit(trace=given))
        assert stored == (given or None)

    check()


@in_virtual_time
async def test_a_step_shows_its_wait_and_the_task_its_end():
    async with traced(sink := Sink()) as dispatcher:
        task_id = await dispatcher.submit(max_retries=0)
        session = await dispatcher.connect()
        (handout,) = await dispatcher.handed_out(session)
        fact = Failed(token=handout.attempt.record.lease, code="NO", message="", retryable=True)
        with capture_logs() as lines:
            await dispatcher.report(session, handout, fact)
            names = await sink.until(2)
        stored = await stored_of(dispatcher, task_id)

    assert names == ["queue default", "task translation"]
    (line,) = [one for one in lines if one["event"] == "task failed"]
    assert (line["task_id"], line["code"]) == (task_id, "NO")
    assert line["trace_id"] == stored["traceparent"].split("-")[1]


@in_virtual_time
async def test_another_dispatcher_shows_what_it_applied():
    shared = database()
    async with traced(first := Sink(), shared) as one:
        task_id = await one.submit()
        session = await one.connect()
        (handout,) = await one.handed_out(session)
        await first.until(1)
    second = Sink()
    async with Dispatcher(shared, *LOOPS, dispatcher_id="dispatcher-2", spans=second) as other:
        record = await other.record(task_id)
        lost = Lost(token=record.lease, reason="gone", owner=record.owner, waited_ms=0)
        await other.engine.leases._endings.add([(handout.attempt, lost)])
        names = await second.until(1)

    assert names == ["process translate"]
    assert second.spans[0].context.span_id == span_id_of(f"{task_id}/translate/1")
    assert second.spans[0].parent_id == first.spans[0].parent_id


@in_virtual_time
async def test_without_a_sink_losses_and_dead_letters_are_logged_with_the_callers_trace():
    async with Dispatcher(database(), "committer", "settling", "feeder") as dispatcher:
        task_id = await dispatcher.submit(trace={"traceparent": CALLER}, max_retries=0)
        session = await dispatcher.connect()
        (handout,) = await dispatcher.handed_out(session)
        fact = Failed(token=handout.attempt.record.lease, code="NO", message="", retryable=True)
        await dispatcher.report(session, handout, fact)
        with capture_logs() as lines:
            await dispatcher.engine.traces.close(1.0)

    assert [(one["event"], one["task_id"], one["trace_id"]) for one in lines] == [
        ("task failed", task_id, CALLER.split("-")[1])
    ]


@in_virtual_time
async def test_what_waits_while_the_store_is_away_is_shown_later():
    async with Dispatcher(database(), *LOOPS, spans=(sink := Sink()), supervised=True) as one:
        task_id = await one.submit()
        one.store.down = True
        fact = Completed(token=TOKEN, outcome="passed", output=b"")
        record = leased(step="verify")
        transition = msgspec.structs.replace(decided(record, fact), task_id=task_id)
        one.engine.traces.moved(record, transition)
        await asyncio.sleep(0)
        await one.engine.traces.close(0.1)
        assert sink.spans == []

        one.store.down = False
        assert await sink.until(1) == ["task translation"]


@in_virtual_time
async def test_what_waits_and_what_is_known_is_bounded():
    async with Dispatcher(database(), spans=(sink := Sink())) as dispatcher:
        traces: Traces = dispatcher.engine.traces
        fact = Completed(token=TOKEN, outcome="passed", output=b"")
        transition = decided(leased(step="verify"), fact)
        for number in range(WAITING_MAX + 10):
            task_id = f"{number:032x}"
            traces.moved(leased(), msgspec.structs.replace(transition, task_id=task_id))
        assert len(traces._waiting) == WAITING_MAX
        await traces.close(60.0)

    assert len(traces._known) <= KNOWN_MAX
    assert sink.spans == []
    assert TASK_ID not in traces._known
