"""For the tests of programs that use stepstream: one step alone, or a whole dispatcher.

`run_step` calls a handler as a worker would, with nothing else running. `LocalStepstream` starts a
real dispatcher on this host and serves your steps from the test's own process.
"""

from stepstream.testing.local import LocalStepstream, MissingExtra, StartFailed
from stepstream.testing.steps import (
    RecordingContext,
    Report,
    StepRun,
    run_step,
    run_step_async,
    step_context,
)

__all__ = [
    "LocalStepstream",
    "MissingExtra",
    "RecordingContext",
    "Report",
    "StartFailed",
    "StepRun",
    "run_step",
    "run_step_async",
    "step_context",
]
