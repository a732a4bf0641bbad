"""The asynchronous client."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import grpc
import grpc.aio

from stepstream import _calls, _tracing
from stepstream._calls import SUBMIT_CALL_S
from stepstream._channel import CHANNEL_OPTIONS, CLOSED, Endpoints
from stepstream._retry import Limits, Retry
from stepstream._status import error_from_rpc
from stepstream._stubs import stub_of
from stepstream._submits import Submits
from stepstream._watch import Watch
from stepstream.errors import StepstreamError, Unavailable
from stepstream.operator_client import AsyncOperator
from stepstream.types import (
    Explanation,
    Gap,
    Stats,
    SubmitItem,
    Submitted,
    Task,
    TaskEvent,
    TaskPage,
    Value,
)

if TYPE_CHECKING:
    from stepstream.v1.dispatcher_service_pb2_grpc import DispatcherServiceAsyncStub

__all__ = ["AsyncClient"]

T = TypeVar("T")


class AsyncClient:
    """Submits tasks and asks for them, from asyncio; an asynchronous context manager.

    Within its `async with` block, submits that are made at the same time share calls.
    Every call is idempotent and is made again after UNAVAILABLE, at the next address if there is
    one, and after a refusal that says when to come back, until its timeout.
    Errors are those of `stepstream.errors`, and the built-in TimeoutError.

    Args:
        address: `host:port` of the dispatcher, or of several, with commas between or as a sequence;
            None: what STEPSTREAM_ADDRESS says, else 127.0.0.1:50051.
        timeout_s: Limit of one call, retries included; each call takes another as `call_timeout_s`.
        submit_timeout_s: The same for `submit` and `submit_batch`. Without Redis they answer when
            the task has ended or waits for a person, so it is longer; that nobody answers is still
            said after timeout_s.
        retry_s: How long failures are retried; None: until timeout_s, 0: not at all.
        channel: A channel to use instead (for TLS or interceptors); its maker closes it. Each
            submit then goes by itself.
    """

    def __init__(
        self,
        address: str | Sequence[str] | None = None,
        *,
        timeout_s: float = 30.0,
        submit_timeout_s: float = SUBMIT_CALL_S,
        retry_s: float | None = None,
        channel: grpc.aio.Channel | None = None,
    ) -> None:
        self._endpoints = Endpoints(address if channel is None else (address or "the channel"))
        self._limits = Limits(
            timeout_s=timeout_s, submit_timeout_s=submit_timeout_s, retry_s=retry_s
        )
        self._given = channel
        self._channels: list[grpc.aio.Channel] = []
        self._stubs: dict[str, DispatcherServiceAsyncStub] = {}
        self._luck = random.Random()
        self._closed = asyncio.Event()
        self._submits = Submits(self._once)

    async def __aenter__(self) -> Self:
        if self._given is None:  # its interceptors may add what is the caller's to each call
            await self._submits.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections. Calls under way, and later ones, raise Unavailable."""
        self._closed.set()
        await self._submits.close()
        self._stubs.clear()
        while self._channels:
            await self._channels.pop().close()

    async def submit(
        self,
        pipeline: str,
        input: Value,  # noqa: A002 - the word of the protocol
        *,
        request_id: str | None = None,
        delay_s: float | None = None,
        deadline_s: float | None = None,
        labels: Mapping[str, str] | None = None,
        require_durable: bool = False,
        max_retries: int | None = None,
        initial_delay_s: float | None = None,
        timeout_s: float | None = None,
        call_timeout_s: float | None = None,
    ) -> Submitted:
        """Submits one task.

        Many tasks submitted at the same time make few calls, as `submit_batch` does, while each
        has its own answer, error, retries and time limit.

        Args:
            pipeline: Name of the pipeline, for example `translation`.
            input: What its first step works on; at most 1 MiB.
            request_id: Makes the call idempotent; None: a random one.
            delay_s: Seconds until the task starts, up to 366 days; None: at once.
            deadline_s: Seconds after which it fails unless it has ended, more than `delay_s` and at
                most 366 days; None: no limit.
            labels: Up to 16, keys and values of at most 63 characters.
            require_durable: Whether to refuse the task rather than keep it in memory or locally.
            max_retries: Retries of each step after its first run, 0 to 100; None: the pipeline's.
            initial_delay_s: Seconds before the first retry; None: the pipeline's.
            timeout_s: Limit of one attempt of a step; None: the pipeline's.
            call_timeout_s: Limit of this call; None: the client's submit_timeout_s.

        Raises:
            InvalidTask: a field is wrong; the error names it.
            TaskConflict: the request id was used with another input.
            QueueFull: too many live tasks; try again after `retry_after_s`.
            Unavailable: nobody answered.
            OutcomeUnknown: no answer in time. The task may have been accepted; the same call with
                the error's `request_id` joins it.
        """
        item = SubmitItem(
            pipeline=pipeline,
            input=input,
            request_id=request_id,
            delay_s=delay_s,
            deadline_s=deadline_s,
            labels=labels or {},
            require_durable=require_durable,
            max_retries=max_retries,
            initial_delay_s=initial_delay_s,
            timeout_s=timeout_s,
        )
        with _tracing.producing(item.pipeline) as trace:
            call = _calls.submit(item, trace.metadata)
            return trace.accepted(await self._run(call, call_timeout_s, self._submits.submit))

    async def submit_batch(
        self, items: Sequence[SubmitItem], *, call_timeout_s: float | None = None
    ) -> list[Submitted | StepstreamError]:
        """Submits up to 1,000 tasks; one answer or error per item, in order.

        After a TimeoutError some may have been accepted; items with a request id can be submitted
        again without harm.

        Raises:
            InvalidTask: the list is empty or too long, or a value cannot travel.
        """
        with _tracing.producing_batch([item.pipeline for item in items]) as trace:
            call = _calls.submit_batch(items, trace.metadata)
            return trace.answered(await self._run(call, call_timeout_s))

    async def get(
        self, task_id: str, *, payloads: bool = True, call_timeout_s: float | None = None
    ) -> Task:
        """Reads one task, with its input, outputs, result and errors unless payloads is False.

        Raises:
            TaskNotFound: there is no such task, or it has expired.
        """
        return await self._run(_calls.get(task_id, payloads=payloads), call_timeout_s)

    async def list(
        self,
        *,
        state: str = "",
        pipeline: str = "",
        labels: Mapping[str, str] | None = None,
        page_size: int = 100,
        page_token: str = "",
        payloads: bool = False,
        call_timeout_s: float | None = None,
    ) -> TaskPage:
        """Lists tasks that match all the filters, newest first, 1 to 1,000 a page."""
        call = _calls.list_(
            state=state,
            pipeline=pipeline,
            labels=labels,
            page_size=page_size,
            page_token=page_token,
            payloads=payloads,
        )
        return await self._run(call, call_timeout_s)

    async def wait(
        self, task_id: str, *, timeout_s: float = 60.0, through_review: bool = False
    ) -> Task:
        """Waits until the task has ended or, unless through_review, waits for a person.

        Raises:
            TimeoutError: it has not within timeout_s seconds.
            TaskNotFound: there is no such task, or it has expired.
        """
        end_mono = time.monotonic() + timeout_s
        while True:
            remaining_s = end_mono - time.monotonic()
            call = _calls.wait(task_id, remaining_s=remaining_s, through_review=through_review)
            task, timed_out = await self._run(call)
            if not timed_out:
                return task
            if time.monotonic() >= end_mono:
                raise TimeoutError(f"task {task_id} is {task.state} after {timeout_s:g} s")

    async def watch(
        self, task_id: str, *, after: int | None = None, progress: bool = False
    ) -> AsyncGenerator[Task | TaskEvent | Gap, None]:
        """Yields the task as it stands, then each event once and in order, to the terminal one.

        Opens a new stream by itself after a break, at the next address if there is one, and goes on
        behind the last event.

        Args:
            task_id: The task.
            after: Events with a greater sequence only, 0 for all; None: those after the snapshot.
            progress: Whether to yield PROGRESS events too.

        Raises:
            TaskNotFound: there is no such task, or it has expired.
            Unavailable: nobody answered for the client's timeout.
        """
        watch = Watch(task_id, after=after, progress=progress)
        retry = self._limits.of_watch(time.monotonic(), resumed=False)
        while not watch.is_over():
            address = self._endpoints.current
            retry.begin_s(time.monotonic())
            call = self._stub(address).WatchTask(watch.request())
            try:
                async for message in call:
                    if (item := watch.accept(message)) is not None:
                        self._endpoints.answered(address)
                        retry = self._limits.of_watch(time.monotonic(), resumed=True)
                        yield item
                    if watch.is_over():
                        return
                broken: Exception | None = watch.closed()
            except grpc.RpcError as error:
                broken = error_from_rpc(error, address)
            except asyncio.CancelledError as error:
                self._check_closed(error)
                raise
            finally:
                call.cancel()
            if broken is not None and not await self._pauses(retry, broken, address):
                raise broken

    async def explain(self, task_id: str, *, call_timeout_s: float | None = None) -> Explanation:
        """Says why a task is not running, until when, and what to do.

        Raises:
            TaskNotFound: there is no such task, or it has expired.
        """
        return await self._run(_calls.explain(task_id), call_timeout_s)

    async def watch_tasks(
        self,
        *,
        pipeline: str = "",
        states: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[Task, None]:
        """Yields the matching tasks that have not ended, then each after it has changed; endless.

        What changes faster is yielded in its latest state only, progress is no change, and what
        leaves the states is not yielded. Opens a new stream by itself after a break, which begins
        in the same way.

        Args:
            pipeline: Only tasks of this pipeline; empty for all.
            states: Only tasks in one of these states; empty for all.
            labels: Only tasks with all these labels.

        Raises:
            InvalidTask: the pipeline or a state is unknown.
            RateLimited: the dispatcher has too many watchers.
            Unavailable: nobody answered for the client's timeout.
        """
        request = _calls.watch_tasks(pipeline=pipeline, states=states, labels=labels)
        retry: Retry | None = None  # of the present break: a stream may be silent for hours
        while True:
            retry = retry or self._limits.of_watch(time.monotonic(), resumed=False)
            address = self._endpoints.current
            retry.begin_s(time.monotonic())
            call = self._stub(address).WatchTasks(request)
            try:
                async for message in call:
                    retry = None
                    self._endpoints.answered(address)
                    yield _calls.read_task(message)
                broken: Exception = Unavailable("the stream of tasks ended early")
            except grpc.RpcError as error:
                broken = error_from_rpc(error, address)
            except asyncio.CancelledError as error:
                self._check_closed(error)
                raise
            finally:
                call.cancel()
            retry = retry or self._limits.of_watch(time.monotonic(), resumed=True)
            if not await self._pauses(retry, broken, address):
                raise broken

    async def cancel(
        self, task_id: str, *, reason: str = "", call_timeout_s: float | None = None
    ) -> Task:
        """Cancels a task; `cancel_requested` while a worker still holds it.

        Raises:
            TaskFinished: it had ended otherwise.
        """
        return await self._run(_calls.cancel(task_id, reason=reason), call_timeout_s)

    async def review(
        self,
        task_id: str,
        decision: str,
        *,
        reviewer: str,
        output: Value = None,
        feedback: str = "",
        version: int = 0,
        call_timeout_s: float | None = None,
    ) -> Task:
        """Decides a task that waits for a person.

        Args:
            task_id: The task.
            decision: A word of ReviewDecision: approved, edited or rejected.
            reviewer: Who decides, for the history; at most 64 bytes.
            output: The reviewer's own result; with edited only.
            feedback: Words for whoever does it again; with rejected.
            version: The task's version that the reviewer saw; 0: whatever it is now.
            call_timeout_s: Limit of this call; None: the client's.

        Raises:
            ReviewConflict: it does not wait for a review, or somebody else decided first.
            RevisionsExhausted: it was sent back as often as its pipeline allows.
        """
        call = _calls.review(
            task_id,
            decision,
            reviewer=reviewer,
            output=output,
            feedback=feedback,
            version=version,
        )
        return await self._run(call, call_timeout_s)

    async def stats(self, *, call_timeout_s: float | None = None) -> Stats:
        """Reads counts, workers and throughput."""
        return await self._run(_calls.stats(), call_timeout_s)

    @property
    def operator(self) -> AsyncOperator:
        """What operators call: workers, queues, dead letters, pipelines."""
        return AsyncOperator(self._run)

    async def _run(
        self,
        call: _calls.Call[T],
        call_timeout_s: float | None = None,
        attempt: Callable[[_calls.Call[T], str, float], Awaitable[T]] | None = None,
    ) -> T:
        attempt = attempt or self._once
        retry = self._limits.of_call(call, call_timeout_s, time.monotonic())
        while True:
            address = self._endpoints.current
            try:
                return await attempt(call, address, retry.begin_s(time.monotonic()))
            except (StepstreamError, TimeoutError) as error:
                if not await self._pauses(retry, error, address):
                    call.give_up(error)

    async def _once(self, call: _calls.Call[T], address: str, timeout_s: float) -> T:
        method = getattr(self._stub(address), call.method)
        try:
            answer = await method(call.request, timeout=timeout_s, metadata=call.metadata)
        except grpc.RpcError as error:
            raise error_from_rpc(error, address) from error
        except asyncio.CancelledError as error:
            self._check_closed(error)
            raise
        self._endpoints.answered(address)
        return call.read(answer)

    async def _pauses(self, retry: Retry, error: Exception, address: str) -> bool:
        """Waits before the next attempt; False, at once, when there is to be none."""
        pause_s = retry.pause_s(
            error, self._endpoints, address, now_mono=time.monotonic(), luck=self._luck
        )
        if pause_s is None or self._closed.is_set():
            return False
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._closed.wait()
        return True

    def _check_closed(self, error: asyncio.CancelledError) -> None:
        """Refuses a call that grpc has cancelled because its channel was closed."""
        task = asyncio.current_task()
        if self._closed.is_set() and not (task is not None and task.cancelling()):
            raise Unavailable(CLOSED) from error

    def _stub(self, address: str) -> DispatcherServiceAsyncStub:
        if self._closed.is_set():
            raise Unavailable(CLOSED)
        if address not in self._stubs:
            channel = self._given or self._open(address)
            self._stubs[address] = stub_of(channel)
        return self._stubs[address]

    def _open(self, address: str) -> grpc.aio.Channel:
        # Opened at the first call, because a channel belongs to the loop that makes it.
        channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._channels.append(channel)
        return channel
