"""`make bench-peers`: other queues and ours on the same work, in turns; docs/performance.md."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console

from bench.peers.install import UnavailableError, install, version
from bench.peers.killing import Killed, kill
from bench.peers.measures import Measure, measures
from bench.peers.peer import OURS, Peer, chosen
from bench.peers.results import Taken, kill_table, table
from bench.peers.stage import StalledError

FOLDER: Final = Path(".stepstream") / "bench"
WIDTH: Final = 110  # of the table, also where the output is no terminal


@dataclass
class Sitting:
    """One run: what was measured so far, and of whom."""

    console: Console
    folder: Path
    taken: list[Taken] = field(default_factory=list)
    killed: dict[str, Killed] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def installed(self, peers: list[Peer]) -> list[Peer]:
        """Install the peers; those that cannot be are left out, with the reason."""
        ready = []
        for peer in peers:
            try:
                install(peer, self.home(peer))
            except UnavailableError as error:
                self._failed(f"{peer.name}: skipped: {error}")
            else:
                ready.append(peer)
        return ready

    def take(self, number: int, peer: Peer, measure: Measure) -> None:
        """Measure a peer once."""
        try:
            value = measure.take(peer, self.home(peer))
        except StalledError as error:
            self._failed(f"{peer.name}: {measure.name}, round {number}: {error}")
            return
        self.taken.append(Taken(number, peer.name, measure.name, value))
        unit = "tasks/s" if measure.is_rate else "s"
        self._say(f"round {number}: {measure.name}: {peer.name} {value:,.3f} {unit}")

    def kill(self, peer: Peer) -> None:
        """Kill one of its workers."""
        try:
            self.killed[peer.name] = kill(peer, self.home(peer))
        except StalledError as error:
            self._failed(f"{peer.name}: kill: {error}")
            return
        self._say(f"kill: {peer.name} {self.killed[peer.name]}")

    def home(self, peer: Peer) -> Path:
        """Where the environment of a peer is."""
        return self.folder / peer.name

    def _failed(self, what: str) -> None:
        self.failures.append(what)
        self._say(what)

    def _say(self, what: str) -> None:
        self.console.print(what, markup=False, highlight=False, soft_wrap=True)


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=10_000, help="no-op tasks of a round")
    parser.add_argument("--peers", default="", help="their names; ours is always among them")
    parser.add_argument("--measures", default="", help="noop, 1x1, 2x3, 4x3, chain; all by default")
    parser.add_argument("--kill", action="store_true", help="kill a worker of each peer as well")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="environments and results")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Install, measure in turns, print, and write it down."""
    given = parse(argv)
    try:
        columns, peers = measures(given.tasks, given.measures), chosen(given.peers)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    sitting = Sitting(Console(width=WIDTH), given.folder.resolve())
    peers = sitting.installed(peers)
    versions = {peer.name: version(peer) for peer in peers}
    for number in range(1, given.rounds + 1):
        for column in columns:
            for peer in filter(column.suits, peers):
                sitting.take(number, peer, column)
    for peer in peers if given.kill else []:
        sitting.kill(peer)
    if sitting.taken:
        sitting.console.print(table(sitting.taken, OURS.name, versions, columns))
    if sitting.killed:
        sitting.console.print(kill_table(sitting.killed))
    print(_write(sitting, versions, argv))
    return 0


def _write(sitting: Sitting, versions: dict[str, str], argv: list[str]) -> Path:
    now = datetime.now(UTC)
    document = {
        "at": now.isoformat(timespec="seconds"),
        "arguments": argv,
        "machine": {"cores": os.cpu_count(), "kind": platform.machine()},
        "python": platform.python_version(),
        "versions": versions,
        "taken": [asdict(one) for one in sitting.taken],
        "killed": {name: asdict(one) for name, one in sitting.killed.items()},
        "failures": sitting.failures,
    }
    file = sitting.folder / f"peers-{now:%Y%m%d-%H%M%S}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return file


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
