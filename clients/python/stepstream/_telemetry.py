"""Names of the SDK's spans and of their attributes: the only place that spells them.

docs/tracing.md describes them; a test compares it with this module.
"""

from typing import Final

__all__ = [
    "ATTEMPT",
    "ERROR",
    "LEASE",
    "OPERATION",
    "OUTCOME",
    "PIPELINE",
    "PROCESS",
    "SCOPE",
    "STEP",
    "SUBMIT",
    "SYSTEM",
    "TASKS",
    "TASK_ID",
    "WORKER",
    "WORKER_SERVICE",
]

SCOPE: Final = "stepstream"  # the instrumentation scope of every span
WORKER_SERVICE: Final = "stepstream-worker"  # service.name, where nothing else is set

# Spans, each followed by what it is about.
SUBMIT: Final = "submit"  # <pipeline>
PROCESS: Final = "process"  # <step>

# Attributes.
TASK_ID: Final = "stepstream.task.id"
PIPELINE: Final = "stepstream.pipeline"
TASKS: Final = "stepstream.tasks"  # how many a batch has
STEP: Final = "stepstream.step"
ATTEMPT: Final = "stepstream.attempt"
WORKER: Final = "stepstream.worker"
LEASE: Final = "stepstream.lease"
OUTCOME: Final = "stepstream.outcome"
ERROR: Final = "error.type"  # as the semantic conventions have it
SYSTEM: Final = "messaging.system"
OPERATION: Final = "messaging.operation.type"
