"""`stepstream dispatcher` and `stepstream worker`: run one service in this process."""

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

import stepstream
from stepstream.cli.exits import CommandError, Exit
from stepstream.cli.options import Address, check_name
from stepstream.cli.stack import DISPATCHER, WORKER, require
from stepstream.settings import child_environment

__all__ = ["dispatcher", "load_worker", "worker"]


def dispatcher() -> None:
    """Run a dispatcher, with its settings from the environment.

    It needs a Redis at REDIS_URL and listens at STEPSTREAM_GRPC_ADDRESS and
    STEPSTREAM_HTTP_ADDRESS.

    Example:
      REDIS_URL=redis://localhost:6379 stepstream dispatcher
    """
    require(DISPATCHER)
    _become(DISPATCHER, {})


def _check_names(values: list[str] | None) -> list[str] | None:
    for value in values or []:
        check_name(value)
    return values


def worker(
    *,
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODULE:APP]",
            help="A Worker, a list of steps, or a module with steps: pkg.mod:app, file.py:app or "
            "file.py. Without it, the shipped translation worker.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", callback=check_name, help="Its name; by default made from the host's."
        ),
    ] = None,
    slots: Annotated[
        int | None, typer.Option("--slots", min=1, max=1000, help="Attempts at once; 3 by default.")
    ] = None,
    queue: Annotated[
        list[str] | None,
        typer.Option(
            "--queue",
            "-q",
            callback=_check_names,
            help="Queue to be fed from; may be given several times.",
        ),
    ] = None,
    address: Address = None,
) -> None:
    """Run a worker: the shipped one, or your own steps.

    The first SIGTERM or Ctrl-C lets running steps finish, a second one ends it at once.

    Examples:
      stepstream worker
      stepstream worker worker.py
      stepstream worker mypackage.steps:app --queue mine --slots 8
    """
    if target is None:
        _become_shipped_worker(name, slots, queue, address)
        return
    given = {
        "name": name,
        "slots": slots,
        "queues": queue,
        "address": address.split(",") if address else None,
    }
    load_worker(target, **{key: value for key, value in given.items() if value}).run()


def _become_shipped_worker(
    name: str | None, slots: int | None, queue: list[str] | None, address: str | None
) -> None:
    if queue:
        raise CommandError("the shipped worker serves the queue `default` only", Exit.USAGE)
    require(WORKER)
    given = {
        "STEPSTREAM_WORKER_NAME": name,
        "MAX_CONCURRENT_TASKS": str(slots) if slots else None,
        "STEPSTREAM_ADDRESS": address,
    }
    _become(WORKER, {key: value for key, value in given.items() if value})


def load_worker(target: str, **options: Any) -> "stepstream.Worker":
    """Finds the worker that a target names, or makes one of its steps.

    Args:
        target: `module`, `module:attribute`, `file.py` or `file.py:attribute`.
        options: Arguments of Worker that the person gave.

    Raises:
        CommandError: there is no such module or attribute, or it is neither worker nor steps.
    """
    module_name, _, attribute = target.partition(":")
    found: Any = _load_module(module_name)
    if attribute:
        if not hasattr(found, attribute):
            raise CommandError(f"{module_name} has no {attribute!r}", Exit.USAGE)
        found = getattr(found, attribute)
    if isinstance(found, ModuleType):
        found = _worker_or_steps(found)
    if isinstance(found, stepstream.Worker):
        if options:
            raise CommandError(f"{target} is a Worker: set {', '.join(options)} there", Exit.USAGE)
        return found
    try:
        return stepstream.Worker(steps=list(found), **options)
    except (TypeError, ValueError) as error:
        raise CommandError(f"{target}: {error}", Exit.USAGE) from error


def _worker_or_steps(module: ModuleType) -> Any:
    """The only Worker among a module's attributes, else its steps."""
    from stepstream.worker import find_steps  # noqa: PLC0415 - loads grpc

    workers = [one for one in vars(module).values() if isinstance(one, stepstream.Worker)]
    return workers[0] if len(workers) == 1 else find_steps(module)


def _load_module(name: str) -> ModuleType:
    """Imports a module by its name, or from a file here that has it."""
    path = Path(name if name.endswith(".py") else f"{name.replace('.', '/')}.py")
    if name.endswith(".py") or not _is_importable(name):
        return _load_file(path)
    return importlib.import_module(name)


def _is_importable(name: str) -> bool:
    if not all(part.isidentifier() for part in name.split(".")):
        return False
    try:
        return importlib.util.find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):
        return False


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        message = f"no module and no file {path}: a package here needs `python -m stepstream.cli`"
        raise CommandError(message, Exit.USAGE)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise CommandError(f"{path} is not Python", Exit.USAGE)
    module = importlib.util.module_from_spec(spec)
    # Registered before it runs, as an import does: dataclasses and pickle look it up by its name.
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _become(module: str, changes: dict[str, str]) -> None:
    """Replaces this process by a service; nothing of ours stays behind."""
    sys.stdout.flush()
    argv = [sys.executable, "-m", module]
    os.execve(sys.executable, argv, child_environment(changes))  # noqa: S606
