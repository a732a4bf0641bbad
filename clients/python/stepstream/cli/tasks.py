"""`stepstream get`, `list`, `cancel` and `stats`: read tasks and counts."""

import sys
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from stepstream.cli.completion import complete_state
from stepstream.cli.connect import connected
from stepstream.cli.options import Address, AsJson, DataDir, Labels, TaskId, parse_labels
from stepstream.cli.output import on_terminal, print_json, print_lines, print_table, screen
from stepstream.cli.wording import first_line, progress_words, short_time, title_of, value_text
from stepstream.types import Stats, Task

if TYPE_CHECKING:
    from stepstream import Client

__all__ = ["cancel", "get", "list_tasks", "pages", "stats"]

_PAGE = 20  # with payloads of up to 3 MiB each


def get(
    *,
    task_id: TaskId,
    as_json: AsJson = False,
    address: Address = None,
    data_dir: DataDir = None,
) -> None:
    """Show one task: where it is, what it was given, what came out, what went wrong.

    Examples:
      stepstream get TASK_ID
      stepstream get TASK_ID --json | jq -r .result.text
    """
    with connected(address, data_dir) as client:
        task = client.get(task_id)
    if as_json:
        print_json(task)
        return
    _print_facts(task)
    _print_errors(task)
    for name, value in (("input", task.input), ("result", task.result)):
        if value is not None:
            screen().print(f"\n── {name}", style="bold")
            sys.stdout.write(value_text(value).rstrip("\n") + "\n")


def list_tasks(
    *,
    state: Annotated[
        str,
        typer.Option(
            "--state",
            "-s",
            help="Only tasks in this state, for example done.",
            autocompletion=complete_state,
        ),
    ] = "",
    pipeline: Annotated[
        str, typer.Option("--pipeline", "-p", help="Only tasks of this pipeline.")
    ] = "",
    label: Labels = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=1_000_000, help="At most so many.")
    ] = 50,
    as_json: AsJson = False,
    address: Address = None,
    data_dir: DataDir = None,
) -> None:
    """List tasks, newest first.

    In a pipe: task id, state, pipeline, attempt, worker, time of the last change and title, with
    tabs between.

    Examples:
      stepstream list --state failed
      stepstream list --state human_review --json
    """
    with connected(address, data_dir) as client:
        found = pages(client, state=state, pipeline=pipeline, labels=parse_labels(label))
        tasks = list(islice(found, limit))
    if as_json:
        print_json(tasks)
        return
    if not on_terminal():
        print_lines([_row(task) for task in tasks])
    elif tasks:
        columns = ("task", "state", "worker", "changed", "title")
        print_table(columns, [_short_row(task) for task in tasks])
    else:
        sys.stdout.write("no task matches\n")


def _row(task: Task) -> tuple[object, ...]:
    changed = short_time(task.update_time)
    place = (task.state, task.pipeline, task.attempt, task.worker, changed)
    return (task.task_id, *place, title_of(task))


def _short_row(task: Task) -> tuple[object, ...]:
    return task.task_id, task.state, task.worker, short_time(task.update_time), title_of(task)


def cancel(
    task_id: TaskId,
    reason: Annotated[str, typer.Option("--reason", help="For the history.")] = "",
    as_json: AsJson = False,
    address: Address = None,
) -> None:
    """Cancel a task: at once, or as soon as its worker has let go.

    Example:
      stepstream cancel TASK_ID --reason "sent twice"
    """
    with connected(address) as client:
        task = client.cancel(task_id, reason=reason)
    if as_json:
        print_json(task)
    elif task.finished:
        sys.stdout.write("cancelled\n")
    else:
        sys.stdout.write(f"cancel requested: {task.worker or 'a worker'} still holds {task.step}\n")


def stats(as_json: AsJson = False, address: Address = None) -> None:
    """Show workers, queue and throughput.

    Examples:
      stepstream stats
      stepstream stats --json | jq .queue
    """
    with connected(address) as client:
        counts = client.stats()
    if as_json:
        print_json(counts)
    elif on_terminal():
        _print_stats_tables(counts)
    else:
        print_lines(_stats_lines(counts))


def pages(
    client: "Client",
    *,
    state: str = "",
    pipeline: str = "",
    labels: dict[str, str] | None = None,
) -> Iterator[Task]:
    """Every matching task with its payloads, newest first, read page by page."""
    token = ""
    while True:
        page = client.list(
            state=state,
            pipeline=pipeline,
            labels=labels,
            page_size=_PAGE,
            page_token=token,
            payloads=True,
        )
        yield from page.tasks
        token = page.next_page_token
        if not token:
            return


def _print_facts(task: Task) -> None:
    facts: list[tuple[str, object]] = [
        ("task", task.task_id),
        ("pipeline", task.pipeline),
        ("state", task.state),
        ("phase", task.phase),
        ("step", f"{task.step}, attempt {task.attempt}" if task.attempt else task.step),
        ("worker", task.worker),
        ("progress", progress_words(task)),
        ("created", _moment(task.create_time)),
        ("changed", _moment(task.update_time)),
        ("due", _moment(task.due_time)),
        ("labels", ", ".join(f"{key}={value}" for key, value in sorted(task.labels.items()))),
        ("reviewer", task.reviewer),
        ("revisions", task.revisions or ""),
    ]
    console = screen()
    for name, value in facts:
        if value:
            console.print(f"{name:<9} {value}")


def _print_errors(task: Task) -> None:
    for error in task.errors:
        where = f"{error.step} #{error.attempt} at {error.worker or 'nobody'}"
        screen().print(f"error     {where}: {error.code}: {first_line(error.message)}", style="red")


def _moment(moment: datetime | None) -> str:
    if moment is None:
        return ""
    return moment.astimezone().isoformat(sep=" ", timespec="milliseconds")


def _stats_lines(counts: Stats) -> list[tuple[object, ...]]:
    """Name and number, a line each."""
    workers = [
        (f"worker.{name}.{field}", getattr(worker, field))
        for name, worker in sorted(counts.workers.items())
        for field in ("processed", "failed", "current_tasks", "is_running", "max_in_flight")
    ]
    states = [(f"state.{name}.depth", state.depth) for name, state in sorted(counts.states.items())]
    return [*workers, *states, *_summary(counts)]


def _summary(counts: Stats) -> list[tuple[object, ...]]:
    return [
        ("processed", counts.totals.processed),
        ("failed", counts.totals.failed),
        ("running", counts.totals.current_tasks),
        ("retries", counts.retries),
        ("failures", f"{counts.failure_percentage:.1f}%"),
        ("a minute", f"{counts.throughput_per_minute:.0f}"),
        ("utilization", f"{counts.worker_utilization:.0%}"),
        ("mode", counts.execution_mode),
    ]


def _print_stats_tables(counts: Stats) -> None:
    workers = [
        (
            name,
            "running" if worker.is_running else "gone",
            f"{worker.current_tasks}/{worker.max_in_flight}",
            worker.processed,
            worker.failed,
        )
        for name, worker in sorted(counts.workers.items())
    ]
    states = [
        (name, state.depth, "" if state.oldest_age_s is None else f"{state.oldest_age_s:.1f} s")
        for name, state in sorted(counts.states.items())
    ]
    console = screen()
    if workers:
        print_table(("worker", "", "#slots", "#processed", "#failed"), workers)
    else:
        console.print("no worker is connected: start one with `stepstream worker`", style="yellow")
    console.print()
    if states:
        print_table(("state", "#tasks", "#oldest"), states)
        console.print()
    console.print("   ".join(f"{name} {value}" for name, value in _summary(counts)))
