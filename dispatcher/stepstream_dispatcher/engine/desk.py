"""What callers ask for: submit, read, list, wait, cancel, review."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import msgspec

from stepstream.errors import (
    InternalError,
    InvalidTask,
    QueueFull,
    ReviewConflict,
    RevisionsExhausted,
    StepstreamError,
    StoreBusy,
    StoreUnavailable,
    TaskConflict,
    TaskContended,
    TaskFinished,
    TaskNotFound,
)
from stepstream_dispatcher.core.admission import (
    Limits,
    Submission,
    admit,
    check_task_id,
    creation,
    input_hash,
    task_id_of,
)
from stepstream_dispatcher.core.facts import CancelAsked, Fact, Reviewed
from stepstream_dispatcher.core.lifecycle import Refusal
from stepstream_dispatcher.core.pipeline import Pipeline
from stepstream_dispatcher.core.record import (
    TERMINAL_STATES,
    Event,
    EventType,
    Stage,
    TaskRecord,
    Transition,
)
from stepstream_dispatcher.engine.committer import Committer, Outcome, Proposal, broken
from stepstream_dispatcher.engine.identity import new_task_id
from stepstream_dispatcher.engine.modes import Home
from stepstream_dispatcher.engine.vocabulary import Vocabulary
from stepstream_dispatcher.engine.watch import GapFrame, SnapshotFrame, WatchHub
from stepstream_dispatcher.store.port import IndexPage, Result, Store, Verdict

__all__ = ["Accepted", "Desk", "Listing", "Selection", "Sight"]

BATCH_MAX: Final = 1000
PAGE_MAX: Final = 1000
PAGE_DEFAULT: Final = 100
SCAN_PAGES_MAX: Final = 20  # pages of the index that one call looks through for a filter
RETRY_WHEN_FULL_S: Final = 1.0
WAITING_STATES: Final = frozenset({"scheduled", "human_review", "failed"})


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """A task that was accepted."""

    task_id: str
    duplicate: bool
    state: str
    home: Home


class Sight(msgspec.Struct, frozen=True, kw_only=True):
    """A task as it was read."""

    task_id: str
    record: TaskRecord
    data: dict[str, bytes]


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which tasks to list."""

    page_size: int = 0
    page_token: str = ""
    state: str = ""
    pipeline: str = ""
    labels: dict[str, str] = {}


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """A page of tasks."""

    tasks: list[Sight]
    next_page_token: str


class Pipelines(Protocol):
    """Where pipelines are found."""

    def current(self, name: str) -> Pipeline | None:
        """The pipeline that a new task of that name begins with."""


class Desk:
    """Serves the callers of one dispatcher.

    Args:
        namespace: Part of every derived task id.
        cancel_here: Tells the worker that holds a task here to stop; False if none does.
        home_of: Where an accepted task is kept.
        traced: Begins the trace of a submission, where there is to be one.
        vocabulary: Tells names of pipelines and states from misspelt ones.
    """

    def __init__(
        self,
        *,
        store: Store,
        committer: Committer,
        pipelines: Pipelines,
        watch: WatchHub,
        limits: Limits,
        namespace: str,
        cancel_here: Callable[[str], bool],
        home_of: Callable[[str], Home],
        traced: Callable[[Submission], Submission],
        vocabulary: Vocabulary,
    ) -> None:
        self._store = store
        self._committer = committer
        self._pipelines = pipelines
        self._watch = watch
        self._limits = limits
        self._namespace = namespace
        self._cancel_here = cancel_here
        self._home_of = home_of
        self._traced = traced
        self._vocabulary = vocabulary

    # --- submit ----------------------------------------------------------------------------------

    async def submit(self, submission: Submission) -> Accepted:
        """Accept one task.

        Raises:
            InvalidTask, TaskConflict, QueueFull, StoreUnavailable: See the errors.
        """
        (answer,) = await self.submit_batch([submission])
        if isinstance(answer, StepstreamError):
            raise answer
        return answer

    async def submit_batch(
        self, submissions: Sequence[Submission]
    ) -> list[Accepted | StepstreamError]:
        """Accept tasks, each by itself; one answer each, in order.

        In a synchronous mode each answer waits until its task is at rest. A caller that leaves
        cancels nothing.
        """
        if not 1 <= len(submissions) <= BATCH_MAX:
            words = f"requests must have 1 to {BATCH_MAX} entries, got {len(submissions)}"
            raise InvalidTask(words, field="requests")
        answers: list[Accepted | StepstreamError | None] = [None] * len(submissions)
        transitions: list[Transition] = []
        places: list[int] = []
        for index, submission in enumerate(submissions):
            try:
                transitions.append(self._creation(submission))
                places.append(index)
            except StepstreamError as error:
                answers[index] = error
        results = await self._create(transitions)
        for index, transition, result in zip(places, transitions, results, strict=True):
            home = self._home_of(transition.task_id)
            answers[index] = _accepted(submissions[index], transition, result, home)
        return await self._at_rest([answer for answer in answers if answer is not None])

    async def _at_rest(
        self, answers: list[Accepted | StepstreamError]
    ) -> list[Accepted | StepstreamError]:
        """Wait for the tasks that are run in the call; mostly there are none."""
        run_here = [
            (at, answer)
            for at, answer in enumerate(answers)
            if isinstance(answer, Accepted) and answer.home.waits
        ]
        if not run_here:
            return answers

        async def rest(at: int, accepted: Accepted) -> None:
            try:
                state = await self._state_at_rest(accepted.task_id)
                answers[at] = msgspec.structs.replace(accepted, state=state)
            except StepstreamError as error:
                answers[at] = error

        async with asyncio.TaskGroup() as group:
            for at, answer in run_here:
                group.create_task(rest(at, answer))
        return answers

    async def _state_at_rest(self, task_id: str) -> str:
        async with contextlib.aclosing(self._watch.follow(task_id, after=None)) as frames:
            async for frame in frames:
                if isinstance(frame, SnapshotFrame):
                    if frame.record.state == "scheduled" or _rests(frame.record):
                        return frame.record.state
                elif isinstance(frame, Event) and (
                    frame.type is EventType.WAITING or frame.state in TERMINAL_STATES
                ):
                    return frame.state
        raise StoreUnavailable(f"lost sight of task {task_id}")

    async def _create(self, transitions: list[Transition]) -> Sequence[Result | StepstreamError]:
        if not transitions:
            return []
        try:
            return await self._committer.create(transitions)
        except (StoreUnavailable, StoreBusy) as error:
            return [error] * len(transitions)

    def _creation(self, submission: Submission) -> Transition:
        pipeline = self._pipelines.current(submission.pipeline)
        if pipeline is None:
            name = submission.pipeline[:64]
            raise InvalidTask(f"pipeline {name!r} is not known here", field="pipeline")
        admit(submission, self._limits)
        if submission.require_durable and not self._home_of("").durable:
            raise StoreUnavailable("tasks would not be kept durably, and durability is required")
        request_id = submission.request_id
        return creation(
            self._traced(submission),
            pipeline,
            task_id=task_id_of(self._namespace, request_id) if request_id else new_task_id(),
            op_id=self._committer.new_op_id(),
            now_ms=self._store.now_ms(),
        )

    # --- read ------------------------------------------------------------------------------------

    async def get(self, task_id: str) -> Sight:
        """Read one task.

        Raises:
            InvalidTask, TaskNotFound, StoreUnavailable: See the errors.
        """
        check_task_id(task_id)
        ((record, data),) = await self._store.load([task_id])
        if record is None:
            raise TaskNotFound(f"no task {task_id}")
        return Sight(task_id=task_id, record=record, data=data)

    async def history(self, task_id: str, *, after: int) -> list[GapFrame | Event]:
        """Read the kept events with a sequence greater than `after`, oldest first.

        A gap stands first when some of them are no longer kept.

        Raises:
            InvalidTask, TaskNotFound, StoreUnavailable: See the errors.
        """
        check_task_id(task_id)
        if after < 0:
            raise InvalidTask("after must not be negative", field="after")
        await self.get(task_id)
        events = await self._store.history(task_id, after=after)
        if not events:
            return []
        first = events[0].sequence
        gap = [GapFrame(after + 1, first)] if first > after + 1 else []
        return [*gap, *events]

    async def wait(self, task_id: str, *, timeout_s: float, through_review: bool) -> Sight | None:
        """Wait until the task has ended or waits for a person; None when time ran out."""
        check_task_id(task_id)
        with contextlib.suppress(TimeoutError):
            async with (
                asyncio.timeout(timeout_s),
                contextlib.aclosing(self._watch.follow(task_id, after=None)) as frames,
            ):
                async for frame in frames:
                    if isinstance(frame, SnapshotFrame):
                        if _rests(frame.record, through_review=through_review):
                            break
                        continue
                    sight = await self.get(task_id)
                    if _rests(sight.record, through_review=through_review):
                        return sight
                return await self.get(task_id)
        return None

    async def list(self, selection: Selection) -> Listing:
        """List tasks, newest first; by state's own set where there is one.

        Raises:
            InvalidTask: A bad page size or token, or a pipeline or state that does not exist.
        """
        if not 0 <= selection.page_size <= PAGE_MAX:
            raise InvalidTask(f"page_size must be 0 to {PAGE_MAX}", field="page_size")
        await self._vocabulary.check_pipeline(selection.pipeline)
        await self._vocabulary.check_states([selection.state], "state")
        size = selection.page_size or PAGE_DEFAULT
        tasks: list[Sight] = []
        cursor = selection.page_token
        for _ in range(SCAN_PAGES_MAX):
            page = await self._page(selection.state, cursor, size - len(tasks))
            loads = await self._store.load(page.task_ids) if page.task_ids else []
            for task_id, (record, data) in zip(page.task_ids, loads, strict=True):
                if record is not None and _matches(selection, record, data):
                    tasks.append(Sight(task_id=task_id, record=record, data=data))
            cursor = page.next_cursor
            if not cursor or len(tasks) >= size:
                break
        return Listing(tasks=tasks, next_page_token=cursor)

    async def _page(self, state: str, cursor: str, count: int) -> IndexPage:
        try:
            if state in WAITING_STATES:
                return await self._store.waiting(state, cursor=cursor, count=count)
            return await self._store.index(cursor=cursor, count=count)
        except ValueError as error:
            raise InvalidTask("page_token is not one of ours", field="page_token") from error

    # --- change ----------------------------------------------------------------------------------

    async def cancel(self, task_id: str, *, reason: str) -> Sight:
        """Cancel a task, now or as soon as its worker has let go.

        Raises:
            InvalidTask, TaskNotFound, TaskFinished, TaskContended, StoreUnavailable: See
                the errors.
        """
        outcome = await self._apply(task_id, CancelAsked(reason=reason))
        if outcome.refusal is Refusal.FINISHED and outcome.record is not None:
            raise TaskFinished(f"task {task_id} has ended: {outcome.record.state}")
        sight = await self.get(task_id)
        held = sight.record.stage is Stage.LEASED
        if held and not self._cancel_here(task_id):
            await self._store.notify(sight.record.owner, f"cancel {task_id}".encode())
        return sight

    async def review(self, task_id: str, fact: Reviewed) -> Sight:
        """Decide a task that waits for a person.

        Raises:
            InvalidTask, TaskNotFound, ReviewConflict, RevisionsExhausted, TaskContended,
            StoreUnavailable: See the errors.
        """
        outcome = await self._apply(task_id, fact)
        record = outcome.record
        if outcome.refusal is Refusal.NO_REVISION_LEFT and record is not None:
            words = f"task {task_id} was sent back {record.revisions} times already"
            raise RevisionsExhausted(f"{words}; approve or edit it")
        if outcome.refusal is not None and record is not None:
            raise ReviewConflict(_review_words(task_id, fact, record))
        return await self.get(task_id)

    async def _apply(self, task_id: str, fact: Fact) -> Outcome:
        sight = await self.get(task_id)
        proposal = Proposal(task_id=task_id, record=sight.record, fact=fact)
        (outcome,) = await self._committer.apply([proposal])
        if outcome.verdict is Verdict.NOT_FOUND:
            raise TaskNotFound(f"task {task_id} has expired")
        if outcome.verdict is Verdict.VERSION_CONFLICT:
            raise TaskContended(f"task {task_id} changes too fast")
        if outcome.refusal is Refusal.UNKNOWN_PIPELINE:
            raise InternalError(f"pipeline {sight.record.pipeline} is not known here as it was")
        if outcome.refusal is Refusal.BROKEN:
            raise broken(task_id)
        return outcome


def _accepted(
    submission: Submission, transition: Transition, result: Result | StepstreamError, home: Home
) -> Accepted | StepstreamError:
    if isinstance(result, StepstreamError):
        return result
    task_id = transition.task_id
    if result.verdict is Verdict.APPLIED:
        state = str(transition.fields["state"])
        return Accepted(task_id=task_id, duplicate=False, state=state, home=home)
    if result.verdict is Verdict.FULL:
        return QueueFull("too many live tasks", retry_after_s=RETRY_WHEN_FULL_S)
    record = result.record
    if record is None or record.input_hash == input_hash(submission):
        state = record.state if record else str(transition.fields["state"])
        return Accepted(task_id=task_id, duplicate=True, state=state, home=home)
    words = f"request id {submission.request_id} was used for task {task_id} with another input"
    return TaskConflict(words, field="request_id")


def _rests(record: TaskRecord, *, through_review: bool = False) -> bool:
    return record.terminal or (record.stage is Stage.WAITING and not through_review)


def _matches(selection: Selection, record: TaskRecord, data: dict[str, bytes]) -> bool:
    if selection.state and record.state != selection.state:
        return False
    if selection.pipeline and record.pipeline.partition("@")[0] != selection.pipeline:
        return False
    if not selection.labels:
        return True
    labels = msgspec.json.decode(data.get("labels", b"{}"), type=dict[str, str])
    return selection.labels.items() <= labels.items()


def _review_words(task_id: str, fact: Reviewed, record: TaskRecord) -> str:
    if record.stage is not Stage.WAITING:
        by = f", decided by {record.reviewer}" if record.reviewer else ""
        return f"task {task_id} does not wait for a review: it is {record.state}{by}"
    return f"task {task_id} is at version {record.version}, not {fact.seen_version}; look again"
