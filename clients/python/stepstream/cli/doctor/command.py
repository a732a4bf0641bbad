"""The command: runs every check, shows them as a table, and ends with 1 when one is bad."""

import sys
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from stepstream.cli.config import gather
from stepstream.cli.doctor.dispatcher import check_dispatcher, is_serving
from stepstream.cli.doctor.finding import Finding, State, bad, fine
from stepstream.cli.doctor.host import check_engines, check_host
from stepstream.cli.doctor.redis_server import check_redis
from stepstream.cli.doctor.repair import repair_by
from stepstream.cli.exits import CommandError, Exit
from stepstream.cli.options import Address, AsJson
from stepstream.cli.output import on_terminal, print_grid, print_json, print_lines, printable
from stepstream.settings import ClientSettings, LocalSettings, SettingsError, read

__all__ = ["doctor"]

Repair = Annotated[
    bool,
    typer.Option(
        "--repair",
        help="Have the dispatcher mend what differs from the tasks' records in Redis.",
    ),
]

_STYLES = {State.OK: "green", State.WARN: "yellow", State.BAD: "bold red"}
_SIGNS = {State.OK: "✓", State.WARN: "!", State.BAD: "✗"}


def doctor(as_json: AsJson = False, address: Address = None, repair: Repair = False) -> None:
    """Look at everything that stepstream stands on, and say what to do.

    Python and packages, settings, Redis (version, durability, eviction, memory, latency, clock),
    ports and who has them, the dispatcher, its workers and their versions. Works when nothing
    runs. Ends with 1 when something is bad; a warning is no failure.

    Examples:
      stepstream doctor
      stepstream doctor --json | jq -r '.[] | select(.state != "ok") | .advice'
      stepstream doctor --repair
    """
    findings: list[Finding] = []
    for finding in _findings(address, repair=repair):
        findings.append(finding)
        if not as_json and not on_terminal():
            print_lines([(finding.name, finding.state, finding.found, finding.advice)])
    if as_json:
        print_json(findings)
    elif on_terminal():
        _print(findings)
    raise typer.Exit(Exit.FAILED if any(one.state is State.BAD for one in findings) else Exit.OK)


def _findings(address: str | None, *, repair: bool) -> Iterator[Finding]:
    """Every finding. What spawns processes comes before what loads grpc."""
    engines = list(check_engines())
    try:
        local, client = read(LocalSettings), read(ClientSettings)
        settings = {one.setting.name: one.setting.value for one in gather()}
    except (CommandError, SettingsError) as error:
        yield from check_host({})
        yield bad("settings", str(error), "change the variable; ranges: docs/configuration.md")
        return
    yield from check_host(settings)
    yield fine("settings", "all in range")
    yield from engines
    if local.parallel:
        yield from check_redis(local.redis_url, needed=not is_serving(local.http_address))
    else:
        yield fine("redis", "not needed: USE_PARALLEL_PROCESSING=false")
    called = address.split(",")[0].strip() if address else client.addresses[0]
    yield from check_dispatcher(local.grpc_address, local.http_address, called)
    if repair:
        yield repair_by(called)


def _print(findings: Sequence[Finding]) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("")
    table.add_column("check", no_wrap=True)
    table.add_column("found", ratio=1, overflow="fold")
    for one in findings:
        words = Text(printable(one.found))
        if one.advice:
            words.append(f"\n→ {one.advice}", style=_STYLES[one.state])
        table.add_row(Text(_SIGNS[one.state], style=_STYLES[one.state]), one.name, words)
    table.expand = True
    print_grid(table)
    count = {state: sum(one.state is state for one in findings) for state in State}
    told = ", ".join(f"{number} {state}" for state, number in count.items() if number)
    sys.stdout.write(f"\n{told}\n")
