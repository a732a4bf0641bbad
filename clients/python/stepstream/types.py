"""What the clients answer with: tasks, events and counts as frozen values, free of protobuf."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

from msgspec import Struct, field

__all__ = [
    "FINISHED_STATES",
    "AttemptError",
    "Durability",
    "EventType",
    "ExecutionMode",
    "ExplainReason",
    "Explanation",
    "Gap",
    "Phase",
    "Pipeline",
    "PipelineStep",
    "QueueStats",
    "RedriveResult",
    "ReviewDecision",
    "StateStats",
    "Stats",
    "SubmitItem",
    "Submitted",
    "Task",
    "TaskEvent",
    "TaskPage",
    "TotalStats",
    "Value",
    "WorkerInfo",
    "WorkerStats",
]

Value = dict[str, Any] | str | bytes | None
"""A payload: a JSON object, text, bytes, or nothing."""

FINISHED_STATES = frozenset({"done", "failed", "cancelled"})


class Phase(StrEnum):
    """What a task is doing, for a person; the words of `stepstream.v1.Phase` without prefix."""

    UNSPECIFIED = "UNSPECIFIED"
    SCHEDULED = "SCHEDULED"
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    RETRYING = "RETRYING"
    WAITING_FOR_REVIEW = "WAITING_FOR_REVIEW"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class EventType(StrEnum):
    """What an event says; the words of `stepstream.v1.EventType` without prefix."""

    UNSPECIFIED = "UNSPECIFIED"
    SUBMITTED = "SUBMITTED"
    SCHEDULED = "SCHEDULED"
    QUEUED = "QUEUED"
    LEASED = "LEASED"
    ADOPTED = "ADOPTED"
    COMPLETED = "COMPLETED"
    RETRYING = "RETRYING"
    LOST = "LOST"
    RELEASED = "RELEASED"
    WAITING = "WAITING"
    REVIEWED = "REVIEWED"
    CANCEL_REQUESTED = "CANCEL_REQUESTED"
    DONE = "DONE"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    REDRIVEN = "REDRIVEN"
    INPUT_UPDATED = "INPUT_UPDATED"
    PROGRESS = "PROGRESS"


class ExecutionMode(StrEnum):
    """How a task is run; the words of `stepstream.v1.ExecutionMode` without prefix."""

    UNSPECIFIED = "UNSPECIFIED"
    PARALLEL = "PARALLEL"  # through Redis and the workers
    SYNCHRONOUS = "SYNCHRONOUS"  # in the call itself, by configuration
    SYNCHRONOUS_FALLBACK = "SYNCHRONOUS_FALLBACK"  # in the call itself: Redis is down


class Durability(StrEnum):
    """What an accepted task survives; the words of `stepstream.v1.Durability` without prefix."""

    UNSPECIFIED = "UNSPECIFIED"
    VOLATILE = "VOLATILE"  # no restart of Redis
    AOF_1S = "AOF_1S"  # a crash of the host, but for its last 2 s
    AOF_SYNC = "AOF_SYNC"  # a crash of the host
    LOCAL = "LOCAL"  # what the disk of the dispatcher survives


class ReviewDecision(StrEnum):
    """What a reviewer decides."""

    APPROVED = "approved"
    EDITED = "edited"
    REJECTED = "rejected"


class AttemptError(Struct, frozen=True, kw_only=True):
    """One failed, lost or timed-out attempt."""

    attempt: int  # within the step, from 1
    worker: str  # empty when none held it
    step: str
    code: str  # for example HANDLER_ERROR, DEADLINE_EXCEEDED, WORKER_LOST
    message: str
    start_time: datetime | None  # by the clock of Redis, UTC
    end_time: datetime | None
    retryable: bool
    progress: float = 0.0  # with WORKER_LOST: how far it was when its worker was last heard, 0 to 1
    note: str = ""  # the words beside it


class Task(Struct, frozen=True, kw_only=True):
    """A task as it stood when the dispatcher answered."""

    task_id: str
    pipeline: str
    state: str  # a state of the pipeline, or scheduled, failed, cancelled
    phase: str  # a word of Phase
    step: str
    attempt: int  # of the current or latest step, from 1; 0 before the first
    version: int  # sequence number of the latest event
    worker: str  # empty when nobody holds it
    progress: float  # 0 to 1
    progress_note: str
    create_time: datetime | None  # by the clock of Redis, UTC
    update_time: datetime | None
    due_time: datetime | None  # next attempt or delayed start; None when it waits for neither
    deadline_time: datetime | None = None  # when it fails unless it has ended; None: never
    labels: dict[str, str]
    input: Value  # None unless payloads were asked for
    outputs: dict[str, Value]  # by step name; empty unless payloads were asked for
    result: Value  # None before it is there
    errors: list[AttemptError]  # oldest first; empty unless payloads were asked for
    revisions: int  # how often a reviewer has sent it back
    cancel_requested: bool
    reviewer: str  # empty when nobody has decided

    @property
    def finished(self) -> bool:
        """Whether it has ended: done, failed or cancelled."""
        return self.state in FINISHED_STATES

    @property
    def waiting_for_review(self) -> bool:
        """Whether it waits for a person's decision."""
        return self.phase == Phase.WAITING_FOR_REVIEW


class TaskEvent(Struct, frozen=True, kw_only=True):
    """One entry of a task's history, or a report of progress."""

    sequence: int  # from 1 without gaps; 0 for PROGRESS
    time: datetime | None  # by the clock of Redis, UTC
    task_id: str
    type: str  # a word of EventType
    state: str  # of the task after it
    step: str
    attempt: int
    actor: str  # worker or reviewer; empty when neither caused it
    detail: str  # outcome, error code or reason
    message: str
    delay_s: float | None  # until the next attempt or the delayed start
    progress: float  # 0 to 1; only in a PROGRESS event


class Gap(Struct, frozen=True, kw_only=True):
    """Events that the history no longer holds."""

    first_missing: int
    first_available: int


class Submitted(Struct, frozen=True, kw_only=True):
    """What Submit answered."""

    task_id: str
    execution_mode: str  # a word of ExecutionMode
    durability: str  # a word of Durability
    duplicate: bool  # the request id was known: this is the first task again
    state: str


class SubmitItem(Struct, frozen=True, kw_only=True):
    """One task of a batch; the fields are the arguments of `submit`."""

    pipeline: str
    input: Value
    request_id: str | None = None  # None: a random one
    delay_s: float | None = None
    deadline_s: float | None = None  # None: no limit
    labels: Mapping[str, str] = field(default_factory=dict)
    require_durable: bool = False
    max_retries: int | None = None  # None: the pipeline's
    initial_delay_s: float | None = None
    timeout_s: float | None = None  # of one attempt


class TaskPage(Struct, frozen=True, kw_only=True):
    """A page of tasks, newest first."""

    tasks: list[Task]
    next_page_token: str  # empty on the last page


class WorkerStats(Struct, frozen=True, kw_only=True):
    """Counts of one worker."""

    processed: int
    failed: int
    current_tasks: int
    is_running: bool
    max_in_flight: int


class TotalStats(Struct, frozen=True, kw_only=True):
    """Sums over the workers."""

    processed: int
    failed: int
    current_tasks: int


class QueueStats(Struct, frozen=True, kw_only=True):
    """Sizes of the states of the translation pipeline."""

    pending: int
    translating: int
    verifying: int
    reviewing: int


class StateStats(Struct, frozen=True, kw_only=True):
    """One state: how many tasks, and how long the oldest has been in it."""

    depth: int
    oldest_age_s: float | None


class Stats(Struct, frozen=True, kw_only=True):
    """Counts, workers and throughput of the whole system."""

    parallel_processing: bool
    is_running: bool
    workers: dict[str, WorkerStats]
    totals: TotalStats
    queue: QueueStats
    states: dict[str, StateStats]
    throughput_per_minute: float
    worker_utilization: float  # 0 to 1
    failure_percentage: float  # 0 to 100
    retries: int
    execution_mode: str  # a word of ExecutionMode
    time: datetime | None


class ExplainReason(StrEnum):
    """Why a task is where it is; the words of `stepstream.v1.ExplainReason` without prefix."""

    UNSPECIFIED = "UNSPECIFIED"
    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    NO_WORKER = "NO_WORKER"
    NO_FREE_SLOT = "NO_FREE_SLOT"
    QUEUE_PAUSED = "QUEUE_PAUSED"
    WAITING_UNTIL = "WAITING_UNTIL"
    AWAITING_REVIEW = "AWAITING_REVIEW"
    DEADLINE_PASSED = "DEADLINE_PASSED"
    QUEUED = "QUEUED"


class Explanation(Struct, frozen=True, kw_only=True):
    """Why a task is not running, and until when."""

    reason: str  # a word of ExplainReason: the first that applies
    message: str  # for a person: what is missing and what to do
    until: datetime | None  # by the clock of Redis, UTC; None when unknown


class WorkerInfo(Struct, frozen=True, kw_only=True):
    """One worker as an operator sees it."""

    name: str
    instance_id: str  # its process; new at each start
    dispatcher_id: str  # who holds its session; empty when it is gone
    queues: list[str]
    step_types: list[str]
    max_in_flight: int  # most attempts that it takes at once
    in_flight: int  # attempts that it holds
    processed: int  # step attempts that ended well
    failed: int  # step attempts that ended badly
    last_seen_time: datetime | None  # by the clock of Redis, UTC
    sdk: str  # for example stepstream-python/0.1.0
    draining: bool  # it has been told to leave

    @property
    def connected(self) -> bool:
        """Whether a dispatcher holds its session."""
        return bool(self.dispatcher_id)


class RedriveResult(Struct, frozen=True, kw_only=True):
    """What became of one task of a redrive."""

    task_id: str
    redriven: bool  # it is queued again
    reason: str  # of the refusal, for example TASK_NOT_FOUND; empty when it is queued again


class Repairs(Struct, frozen=True, kw_only=True):
    """What a sweep over everything in Redis has mended."""

    repaired: dict[str, int]  # by kind, see RepairResponse; empty: nothing had to be
    tasks: int  # that were looked at
    duration_s: float
    counted: bool  # False: the dispatcher verifies the counts again within seconds


class PipelineStep(Struct, frozen=True, kw_only=True):
    """One step of a pipeline."""

    name: str  # also the step type that a worker serves
    state: str  # of a task that is at this step
    kind: str  # worker or human
    queue: str  # empty for a human step
    on: dict[str, str]  # outcome to the next step, done or failed
    paused: bool  # an operator has paused its queue


class Pipeline(Struct, frozen=True, kw_only=True):
    """A pipeline that the dispatcher has loaded."""

    name: str
    version: str  # a digest of its definition
    steps: list[PipelineStep]  # in order of definition
