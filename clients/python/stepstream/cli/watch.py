"""`stepstream watch`: each event of one task, or every task that changes."""

from typing import Annotated

import typer

from stepstream.cli.completion import complete_state, complete_task
from stepstream.cli.connect import connected
from stepstream.cli.exits import interruptible
from stepstream.cli.follow import exit_of, follow
from stepstream.cli.live_tasks import follow_all
from stepstream.cli.options import Address, AsJson, Labels, parse_labels
from stepstream.cli.program import command_line

__all__ = ["watch"]

_SEQUENCE_MAX = 2**63 - 1  # int64 on the wire


TaskId = Annotated[
    str | None,
    typer.Argument(
        metavar="[TASK_ID]",
        help="The task; without it, every task that changes.",
        autocompletion=complete_task,
    ),
]
FromNow = Annotated[bool, typer.Option("--from-now", help="Leave out what has happened already.")]
After = Annotated[
    int,
    typer.Option(
        "--after", min=0, max=_SEQUENCE_MAX, help="Only events behind this sequence number."
    ),
]
Progress = Annotated[bool, typer.Option("--progress", help="Write progress too, line by line.")]
States = Annotated[
    list[str] | None,
    typer.Option(
        "--state",
        "-s",
        help="Without a task id: only tasks in this state; may be given several times.",
        autocompletion=complete_state,
    ),
]
Pipeline = Annotated[
    str,
    typer.Option("--pipeline", "-p", help="Without a task id: only tasks of this pipeline."),
]


def watch(
    *,
    task_id: TaskId = None,
    from_now: FromNow = False,
    after: After = 0,
    progress: Progress = False,
    state: States = None,
    pipeline: Pipeline = "",
    label: Labels = None,
    as_json: AsJson = False,
    address: Address = None,
) -> None:
    """Show each event of a task, from its start to its end, as it happens.

    Goes on by itself when the dispatcher restarts. Ends with the task: exit status 5 when it
    failed or was cancelled. With --json a document per line: the task as it stands, then events.

    Without a task id: the latest tasks as a live table, in a pipe a line for each change, until
    Ctrl-C.

    Examples:
      stepstream watch TASK_ID
      stepstream watch TASK_ID --json | jq -r .event.state
      stepstream watch --pipeline translation --state human_review
    """
    labels = parse_labels(label)
    if task_id is None:
        if from_now or after or progress:
            raise typer.BadParameter("--from-now, --after and --progress are for one TASK_ID")
        with connected(address) as client:
            follow_all(
                client, states=state or [], pipeline=pipeline, labels=labels, as_json=as_json
            )
        return
    if state or pipeline or labels:
        raise typer.BadParameter("--state, --pipeline and --label choose among tasks: no TASK_ID")
    again = command_line("watch", task_id)
    with connected(address) as client, interruptible(f"the task goes on; look again: {again}"):
        follow(
            client,
            task_id,
            after=None if from_now else after,
            as_json=as_json,
            progress=progress,
        )
        task = client.get(task_id, payloads=False)
    raise typer.Exit(exit_of(task))
