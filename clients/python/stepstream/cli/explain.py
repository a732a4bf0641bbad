"""`stepstream explain`: why a task is not running, and what to do about it."""

import sys
from datetime import UTC, datetime

from stepstream.cli.connect import connected
from stepstream.cli.options import Address, AsJson, TaskId
from stepstream.cli.output import on_terminal, print_json, print_lines, screen, styled
from stepstream.cli.program import command_line
from stepstream.cli.wording import progress_words, short_time
from stepstream.types import ExplainReason, Explanation, Task

__all__ = ["REASON_NAMES", "explain", "next_command", "span_words"]

REASON_NAMES: dict[str, str] = {
    ExplainReason.RUNNING: "it runs",
    ExplainReason.FINISHED: "it has ended",
    ExplainReason.NO_WORKER: "no worker for it",
    ExplainReason.NO_FREE_SLOT: "no free slot",
    ExplainReason.QUEUE_PAUSED: "its queue is paused",
    ExplainReason.WAITING_UNTIL: "it is due later",
    ExplainReason.AWAITING_REVIEW: "it waits for a person",
    ExplainReason.DEADLINE_PASSED: "its deadline has passed",
    ExplainReason.QUEUED: "it is next in line",
}
# What to type next; TASK_ID stands for the task.
_NEXT: dict[str, tuple[str, ...]] = {
    ExplainReason.RUNNING: ("watch", "TASK_ID"),
    ExplainReason.NO_WORKER: ("workers",),
    ExplainReason.NO_FREE_SLOT: ("workers",),
    ExplainReason.AWAITING_REVIEW: ("review", "TASK_ID"),
    ExplainReason.QUEUED: ("watch", "TASK_ID"),
}
_REDRIVE = ("redrive", "TASK_ID")


def explain(task_id: TaskId, as_json: AsJson = False, address: Address = None) -> None:
    """Say why a task is not running: the reason, since and until when, and what to do.

    In a pipe: the reason, since when, until when, and the words, with tabs between.

    Examples:
      stepstream explain TASK_ID
      stepstream explain TASK_ID --json | jq -r .reason
    """
    with connected(address) as client:
        explanation = client.explain(task_id)
        task = client.get(task_id, payloads=False)
    if as_json:
        print_json({"task_id": task_id, "since": task.update_time, **_fields(explanation)})
    elif on_terminal():
        _print(task, explanation)
    else:
        since, until = _stamp(task.update_time), _stamp(explanation.until)
        print_lines([(explanation.reason, since, until, explanation.message)])


def next_command(task: Task, explanation: Explanation) -> str:
    """The command that helps on; empty when none does."""
    failed = explanation.reason == ExplainReason.FINISHED and task.state == "failed"
    words = _REDRIVE if failed else _NEXT.get(explanation.reason, ())
    return (
        command_line(*(task.task_id if word == "TASK_ID" else word for word in words))
        if words
        else ""
    )


def _print(task: Task, explanation: Explanation) -> None:
    console = screen()
    step = f" at {task.step}" if task.step else ""
    console.print(f"task {task.task_id} of {task.pipeline}: ", style="bold", end="")
    console.print(f"{task.state}{step}", style=styled(task.state))
    name = REASON_NAMES.get(explanation.reason, explanation.reason.lower())
    console.print(f"  why    {explanation.message or name}")
    if task.update_time:
        console.print(f"  since  {short_time(task.update_time)}, {_ago(task.update_time)}")
    if explanation.reason == ExplainReason.RUNNING and (so_far := progress_words(task)):
        console.print(f"  so far {so_far}")
    if explanation.until:
        console.print(f"  until  {short_time(explanation.until)}")
    if command := next_command(task, explanation):
        console.print(f"  next   {command}")
    sys.stdout.flush()


def _fields(explanation: Explanation) -> dict[str, object]:
    return {name: getattr(explanation, name) for name in ("reason", "message", "until")}


def _stamp(moment: datetime | None) -> str:
    return moment.isoformat() if moment else ""


def _ago(moment: datetime) -> str:
    seconds = max((datetime.now(UTC) - moment).total_seconds(), 0.0)
    return f"{span_words(seconds)} ago"


def span_words(seconds: float) -> str:
    """A span of time in its two largest units, such as `2 h 5 min`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    told = [f"{number} {unit}" for number, unit in parts if number]
    return " ".join(told[:2]) or "0 s"
