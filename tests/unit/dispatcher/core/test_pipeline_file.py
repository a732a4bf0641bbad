"""Pipelines: what a file may say, and how a wrong one is refused."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepstream_dispatcher.core.pipeline import (
    PipelineError,
    RetryPolicy,
)
from stepstream_dispatcher.core.pipeline_file import load

GOOD = """\
# a comment before everything
[pipeline.letters]
result = ["sign", "write"]

[[pipeline.letters.step]]
name = "write"
state = "writing"
timeout = "1.5s"
retry = { retries = 5, initial = "100ms", factor = 3, max = "5m", jitter = 0 }
on = { completed = "check" }

[[pipeline.letters.step]]
name = "check"
state = "checking"
queue = "slow"
on = { passed = "done", rejected = "sign", empty = "failed" }

[[pipeline.letters.step]]
name = "sign"
state = "signing"
kind = "human"
max_revisions = 2
on = { approved = "done", edited = "done", rejected = "write" }
"""


def one(text: str):
    (pipeline,) = load("p.toml", text)
    return pipeline


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def test_file_is_read_whole():
    pipeline = one(GOOD)

    assert pipeline.name == "letters"
    assert list(pipeline.steps) == ["write", "check", "sign"]
    assert pipeline.first == "write"
    assert pipeline.result == ("sign", "write")
    write = pipeline.step("write")
    assert (write.state, write.kind, write.queue, write.timeout_ms) == (
        "writing",
        "worker",
        "letters",
        1500,
    )
    assert write.retry == RetryPolicy(
        retries=5, initial_ms=100, factor=3.0, max_ms=300_000, jitter=0.0
    )
    assert pipeline.step("check").queue == "slow"
    assert pipeline.step("check").retry == RetryPolicy()
    assert pipeline.step("sign").queue == ""
    assert pipeline.step("sign").max_revisions == 2
    assert pipeline.queues == {"letters", "slow"}


def test_result_defaults_to_the_last_step_first():
    assert one(changed('result = ["sign", "write"]\n', "")).result == ("sign", "check", "write")


def test_version_ignores_layout_and_follows_content():
    layout = one(changed("# a comment before everything", "# another\n"))
    content = one(changed('"1.5s"', '"1.6s"'))

    assert layout.version == one(GOOD).version
    assert content.version != one(GOOD).version


def test_several_pipelines_in_one_file():
    other = GOOD.replace("letters", "notes").replace("# a comment before everything", "")

    assert [each.name for each in load("p.toml", GOOD + other)] == ["letters", "notes"]


WRONG = {
    "unknown target": (changed('passed = "done"', 'passed = "nowhere"'), 16, "unknown step"),
    "unreachable": (changed('rejected = "sign"', 'rejected = "done"'), 18, "'sign' is never"),
    "two-step loop": (changed('empty = "failed"', 'empty = "write"'), 10, "no max_revisions"),
    "self loop": (changed('completed = "check"', 'completed = "check", a = "write"'), 10, "loop"),
    "loop by approval": (changed('approved = "done"', 'approved = "write"'), 10, "loop"),
    "never done": (
        GOOD.replace('"done"', '"failed"').replace('rejected = "write"', 'rejected = "failed"'),
        2,
        "no outcome leads to done",
    ),
    "duplicate step": (changed('name = "check"', 'name = "write"'), 13, "second step named"),
    "duplicate state": (changed('"checking"', '"writing"'), 14, "second step with state"),
    "reserved step": (changed('name = "check"', 'name = "done"'), 13, "reserved"),
    "review outcome missing": (changed(', edited = "done"', ""), 23, "exactly approved"),
    "review outcome added": (
        changed('edited = "done"', 'edited = "done", x = "done"'),
        23,
        "exactly",
    ),
    "worker without on": (changed('on = { completed = "check" }\n', ""), 5, "no outcome"),
    "worker with empty on": (changed('{ completed = "check" }', "{}"), 10, "no outcome"),
    "step name": (changed('name = "check"', 'name = "Check it"'), 13, "matching regex"),
    "outcome name": (changed("empty =", '"not ok" ='), 16, "matching regex"),
    "no name": (changed('name = "check"\n', ""), 12, "missing required field `name`"),
    "no state": (changed('state = "checking"\n', ""), 12, "missing required field `state`"),
    "unknown step key": (changed('queue = "slow"', 'que = "slow"'), 15, "unknown field `que`"),
    "unknown pipeline key": (changed("result =", "results ="), 3, "unknown field `results`"),
    "unknown retry key": (changed("retries = 5", "retry = 5"), 9, "unknown field `retry`"),
    "unknown result": (changed('["sign", "write"]', '["sing"]'), 3, "unknown step 'sing'"),
    "unknown kind": (changed('"human"', '"robot"'), 21, "kind"),
    "timeout unit": (changed('"1.5s"', '"1.5"'), 8, "not a duration"),
    "timeout zero": (changed('"1.5s"', '"0s"'), 8, "not a duration"),
    "timeout empty": (changed('"1.5s"', '""'), 8, "not a duration"),
    "timeout too long": (changed('"1.5s"', '"25h"'), 8, "not a duration"),
    "timeout a number": (changed('"1.5s"', "1.5"), 8, "timeout"),
    "retry initial": (changed('"100ms"', '"soon"'), 9, "not a duration"),
    "retry max below initial": (changed('"5m"', '"99ms"'), 9, "below initial"),
    "retries below 0": (changed("retries = 5", "retries = -1"), 9, ">= 0"),
    "factor nan": (changed("factor = 3", "factor = nan"), 9, "factor"),
    "jitter over 1": (changed("jitter = 0", "jitter = 1.1"), 9, "<= 1"),
    "human with queue": (changed("max_revisions = 2", 'queue = "q"'), 22, "for worker steps"),
    "human with timeout": (changed("max_revisions = 2", 'timeout = "1s"'), 22, "for worker steps"),
    "human with retry": (changed("max_revisions = 2", "retry = {}"), 22, "for worker steps"),
    "worker with revisions": (changed('queue = "slow"', "max_revisions = 1"), 15, "for human"),
    "not TOML": (changed('name = "check"', "name = "), 13, "Invalid value"),
    "other top-level key": ("pipelines = 1\n" + GOOD, 1, "unknown key 'pipelines'"),
    "pipeline name": (GOOD.replace("letters", '"A B"'), 2, "pipeline name 'A B'"),
    "pipeline is no table": ("[pipeline]\na = 1", 2, "Expected `object`"),
    "no step": ("\n[pipeline.a]\nstep = []", 3, "step"),
    "nothing": ("", 1, "no [pipeline.<name>] table"),
    "pipeline a number": ("pipeline = 3", 1, "no [pipeline.<name>] table"),
} | {
    f"reserved state {state}": (changed('"checking"', f'"{state}"'), 14, "reserved")
    for state in ("pending", "scheduled", "done", "failed", "cancelled")
}


@pytest.mark.parametrize(("text", "line", "words"), WRONG.values(), ids=WRONG.keys())
def test_wrong_file_is_refused_with_its_line(text: str, line: int, words: str):
    with pytest.raises(PipelineError) as refused:
        load("dir/p.toml", text)

    assert str(refused.value).startswith(f"dir/p.toml:{line}: ")
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [("300s", 300_000), ("1.5s", 1_500), ("100ms", 100), ("5m", 300_000), ("24h", 86_400_000)],
)
def test_durations(text: str, expected_ms: int):
    assert one(changed("1.5s", text)).step("write").timeout_ms == expected_ms


def test_no_revision_at_all_is_a_bound():
    assert one(changed("max_revisions = 2", "max_revisions = 0")).step("sign").max_revisions == 0


@given(st.integers(0, len(GOOD)), st.integers(0, 40), st.text(max_size=8))
def test_a_damaged_file_is_read_or_refused_but_never_crashes(start: int, length: int, put: str):
    text = GOOD[:start] + put + GOOD[start + length :]

    with suppress(PipelineError):
        load("p.toml", text)
