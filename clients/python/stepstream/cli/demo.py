"""`stepstream demo`: real documents through embedded Valkey, dispatcher and two workers."""

import asyncio
import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Annotated

import typer

from stepstream.cli.demo_show import Outcome, show_demo
from stepstream.cli.exits import Exit, complain
from stepstream.cli.options import check_directory
from stepstream.cli.probe import free_address
from stepstream.cli.samples import Document, find_samples, load_documents
from stepstream.cli.stack import DISPATCHER, WORKER, Stack, embedded_valkey, require
from stepstream.cli.supervisor import ChildSpec, Supervisor

__all__ = ["demo", "telling_lines"]

_WORKERS = 2
_SLOTS = 3
_GRACE_S = 10.0
_READY_TIMEOUT_S = 30.0
_LOG_LINES = 5
_DEATH = " ended with "  # the supervisor's words


def demo(
    data_dir: Annotated[
        Path,
        typer.Option(
            "--data-dir",
            metavar="DIR",
            callback=check_directory,
            help="Where the data stays afterwards.",
        ),
    ] = Path(".stepstream/demo"),
    keep_running: Annotated[
        bool, typer.Option("--keep-running", help="Go on until Ctrl-C, to look around.")
    ] = False,
) -> None:
    """Translate the sample documents and watch it happen.

    Starts an embedded Valkey, a dispatcher and two workers on free ports, submits every document
    at once, shows each change of state as it comes, and stops everything again. What waits for a
    person can be decided afterwards by the command that is printed at the end.

    Examples:
      stepstream demo
      stepstream demo --keep-running
    """
    require(DISPATCHER)
    require(WORKER)
    documents = load_documents(find_samples())
    data_dir.mkdir(parents=True, exist_ok=True)
    log_path = data_dir / "demo.log"
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(log_path.open("w", encoding="utf-8"))
        server = embedded_valkey(data_dir)
        valkey = stack.enter_context(server.reserved())
        processes = Stack(
            redis_url=server.url,
            grpc_address=free_address(),
            http_address=free_address(),
            data_dir=data_dir / "dispatcher",
            worker_count=_WORKERS,
            slots=_SLOTS,
            extra={"STEPSTREAM_DISPATCHER_ID": "demo", "STEPSTREAM_LOG_FORMAT": "console"},
        )
        show = _Demo(processes, valkey, documents, data_dir=data_dir, log=log)
        code = asyncio.run(show.run(keep_running=keep_running))
    if code not in {Exit.OK, Exit.INTERRUPTED}:
        _print_log_end(log_path)
    raise typer.Exit(code)


class _Demo:
    """The processes and the show, in one event loop."""

    def __init__(
        self,
        processes: Stack,
        valkey: ChildSpec,
        documents: list[Document],
        *,
        data_dir: Path,
        log: IO[str],
    ) -> None:
        self._processes = processes
        self._valkey = valkey
        self._documents = documents
        self._data_dir = data_dir
        self._log = log
        self._started_mono = time.monotonic()

    async def run(self, *, keep_running: bool) -> int:
        """Runs everything; returns the exit status."""
        supervisor = Supervisor(
            [self._valkey, *self._processes.children()],
            emit=self._write_log,
            grace_s=_GRACE_S,
            ready_timeout_s=_READY_TIMEOUT_S,
        )
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(supervisor.serve(handle_signals=True))
            showing = tasks.create_task(self._show(supervisor))
            await asyncio.wait({serving, showing}, return_when=asyncio.FIRST_COMPLETED)
            if showing.done():
                if keep_running and showing.result().good:
                    await self._stay(serving)
                supervisor.request_stop()
            showing.cancel()
            stopped = await serving
        if showing.cancelled():
            complain("the demo was interrupted" if not stopped else "the processes ended early")
            return Exit.INTERRUPTED if not stopped else Exit.FAILED
        return self._judge(showing.result())

    async def _show(self, supervisor: Supervisor) -> Outcome:
        counts = f"Valkey, a dispatcher and {_WORKERS} workers with {_SLOTS} slots each"
        sys.stdout.write(f"starting {counts} ...\n")
        await supervisor.ready.wait()
        elapsed_s = time.monotonic() - self._started_mono
        sys.stdout.write(f"ready after {elapsed_s:.1f} s at {self._processes.address}\n\n")
        return await show_demo(self._processes.address, self._documents, data_dir=self._data_dir)

    async def _stay(self, serving: "asyncio.Task[int]") -> None:
        sys.stdout.write(f"\nrunning on at {self._processes.address}; Ctrl-C stops it\n")
        await asyncio.wait({serving})

    def _judge(self, outcome: Outcome) -> Exit:
        if outcome.good:
            return Exit.OK
        complain(f"the demo did not go as it should: {outcome.words}")
        return Exit.FAILED

    def _write_log(self, name: str, line: str) -> None:
        self._log.write(f"{name:<12} | {line}\n")
        self._log.flush()


def telling_lines(lines: Sequence[str]) -> Sequence[str]:
    """The lines of a log that say why: those up to the first death of a process, else the end."""
    for number, line in enumerate(lines):
        if line.startswith("supervisor") and _DEATH in line:
            dead = line.partition("| ")[2].split()[0]
            last_words = [one for one in lines[:number] if one.split(" ", 1)[0] == dead]
            return [*last_words[-_LOG_LINES:], line]
    return lines[-_LOG_LINES:]


def _print_log_end(log_path: Path) -> None:
    lines = log_path.read_text(encoding="utf-8").splitlines()
    sys.stderr.write(f"from the log {log_path}:\n")
    sys.stderr.writelines(f"  {line}\n" for line in telling_lines(lines))
