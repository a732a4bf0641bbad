"""Which peers there are, at which versions, and which are chosen."""

import re
from pathlib import Path

import pytest

from bench.peers.install import UnavailableError, install, version
from bench.peers.measures import measures
from bench.peers.peer import ADAPTERS, OURS, PEERS, PINS, Peer, chosen

PIN_FILES = sorted(
    [*PINS.glob("*.txt"), *ADAPTERS.glob("*/package*.json"), *ADAPTERS.glob("*/go.*")]
)


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_every_peer_is_pinned(peer: Peer):
    assert re.fullmatch(r"\d+\.\d+\.\d+", version(peer))


@pytest.mark.parametrize("path", sorted(PINS.glob("*.txt")), ids=lambda path: path.stem)
def test_every_package_of_a_peer_is_pinned(path: Path):
    lines = path.read_text(encoding="utf-8").splitlines()

    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []


@pytest.mark.parametrize("path", PIN_FILES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_pins_name_no_place_to_get_them_from(path: Path):
    assert re.findall(r"registry|resolved|\bproxy\b", path.read_text(encoding="utf-8")) == []


def test_ours_is_always_among_the_chosen():
    assert [peer.name for peer in chosen("saq, huey")] == [OURS.name, "huey", "saq"]


def test_all_are_chosen_when_none_is_named():
    assert chosen("") == list(PEERS)


def test_an_unknown_peer_is_refused():
    with pytest.raises(ValueError, match="no such peer: resque"):
        chosen("saq resque")


def test_measures_are_chosen_by_name():
    assert [one.name for one in measures(10, "chain noop")] == ["noop", "chain"]


def test_an_unknown_measure_is_refused():
    with pytest.raises(ValueError, match="no such measure: memory"):
        measures(10, "memory")


def test_only_peers_with_chains_do_chains():
    chain = measures(10, "chain")[0]

    assert {peer.name for peer in PEERS if not chain.suits(peer)} == {
        "arq",
        "asynq",
        "rq",
        "saq",
        "taskiq",
    }


@pytest.mark.parametrize(("name", "missing"), [("bullmq", "node"), ("asynq", "go")])
def test_a_peer_without_its_runtime_cannot_be_installed(
    name: str, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(UnavailableError, match=f"{missing} is not on the PATH"):
        install(next(peer for peer in PEERS if peer.name == name), tmp_path / "home")
