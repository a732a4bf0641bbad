"""The client's part in a trace: a span around each Submit, and its context with the call.

It takes part in the tracing of the program that it is used by, and brings none along: as long as
nobody has imported the OpenTelemetry API there is none, and nothing is imported or sent.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, TypeAlias

from stepstream import _telemetry as names
from stepstream.errors import StepstreamError
from stepstream.trace_context import read_carrier
from stepstream.types import Submitted

if TYPE_CHECKING:
    from opentelemetry.trace import Span

__all__ = ["Metadata", "Producing", "producing", "producing_batch"]

Metadata: TypeAlias = tuple[tuple[str, str], ...]


class Producing:
    """A Submit under way.

    Args:
        metadata: What goes with the call.
        span: Its span; None when nobody traces.
    """

    __slots__ = ("_span", "metadata")

    def __init__(self, metadata: Metadata = (), span: Span | None = None) -> None:
        self.metadata = metadata
        self._span = span

    def accepted(self, answer: Submitted) -> Submitted:
        """Note which task it became; returns the answer."""
        if self._span is not None:
            self._span.set_attribute(names.TASK_ID, answer.task_id)
        return answer

    def answered(
        self, answers: list[Submitted | StepstreamError]
    ) -> list[Submitted | StepstreamError]:
        """Note how many tasks a batch was; returns the answers."""
        if self._span is not None:
            self._span.set_attribute(names.TASKS, len(answers))
        return answers


_UNTRACED = nullcontext(Producing())


def producing(pipeline: str) -> AbstractContextManager[Producing]:
    """Trace one Submit within the block, if the program traces at all."""
    return _traced((pipeline,)) if _is_traced() else _UNTRACED


def producing_batch(pipelines: Sequence[str]) -> AbstractContextManager[Producing]:
    """Trace one SubmitBatch within the block: one span for all of its tasks."""
    return _traced(pipelines) if _is_traced() else _UNTRACED


def _is_traced() -> bool:
    """Whether there is anything to trace; other libraries too import the API, and trace nothing."""
    if "opentelemetry.trace" not in sys.modules:
        return False
    from stepstream import _otel  # noqa: PLC0415 - only where the program has it anyway

    return _otel.is_used()


@contextmanager
def _traced(pipelines: Sequence[str]) -> Iterator[Producing]:
    from stepstream import _otel  # noqa: PLC0415 - as above

    about = sorted(set(pipelines))
    name = about[0] if len(about) == 1 else "batch"
    with _otel.producer_span(f"{names.SUBMIT} {name}") as span:
        if len(about) == 1:
            span.set_attribute(names.PIPELINE, name)
        carrier = read_carrier(_otel.current_carrier().items())
        yield Producing(tuple(carrier.items()), span)
