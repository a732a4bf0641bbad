"""The synchronous client on a channel of grpcio-testing: the test plays the dispatcher."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from inspect import signature
from queue import Queue
from typing import Any

import grpc
import grpc_testing
import pytest

from stepstream import AsyncClient, Client, errors
from stepstream.operator_client import AsyncOperator, Operator
from stepstream.types import Task, TaskEvent
from stepstream.v1 import dispatcher_service_pb2 as pb2
from stepstream.v1.dispatcher_service_pb2 import DESCRIPTOR
from tests.unit.client.dispatcher_stub import (
    HOLD,
    StubDispatcher,
    frame,
    make_event,
    make_task,
    rich_status,
    serving,
    snapshot,
)

_SERVICE = DESCRIPTOR.services_by_name["DispatcherService"]
_LIMIT_S = 5.0


class Play:
    """The two ends: the client in a thread, and the channel that the test answers on."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self.channel = grpc_testing.channel([_SERVICE], grpc_testing.strict_real_time())
        self.client = Client(channel=self.channel, timeout_s=5.0)
        self._threads = threads

    def start(self, call: Callable[[Client], Any]) -> "Future[Any]":
        return self._threads.submit(call, self.client)

    def answer(self, method: str, response: Any) -> Any:
        """Takes the next call of the method and answers it; returns its request."""
        descriptor = _SERVICE.methods_by_name[method]
        _, request, rpc = self.channel.take_unary_unary(descriptor)
        rpc.send_initial_metadata(())
        rpc.terminate(response, (), grpc.StatusCode.OK, "")
        return request

    def refuse(self, method: str, error: errors.StepstreamError) -> Any:
        """Takes the next call of the method and refuses it; returns its request."""
        descriptor = _SERVICE.methods_by_name[method]
        _, request, rpc = self.channel.take_unary_unary(descriptor)
        details = ("grpc-status-details-bin", rich_status(error).SerializeToString())
        rpc.terminate(None, (details,), getattr(grpc.StatusCode, error.status), str(error))
        return request

    def take_watch(self) -> tuple[pb2.WatchTaskRequest, Any]:
        _, request, rpc = self.channel.take_unary_stream(_SERVICE.methods_by_name["WatchTask"])
        rpc.send_initial_metadata(())
        return request, rpc


@pytest.fixture
def play() -> Iterator[Play]:
    with ThreadPoolExecutor(1) as threads:
        yield Play(threads)


def test_submit_is_a_submit_request(play):
    future = play.start(lambda client: client.submit("p", {"a": [1, None]}, request_id="r1"))

    request = play.answer("Submit", pb2.SubmitResponse(task_id="t1", duplicate=True))

    assert (request.pipeline, request.request_id) == ("p", "r1")
    assert future.result(_LIMIT_S).duplicate


def test_get_reads_the_task_with_its_payloads(play):
    future = play.start(lambda client: client.get("t1"))

    request = play.answer("GetTask", pb2.GetTaskResponse(task=make_task(state="done")))

    assert request == pb2.GetTaskRequest(task_id="t1", include_payloads=True)
    assert future.result(_LIMIT_S).finished


def test_unavailability_is_retried(play):
    future = play.start(lambda client: client.stats())

    play.refuse("GetStats", errors.Draining("leaving"))
    play.answer("GetStats", pb2.GetStatsResponse(retries=4))

    assert future.result(_LIMIT_S).retries == 4


def test_a_refusal_is_raised_as_its_class(play):
    future = play.start(lambda client: client.cancel("t1"))

    play.refuse("CancelTask", errors.TaskFinished("t1 is done"))

    with pytest.raises(errors.TaskFinished, match="t1 is done"):
        future.result(_LIMIT_S)


def test_wait_asks_again_until_the_task_has_ended(play):
    future = play.start(lambda client: client.wait("t1", timeout_s=5.0))

    play.answer("WaitTask", pb2.WaitTaskResponse(task=make_task(), timed_out=True))
    play.answer("WaitTask", pb2.WaitTaskResponse(task=make_task(state="done")))

    assert future.result(_LIMIT_S).state == "done"


def test_list_and_review_send_their_arguments(play):
    listing = play.start(lambda client: client.list(labels={"a": "b"}, page_token="x"))
    listed = play.answer("ListTasks", pb2.ListTasksResponse(next_page_token="y"))
    review = play.start(
        lambda client: client.review("t1", "rejected", reviewer="ada", feedback="too stiff")
    )
    decided = play.answer("DecideReview", pb2.DecideReviewResponse(task=make_task()))

    assert (dict(listed.labels), listed.page_token, listed.page_size) == ({"a": "b"}, "x", 100)
    assert listing.result(_LIMIT_S).next_page_token == "y"
    assert decided.decision == pb2.REVIEW_DECISION_REJECTED
    assert (decided.feedback, decided.HasField("output")) == ("too stiff", False)
    assert review.result(_LIMIT_S).task_id == "t1"


def test_watch_goes_on_after_a_break(play):
    seen: Queue[Any] = Queue()
    future = play.start(lambda client: [seen.put(item) for item in client.watch("t1")])

    _, rpc = play.take_watch()
    rpc.send_response(snapshot(make_task(version=1)))
    rpc.send_response(frame(make_event(2, "LEASED")))
    task, leased = seen.get(timeout=_LIMIT_S), seen.get(timeout=_LIMIT_S)
    rpc.terminate((), grpc.StatusCode.UNAVAILABLE, "socket closed")
    request, rpc = play.take_watch()
    rpc.send_response(snapshot(make_task(version=2)))
    rpc.send_response(frame(make_event(3, "DONE")))

    future.result(_LIMIT_S)
    assert isinstance(task, Task)
    assert isinstance(leased, TaskEvent)
    assert (leased.sequence, seen.get_nowait().sequence, seen.empty()) == (2, 3, True)
    assert request.after_sequence == 2


def test_overload_is_waited_for(play):
    future = play.start(lambda client: client.submit("p", None))

    first = play.refuse("Submit", errors.QueueFull("full", retry_after_s=0.05))
    second = play.answer("Submit", pb2.SubmitResponse(task_id="t1"))

    assert future.result(_LIMIT_S).task_id == "t1"
    assert first.request_id == second.request_id


def test_a_submit_that_is_not_answered_says_how_to_join_it(play):
    future = play.start(lambda client: client.submit("p", None))

    descriptor = _SERVICE.methods_by_name["Submit"]
    _, request, rpc = play.channel.take_unary_unary(descriptor)
    rpc.terminate(None, (), grpc.StatusCode.DEADLINE_EXCEEDED, "")

    with pytest.raises(errors.OutcomeUnknown) as caught:
        future.result(_LIMIT_S)
    assert caught.value.request_id == request.request_id


@pytest.mark.parametrize("kind", ["watch", "call", "pause"])
def test_closing_ends_what_is_under_way(kind):
    stub = StubDispatcher()
    stub.streams.append([HOLD])
    if kind == "pause":
        stub.refusals.append(errors.Draining("leaving", retry_after_s=30))
    elif kind == "call":
        stub.speaks.clear()
    with serving(stub) as address, ThreadPoolExecutor(1) as threads:
        client = Client(address, timeout_s=60)
        held = threads.submit(list, client.watch("t1")) if kind == "watch" else None
        held = held or threads.submit(client.get, "t1")
        assert stub.called.wait(_LIMIT_S)
        client.close()

        error = held.exception(_LIMIT_S)
        stub.speaks.set()

    assert isinstance(error, errors.Unavailable)


def test_a_closed_client_says_so():
    client = Client("127.0.0.1:1")
    client.close()

    with pytest.raises(errors.Unavailable, match="this client is closed"):
        client.stats()


def test_a_real_channel_is_opened_and_closed():
    stub = StubDispatcher()
    stub.tasks["t1"] = make_task()

    with serving(stub) as address, Client(address) as client:
        assert client.get("t1").task_id == "t1"


@pytest.mark.parametrize(
    ("asynchronous", "synchronous"), [(AsyncClient, Client), (AsyncOperator, Operator)]
)
def test_both_clients_have_the_same_surface(asynchronous, synchronous):
    names = {name for name in vars(asynchronous) if not name.startswith("_")}
    assert names == {name for name in vars(synchronous) if not name.startswith("_")}
    for name in names - {"operator"}:
        one, other = getattr(asynchronous, name), getattr(synchronous, name)
        assert signature(one).parameters == signature(other).parameters
