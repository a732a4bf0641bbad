"""The words for people: tasks, events and values as lines of text. Pure."""

import json
from datetime import datetime
from typing import Any

from stepstream.types import Task, TaskEvent, Value

__all__ = [
    "event_words",
    "finding_words",
    "first_line",
    "progress_words",
    "short_time",
    "task_words",
    "title_of",
    "value_text",
    "verdict_of",
]

_EVENT_WORDS = {
    "SUBMITTED": "accepted",
    "SCHEDULED": "accepted, starts in {delay}",
    "QUEUED": "{step} queued",
    "LEASED": "{step} at {actor}{again}",
    "ADOPTED": "{step} goes on at {actor} through another dispatcher",
    "COMPLETED": "{step} {detail}",
    "RETRYING": "{step} failed{again}: {detail}: {message}; again in {delay}",
    "LOST": "{step} lost with its worker; again in {delay}",
    "RELEASED": "{step} given back, queued again",
    "WAITING": "{step} {detail}: a person decides",
    "REVIEWED": "review {detail} by {actor}{colon_message}",
    "CANCEL_REQUESTED": "cancel requested{colon_message}",
    "DONE": "{step} {detail}",
    "FAILED": "{step} failed for good: {detail}{colon_message}",
    "CANCELLED": "cancelled{colon_message}",
    "REDRIVEN": "put back by an operator",
    "INPUT_UPDATED": "input changed by an operator",
    "PROGRESS": "{step} {percent} {message}",
}


def event_words(event: TaskEvent) -> str:
    """Says in a few words what happened."""
    template = _EVENT_WORDS.get(event.type, event.type.lower())
    words = template.format(
        step=event.step,
        actor=event.actor,
        detail=event.detail,
        message=first_line(event.message),
        delay=f"{event.delay_s or 0:.2g} s",
        again=f" (attempt {event.attempt})" if event.attempt > 1 else "",
        colon_message=f": {first_line(event.message)}" if event.message else "",
        percent=f"{event.progress:.0%}",
    )
    return words.strip()


def task_words(task: Task) -> str:
    """Says in a few words where a task is."""
    place = f" at {task.worker}" if task.worker else ""
    again = f" (attempt {task.attempt})" if task.attempt > 1 else ""
    return f"{task.state}: {task.step}{place}{again} {progress_words(task)}".rstrip()


def progress_words(task: Task) -> str:
    """How far the running attempt is, and the worker's words beside it; empty when it said none."""
    if not (task.progress or task.progress_note):
        return ""
    return f"{task.progress:.0%} {task.progress_note}".rstrip()


def short_time(moment: datetime | None) -> str:
    """The local time of day to the millisecond; blank when unknown."""
    return moment.astimezone().strftime("%H:%M:%S.%f")[:-3] if moment else " " * 12


def first_line(text: str) -> str:
    """The first line of a text."""
    return text.strip().partition("\n")[0]


def value_text(value: Value) -> str:
    """A payload as text: the member `text` of an object when it has one, else JSON."""
    match value:
        case None:
            return ""
        case str():
            return value
        case bytes():
            return value.decode(errors="replace")
        case {"text": str(text)}:
            return text
        case _:
            return json.dumps(value, ensure_ascii=False, indent=2)


def title_of(task: Task, limit: int = 40) -> str:
    """A few words to know a task by: its label `title`, else the start of its text."""
    words = task.labels.get("title") or first_line(value_text(task.input)).lstrip("# ")
    return words if len(words) <= limit else words[: limit - 1] + "…"


def verdict_of(task: Task) -> dict[str, Any]:
    """What verification said: verdict, score, findings; empty before it has."""
    verdict = task.outputs.get("verify")
    return verdict if isinstance(verdict, dict) else {}


def finding_words(finding: Any) -> str:
    """One finding on one line: where, which check, what."""
    if not isinstance(finding, dict):
        return str(finding)
    line = finding.get("line")
    where = f"line {line}: " if line else ""
    return f"{where}{finding.get('check', 'finding')}: {finding.get('message', '')}"
