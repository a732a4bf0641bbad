"""Names of the dispatcher's spans and of their attributes: the only place that spells them.

docs/tracing.md describes them; a test compares it with this module. Names that the worker's spans
have too are the SDK's, see `stepstream._telemetry`.
"""

from typing import Final

__all__ = [
    "ATTEMPT",
    "DECISION",
    "DELAY",
    "ERROR",
    "LEASE",
    "OPERATION",
    "OUTCOME",
    "PIPELINE",
    "PROCESS",
    "QUEUE",
    "QUEUED",
    "REVIEW",
    "REVIEWER",
    "REVISIONS",
    "SERVICE",
    "STATE",
    "STEP",
    "SYSTEM",
    "TASK",
    "TASK_ID",
    "WAIT_MS",
    "WORKER",
]

SERVICE: Final = "stepstream-dispatcher"  # service.name, where nothing else is set

# Spans, each followed by what it is about.
TASK: Final = "task"  # <pipeline>
QUEUED: Final = "queue"  # <queue>
DELAY: Final = "delay"  # <step>
REVIEW: Final = "review"  # <step>
PROCESS: Final = "process"  # <step>; of attempts that their workers did not settle

# Attributes.
TASK_ID: Final = "stepstream.task.id"
PIPELINE: Final = "stepstream.pipeline"
STATE: Final = "stepstream.state"
REVISIONS: Final = "stepstream.revisions"
STEP: Final = "stepstream.step"
QUEUE: Final = "stepstream.queue"
WAIT_MS: Final = "stepstream.wait_ms"
ATTEMPT: Final = "stepstream.attempt"
WORKER: Final = "stepstream.worker"
LEASE: Final = "stepstream.lease"
OUTCOME: Final = "stepstream.outcome"
REVIEWER: Final = "stepstream.reviewer"
DECISION: Final = "stepstream.decision"
ERROR: Final = "error.type"
SYSTEM: Final = "messaging.system"
OPERATION: Final = "messaging.operation.type"
