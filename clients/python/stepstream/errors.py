"""The errors of stepstream, the same on both sides of the wire.

StepstreamError
 +-- InvalidTask                a field is wrong; the caller changes the request
 |    +-- PayloadTooLarge       a payload is over its limit
 +-- TaskNotFound               no such task, or it has expired
 +-- TaskConflict               the request id was used with another input
 +-- TaskFinished               the task has ended already
 +-- ReviewConflict             not waiting for a review, or decided by another
 +-- RevisionsExhausted         sent back as often as the pipeline allows
 +-- StaleLease                 another holder owns the attempt
 +-- TaskContended              the task changed under the call again and again
 +-- TaskNotFailed              not a dead letter, or changed since the operator saw it
 +-- QueueNotFound              no such queue
 +-- WorkerNotFound             no such worker
 +-- QueueFull                  too many live tasks, or Redis is full
 +-- RateLimited                too many streams or watchers
 +-- StoreBusy                  more calls at once than the dispatcher has connections to Redis for
 +-- Unavailable                try again, elsewhere if you can
 |    +-- Draining              the dispatcher is leaving
 |    +-- StoreUnavailable      Redis does not answer
 +-- ProtocolMismatch           the worker's protocol version is not served
 +-- RemoteProtocolError        the other side of a worker stream broke the protocol
 +-- SessionSuperseded          a newer stream of the worker instance took over
 +-- NotServed                  not served by this release
 +-- InternalError              our fault; the log has the incident

A class declares `reason` (the stable word on the wire, in error.proto), `status` (the name of the
gRPC status code) and `retryable` (whether the same call may succeed later).
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "ERRORS_BY_REASON",
    "Draining",
    "InternalError",
    "InvalidTask",
    "NotServed",
    "OutcomeUnknown",
    "PayloadTooLarge",
    "ProtocolMismatch",
    "QueueFull",
    "QueueNotFound",
    "RateLimited",
    "RemoteProtocolError",
    "ReviewConflict",
    "RevisionsExhausted",
    "SessionSuperseded",
    "StaleLease",
    "StepstreamError",
    "StoreBusy",
    "StoreUnavailable",
    "TaskConflict",
    "TaskContended",
    "TaskFinished",
    "TaskNotFailed",
    "TaskNotFound",
    "Unavailable",
    "WorkerNotFound",
]


class StepstreamError(Exception):
    """Any refusal by stepstream.

    Args:
        message: What, which id, what limit; lower case, no full stop.
        field: Path of the request field at fault, empty when none is.
        retry_after_s: Seconds after which the same call may succeed; None when unknown.
    """

    reason: ClassVar[str] = "INTERNAL"
    status: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False

    def __init__(
        self, message: str = "", *, field: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(message or (type(self).__doc__ or "").splitlines()[0])
        self.field = field
        self.retry_after_s = retry_after_s

    @property
    def message(self) -> str:
        """The words for a person."""
        return str(self.args[0])


class InvalidTask(StepstreamError):
    """A field of the request is wrong; the caller changes the request."""

    reason = "INVALID_TASK"
    status = "INVALID_ARGUMENT"


class PayloadTooLarge(InvalidTask):
    """A payload is over its limit; the caller sends less or a reference."""

    reason = "PAYLOAD_TOO_LARGE"


class TaskNotFound(StepstreamError):
    """No such task, or its record has expired."""

    reason = "TASK_NOT_FOUND"
    status = "NOT_FOUND"


class TaskConflict(StepstreamError):
    """The request id was used with another input; the caller picks a new id."""

    reason = "TASK_CONFLICT"
    status = "ALREADY_EXISTS"


class TaskFinished(StepstreamError):
    """The task has ended; the caller reads its state and does not retry."""

    reason = "TASK_FINISHED"
    status = "FAILED_PRECONDITION"


class ReviewConflict(StepstreamError):
    """The task is not waiting for a review, or somebody else decided it."""

    reason = "REVIEW_CONFLICT"
    status = "FAILED_PRECONDITION"


class RevisionsExhausted(StepstreamError):
    """The task was sent back as often as its pipeline allows; approve or edit it."""

    reason = "REVISIONS_EXHAUSTED"
    status = "FAILED_PRECONDITION"


class StaleLease(StepstreamError):
    """Another holder owns the attempt; the worker drops it silently."""

    reason = "STALE_LEASE"
    status = "ABORTED"


class TaskContended(StepstreamError):
    """The task changed under the call again and again; the caller tries again."""

    reason = "TASK_CONTENDED"
    status = "ABORTED"
    retryable = True


class TaskNotFailed(StepstreamError):
    """The task is no dead letter, or has changed since; the operator looks again."""

    reason = "TASK_NOT_FAILED"
    status = "FAILED_PRECONDITION"


class QueueNotFound(StepstreamError):
    """No pipeline has the queue, and no connected worker serves it."""

    reason = "QUEUE_NOT_FOUND"
    status = "NOT_FOUND"


class WorkerNotFound(StepstreamError):
    """No worker of that name in the last 10 minutes."""

    reason = "WORKER_NOT_FOUND"
    status = "NOT_FOUND"


class QueueFull(StepstreamError):
    """Too many live tasks, or Redis is full; the caller backs off."""

    reason = "QUEUE_FULL"
    status = "RESOURCE_EXHAUSTED"
    retryable = True


class RateLimited(StepstreamError):
    """Too many streams or watchers at this dispatcher; the caller backs off."""

    reason = "RATE_LIMITED"
    status = "RESOURCE_EXHAUSTED"
    retryable = True


class StoreBusy(StepstreamError):
    """Redis answers, and too many calls wait for a connection to it; the caller backs off."""

    reason = "STORE_BUSY"
    status = "RESOURCE_EXHAUSTED"
    retryable = True


class Unavailable(StepstreamError):
    """The service does not answer now; the SDK retries, elsewhere if it can."""

    reason = "UNAVAILABLE"
    status = "UNAVAILABLE"
    retryable = True


class Draining(Unavailable):
    """The dispatcher is leaving; the SDK retries, elsewhere if it can."""

    reason = "DRAINING"


class StoreUnavailable(Unavailable):
    """Redis does not answer; retry with the same request id."""

    reason = "STORE_UNAVAILABLE"


class ProtocolMismatch(StepstreamError):
    """The worker's protocol version is not served; the operator upgrades."""

    reason = "PROTOCOL_MISMATCH"
    status = "FAILED_PRECONDITION"


class RemoteProtocolError(StepstreamError):
    """The other side of a worker stream broke the protocol; its author acts."""

    reason = "PROTOCOL_ERROR"
    status = "INVALID_ARGUMENT"


class SessionSuperseded(StepstreamError):
    """A newer stream of the worker instance took over; nobody needs to act."""

    reason = "SESSION_SUPERSEDED"
    status = "ABORTED"


class NotServed(StepstreamError):
    """Not served by this release."""

    reason = "NOT_IMPLEMENTED"
    status = "UNIMPLEMENTED"


class InternalError(StepstreamError):
    """Our fault; the incident id finds it in the dispatcher's log."""


class OutcomeUnknown(TimeoutError):
    """No answer to a Submit in time: the task may have been accepted.

    The same call again, with this request id, joins the task if there is one, and makes it
    otherwise. Raised by the clients; nobody sends it.

    Args:
        message: For a person; without a full stop.
        request_id: What the call was made with.
    """

    def __init__(self, message: str, *, request_id: str) -> None:
        super().__init__(message)
        self.request_id = request_id


def _leaves(parent: type[StepstreamError]) -> list[type[StepstreamError]]:
    children = parent.__subclasses__()
    return [parent, *(leaf for child in children for leaf in _leaves(child))]


ERRORS_BY_REASON: dict[str, type[StepstreamError]] = {
    error.reason: error for error in _leaves(StepstreamError)
}
