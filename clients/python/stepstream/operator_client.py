"""What operators call: `client.operator`, beside what everybody calls on the client itself."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol, TypeVar

from stepstream import _operator_calls as _calls
from stepstream._calls import Call
from stepstream.types import (
    Pipeline,
    RedriveResult,
    Repairs,
    Task,
    TaskPage,
    Value,
    WorkerInfo,
)

__all__ = ["AsyncOperator", "Operator"]

REPAIR_TIMEOUT_S = 600.0  # a sweep at 5 % of Redis, with a million results beside the tasks

T = TypeVar("T")


class _Run(Protocol):
    def __call__(self, call: Call[T], call_timeout_s: float | None = None, /) -> T: ...


class _AsyncRun(Protocol):
    def __call__(self, call: Call[T], call_timeout_s: float | None = None, /) -> Awaitable[T]: ...


class Operator:
    """Workers, queues, dead letters and pipelines; every call is idempotent.

    `call_timeout_s` limits one call, retries included; None: the client's.

    Args:
        run: Carries a call out, with the retries of the client.
    """

    def __init__(self, run: _Run) -> None:
        self._run = run

    def list_workers(self, *, call_timeout_s: float | None = None) -> list[WorkerInfo]:
        """Lists the workers by name; one that has gone stays for 10 minutes."""
        return self._run(_calls.list_workers(), call_timeout_s)

    def drain_worker(self, name: str, *, call_timeout_s: float | None = None) -> None:
        """Tells a worker to finish what it runs and to leave; returns before it has.

        Raises:
            WorkerNotFound: no worker had that name in the last 10 minutes.
        """
        self._run(_calls.drain_worker(name), call_timeout_s)

    def pause_queue(self, queue: str, *, call_timeout_s: float | None = None) -> None:
        """Stops handing out from a queue, at all dispatchers; what runs goes on.

        Raises:
            QueueNotFound: no pipeline has that queue, and no connected worker serves it.
        """
        self._run(_calls.pause_queue(queue), call_timeout_s)

    def resume_queue(self, queue: str, *, call_timeout_s: float | None = None) -> None:
        """Hands out from a queue again.

        Raises:
            QueueNotFound: no pipeline has that queue, and no connected worker serves it.
        """
        self._run(_calls.resume_queue(queue), call_timeout_s)

    def list_dead_letters(
        self, *, page_size: int = 100, page_token: str = "", call_timeout_s: float | None = None
    ) -> TaskPage:
        """Lists failed tasks with their errors, latest first, 1 to 1,000 a page."""
        return self._run(
            _calls.list_dead_letters(page_size=page_size, page_token=page_token), call_timeout_s
        )

    def redrive(
        self, task_ids: Sequence[str], *, call_timeout_s: float | None = None
    ) -> list[RedriveResult]:
        """Starts up to 1,000 failed tasks anew at the step that failed; one result each, in order.

        Raises:
            InvalidTask: the list is empty or too long.
        """
        return self._run(_calls.redrive(task_ids), call_timeout_s)

    def update_input(
        self,
        task_id: str,
        input: Value,  # noqa: A002 - the word of the protocol
        *,
        version: int = 0,
        call_timeout_s: float | None = None,
    ) -> Task:
        """Replaces the input of a failed task, before it is redriven.

        Args:
            task_id: The task.
            input: The new input; at most 1 MiB.
            version: The task's version that the operator saw; 0: whatever it is now.

        Raises:
            TaskNotFound: there is no such task, or it has expired.
            TaskNotFailed: it has not failed, or changed since that version.
        """
        return self._run(_calls.update_input(task_id, input, version=version), call_timeout_s)

    def list_pipelines(self, *, call_timeout_s: float | None = None) -> list[Pipeline]:
        """Lists the pipelines that the dispatcher has loaded, by name."""
        return self._run(_calls.list_pipelines(), call_timeout_s)

    def repair(self, *, call_timeout_s: float | None = REPAIR_TIMEOUT_S) -> Repairs:
        """Mends what differs from the tasks' records in Redis, and says what was mended.

        It takes seconds, or about a minute at 100,000 live tasks; dispatchers do it by themselves
        when they notice damage.
        """
        return self._run(_calls.repair(), call_timeout_s)


class AsyncOperator:
    """Workers, queues, dead letters and pipelines; every call is idempotent.

    `call_timeout_s` limits one call, retries included; None: the client's.

    Args:
        run: Carries a call out, with the retries of the client.
    """

    def __init__(self, run: _AsyncRun) -> None:
        self._run = run

    async def list_workers(self, *, call_timeout_s: float | None = None) -> list[WorkerInfo]:
        """Lists the workers by name; one that has gone stays for 10 minutes."""
        return await self._run(_calls.list_workers(), call_timeout_s)

    async def drain_worker(self, name: str, *, call_timeout_s: float | None = None) -> None:
        """Tells a worker to finish what it runs and to leave; returns before it has.

        Raises:
            WorkerNotFound: no worker had that name in the last 10 minutes.
        """
        await self._run(_calls.drain_worker(name), call_timeout_s)

    async def pause_queue(self, queue: str, *, call_timeout_s: float | None = None) -> None:
        """Stops handing out from a queue, at all dispatchers; what runs goes on.

        Raises:
            QueueNotFound: no pipeline has that queue, and no connected worker serves it.
        """
        await self._run(_calls.pause_queue(queue), call_timeout_s)

    async def resume_queue(self, queue: str, *, call_timeout_s: float | None = None) -> None:
        """Hands out from a queue again.

        Raises:
            QueueNotFound: no pipeline has that queue, and no connected worker serves it.
        """
        await self._run(_calls.resume_queue(queue), call_timeout_s)

    async def list_dead_letters(
        self, *, page_size: int = 100, page_token: str = "", call_timeout_s: float | None = None
    ) -> TaskPage:
        """Lists failed tasks with their errors, latest first, 1 to 1,000 a page."""
        return await self._run(
            _calls.list_dead_letters(page_size=page_size, page_token=page_token), call_timeout_s
        )

    async def redrive(
        self, task_ids: Sequence[str], *, call_timeout_s: float | None = None
    ) -> list[RedriveResult]:
        """Starts up to 1,000 failed tasks anew at the step that failed; one result each, in order.

        Raises:
            InvalidTask: the list is empty or too long.
        """
        return await self._run(_calls.redrive(task_ids), call_timeout_s)

    async def update_input(
        self,
        task_id: str,
        input: Value,  # noqa: A002 - the word of the protocol
        *,
        version: int = 0,
        call_timeout_s: float | None = None,
    ) -> Task:
        """Replaces the input of a failed task, before it is redriven.

        Args:
            task_id: The task.
            input: The new input; at most 1 MiB.
            version: The task's version that the operator saw; 0: whatever it is now.

        Raises:
            TaskNotFound: there is no such task, or it has expired.
            TaskNotFailed: it has not failed, or changed since that version.
        """
        return await self._run(_calls.update_input(task_id, input, version=version), call_timeout_s)

    async def list_pipelines(self, *, call_timeout_s: float | None = None) -> list[Pipeline]:
        """Lists the pipelines that the dispatcher has loaded, by name."""
        return await self._run(_calls.list_pipelines(), call_timeout_s)

    async def repair(self, *, call_timeout_s: float | None = REPAIR_TIMEOUT_S) -> Repairs:
        """Mends what differs from the tasks' records in Redis, and says what was mended.

        It takes seconds, or about a minute at 100,000 live tasks; dispatchers do it by themselves
        when they notice damage.
        """
        return await self._run(_calls.repair(), call_timeout_s)
