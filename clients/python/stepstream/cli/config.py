"""`stepstream config`: what each setting is, and where it comes from."""

import shutil
import sys
from collections.abc import Iterable, Sequence

from msgspec import Struct, convert

from stepstream.cli.exits import CommandError, Exit
from stepstream.cli.options import AsJson
from stepstream.cli.output import on_terminal, print_json, print_lines, print_table
from stepstream.cli.services import ask
from stepstream.cli.stack import DISPATCHER, WORKER, is_installed
from stepstream.settings import ClientSettings, EditorSettings, LocalSettings, Setting, describe

__all__ = ["SettingOf", "config", "gather"]

# Who answers `python -m MODULE --config`, in the order of the table.
_SERVICES = (("dispatcher", DISPATCHER),)
_WIDE_COLUMNS = 100


class SettingOf(Struct, frozen=True, kw_only=True):
    """A setting, and the parts that read it."""

    setting: Setting
    parts: list[str]


def config(as_json: AsJson = False) -> None:
    """Show every setting: its value, whether the environment or the default gives it, its range.

    Passwords and keys are shown as ***. What it shows is what a process that is started now would
    read; one that runs already has read its own environment. Ends with 2 when a value is bad.

    Examples:
      stepstream config
      stepstream config | grep environment
      stepstream config --json | jq '.[] | select(.source == "environment")'
    """
    found = gather()
    if as_json:
        print_json([_document(each) for each in found])
    elif on_terminal():
        _print(found)
    else:
        print_lines([_row(each) for each in found])


def gather() -> list[SettingOf]:
    """Asks every part for its settings; one that several parts read comes once.

    Raises:
        CommandError: a value is bad; every complaint is written first.
        SettingsError: the same, of the client side.
    """
    merged: dict[str, SettingOf] = {}
    for part, settings in _parts():
        for setting in settings:
            known = merged.get(setting.name)
            first, parts = (known.setting, known.parts) if known else (setting, [])
            merged[setting.name] = SettingOf(setting=first, parts=[*parts, part])
    return list(merged.values())


def _parts() -> Iterable[tuple[str, list[Setting]]]:
    for part, module in _SERVICES:
        if is_installed(module):
            yield part, _asked(module)
    yield "start", describe(LocalSettings)
    if is_installed(WORKER):
        yield "worker", _worker_settings()
    yield "client", describe(ClientSettings)
    yield "review", describe(EditorSettings)


def _asked(module: str) -> list[Setting]:
    reply = ask(module, "--config")
    for line in reply.complaints:
        sys.stderr.write(f"{line}\n")
    if reply.status != Exit.OK or reply.answer is None:
        raise CommandError(f"{module} refuses its settings", Exit.USAGE)
    return convert(reply.answer, list[Setting])


def _worker_settings() -> list[Setting]:
    # Behind the children: it loads grpc, which does not like to be forked under.
    from stepstream.worker.settings import WorkerSettings  # noqa: PLC0415

    return describe(WorkerSettings)


def _print(found: Sequence[SettingOf]) -> None:
    """Writes the table; the ranges where there is room for them."""
    columns, rows = ["setting", "value", "from"], [list(_row(one)[:3]) for one in found]
    if shutil.get_terminal_size().columns >= _WIDE_COLUMNS:
        columns.append("takes")
        rows = [[*row, _rest(one)] for row, one in zip(rows, found, strict=True)]
    print_table(columns, rows, fold=True)


def _rest(one: SettingOf) -> str:
    default = one.setting.default or "(empty)"
    changed = one.setting.source != "default"
    return f"{one.setting.takes}; by default {default}" if changed else one.setting.takes


def _row(one: SettingOf) -> tuple[str, ...]:
    setting = one.setting
    return setting.name, setting.value, setting.source, setting.takes, ",".join(one.parts)


def _document(one: SettingOf) -> dict[str, object]:
    setting = one.setting
    return {
        "name": setting.name,
        "value": setting.value,
        "source": setting.source,
        "takes": setting.takes,
        "default": setting.default,
        "read_by": one.parts,
    }
