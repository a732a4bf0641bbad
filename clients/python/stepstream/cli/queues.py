"""`stepstream pause` and `resume`: stop handing out from a queue, and go on."""

import sys
from typing import Annotated

import typer

from stepstream.cli.completion import complete_queue
from stepstream.cli.connect import connected
from stepstream.cli.options import Address, AsJson
from stepstream.cli.output import print_json
from stepstream.cli.program import command_line

__all__ = ["pause", "resume"]

Queue = Annotated[
    str,
    typer.Argument(
        metavar="QUEUE", help="Its name, as in its pipeline.", autocompletion=complete_queue
    ),
]


def pause(queue: Queue, as_json: AsJson = False, address: Address = None) -> None:
    """Stop handing out from a queue, at all dispatchers; what runs goes on.

    Tasks are accepted as before, and wait.

    Example:
      stepstream pause default
    """
    with connected(address) as client:
        client.operator.pause_queue(queue)
    if as_json:
        print_json({"queue": queue, "paused": True})
    else:
        resume_it = command_line("resume", queue)
        sys.stdout.write(f"paused {queue}: nothing more is handed out; go on: {resume_it}\n")


def resume(queue: Queue, as_json: AsJson = False, address: Address = None) -> None:
    """Hand out from a paused queue again.

    Example:
      stepstream resume default
    """
    with connected(address) as client:
        client.operator.resume_queue(queue)
    if as_json:
        print_json({"queue": queue, "paused": False})
    else:
        sys.stdout.write(f"resumed {queue}\n")
