"""The page says what the result files say, and how far that carries."""

from __future__ import annotations

import msgspec
import pytest

from tests.chaos.evidence import BEGIN, END, merged, section
from tests.chaos.report import Result
from tests.chaos.takeovers import figures

RESULT = Result(
    seed=1,
    seconds=170.0,
    started="2026-01-01T00:00:00+00:00",
    tasks=3_000,
    steps=9_000,
    submitted={"ok": 2_990, "info": 10},
    modes={"PARALLEL": 2_990},
    faults={"kill-worker": 6, "cut-redis": 2},
    lost=0,
    doubled=0,
    unexpected=0,
    recovered=4,
    excused=0,
    dropped=0,
    late=3,
    duplicate_work=1.05,
    takeovers={},
    takeover_s={"stream": [1.0, 2.0]},
    early=0,
    repeated=0,
    breaches={},
    idle=[],
    audit=[],
    crashes=[],
    versions={"valkey": "9.1.2"},
    settings={},
    command="python -m tests.chaos --seed 1",
)


def changed(**fields: object) -> Result:
    return msgspec.structs.replace(RESULT, **fields)


def test_runs_are_added_up():
    text = section([RESULT, changed(seed=2, tasks=1_000)])

    assert "| tasks | 4,000 |" in text
    assert "| faults | 16 |" in text
    assert "| kill-worker | 12 |" in text
    assert "| 4 | 1.00 s | 2.00 s | 2.00 s | 2 s |" in text


def test_the_bound_is_three_by_the_number_of_tasks():
    assert "at most 100.0 in a million" in section([changed(tasks=30_000)])


def test_there_is_no_bound_once_something_was_lost():
    assert "rule of three" not in section([changed(lost=1, breaches={"lost": ["a: gone"]})])


FAILED: dict[str, dict[str, object]] = {
    "a breach": {"breaches": {"lost": ["a: gone"]}},
    "a fault without effect": {"idle": ["cut-redis d-0"]},
    "an audit": {"audit": ["lane work has 1 entries"]},
    "a crash": {"crashes": ["d-0 ended with 1"]},
    "duplicate work": {"duplicate_work": 1.31},
    "a slow takeover": {"takeovers": {"stream": figures([2.1])}},
}


@pytest.mark.parametrize("name", FAILED)
def test_a_run_fails_for(name: str):
    assert changed(**FAILED[name]).failures
    assert "| failed |" in section([changed(**FAILED[name])])


def test_a_run_in_which_nothing_is_wrong_passes():
    assert RESULT.failures == []
    assert "| passed |" in section([RESULT])


def test_only_the_written_part_of_the_page_changes():
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"

    assert merged(page, "new") == f"before\n{BEGIN}\n\nnew\n{END}\nafter\n"
    assert merged(merged(page, "new"), "new") == merged(page, "new")


def test_a_page_without_such_a_part_is_refused():
    with pytest.raises(ValueError, match="no part"):
        merged("nothing", "new")
