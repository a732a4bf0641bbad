"""Properties that hold on every walk of facts from the creation of a task."""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from stepstream_dispatcher.core import facts as f
from stepstream_dispatcher.core.admission import Submission, creation
from stepstream_dispatcher.core.lifecycle import LOSSES_MAX, decide
from stepstream_dispatcher.core.pipeline import Pipeline
from stepstream_dispatcher.core.pipeline_file import load
from stepstream_dispatcher.core.record import (
    TERMINAL_STATES,
    Stage,
    TaskRecord,
    Transition,
)
from tests.support.records import (
    APPROVAL,
    NOW_MS,
    TRANSLATION,
    applied,
    circumstances,
    facts_of_every_kind,
)

# Every name is as long as its limit, so that the longest record is met.
(LONGEST,) = load(
    "longest.toml",
    f"""
    [[pipeline.{"p" * 48}.step]]
    name = "{"a" * 48}"
    state = "{"s" * 48}"
    on = {{ completed = "{"b" * 48}" }}

    [[pipeline.{"p" * 48}.step]]
    name = "{"b" * 48}"
    state = "{"w" * 48}"
    kind = "human"
    on = {{ approved = "done", edited = "done", rejected = "{"a" * 48}" }}
    """,
)
WORKER = "w" * 64
OWNERS = ("d" * 64, "e" * 64)
TOKEN_DIGITS = 16
SETTLEMENTS = (f.Completed, f.Failed, f.Lost, f.Released)
DEADLINE_MS = 20_000

OUTCOMES = ("completed", "passed", "rejected", "broken", "unheard of")
DECISIONS = ("approved", "edited", "rejected")


class Turn(NamedTuple):
    """One turn of a walk: which fact is said, whether it is true, and its particulars."""

    kind: type[f.Fact]
    true: bool  # the lease, entry and owner are the record's
    choice: int
    rand: float
    passes_ms: int


def turns(*kinds: type[f.Fact], most: int) -> st.SearchStrategy[list[Turn]]:
    return st.lists(
        st.builds(
            Turn,
            st.sampled_from(kinds),
            st.sampled_from([True, True, True, False]),
            st.integers(0, 59),
            st.floats(0, 1, exclude_max=True),
            st.sampled_from([0, 1, 5_000]),
        ),
        max_size=most,
    )


class Walk:
    """One task on its way; a fact that is refused changes nothing."""

    def __init__(self, pipeline: Pipeline, submission: Submission) -> None:
        first = creation(submission, pipeline, task_id="0" * 32, op_id="op000000", now_ms=NOW_MS)
        blank = TaskRecord(version=0, state="", stage=Stage.QUEUED, pipeline="", step="")
        self.pipeline = pipeline
        self.now_ms = NOW_MS
        self.steps = 0
        self.record = blank
        self.live = 0
        self.counts: Counter[str] = Counter()
        self.timer_ms = 0
        self.terminal_states: list[str] = []
        self.apply(first)

    def meet(self, fact: f.Fact, rand: float) -> Transition | None:
        at = circumstances(self.pipeline, now_ms=self.now_ms, rand=rand)
        decision = decide(self.record, fact, at)
        if not isinstance(decision, Transition):
            return None
        self.check(decision, fact)
        self.apply(decision)
        return decision

    def apply(self, transition: Transition) -> None:
        self.steps += 1
        self.record = applied(self.record, transition, entry=f"{NOW_MS}-{self.steps}")
        self.live += transition.live
        left, entered = transition.move or ("", "")
        self.counts[left] -= 1
        self.counts[entered] += 1
        self.timer_ms = transition.due_ms or (0 if transition.undelay else self.timer_ms)
        if transition.live == -1:
            self.terminal_states.append(self.record.state)

    def check(self, transition: Transition, fact: f.Fact) -> None:
        """What every transition keeps, judged before it is applied."""
        before = self.record
        known = applied(before, transition, entry="new")
        if transition.touch:
            assert "version" not in transition.fields
            assert transition.event.sequence == 0
            return
        assert known.version == before.version + 1 == transition.event.sequence
        assert transition.expected_version == before.version
        assert transition.move is None or transition.move == (before.state, known.state)
        assert (transition.move is None) == (before.state == known.state)
        if known.step == before.step:
            assert known.attempt - before.attempt == int(isinstance(fact, f.Leased))
        if isinstance(fact, SETTLEMENTS):
            assert transition.ack == (before.queue, before.entry)
            assert transition.lease == before.lease

    def agrees_with_itself(self) -> None:
        """What the record alone must always say."""
        record = self.record
        held = record.stage is Stage.LEASED
        assert bool(record.lease) == bool(record.owner) == bool(record.worker) == held
        assert bool(record.entry) == (record.stage in (Stage.QUEUED, Stage.LEASED))
        assert record.terminal == (record.state in TERMINAL_STATES)
        assert (record.stage is Stage.DELAYED) == (record.due_ms > 0)
        assert self.timer_ms == record.timer_ms
        wakes = record.stage is Stage.DELAYED or (
            record.deadline_ms > 0 and record.stage in (Stage.QUEUED, Stage.WAITING)
        )
        assert wakes == (self.timer_ms > 0)
        assert not record.deadline_ms or self.timer_ms <= record.deadline_ms
        assert self.live == int(not record.terminal)
        assert record.losses <= LOSSES_MAX
        assert sum(count for state, count in self.counts.items() if state) == 1
        assert self.counts[record.state] == 1

    def fits(self) -> None:
        """Every stored value is at most 64 bytes, so that Redis keeps the record packed."""
        texts = {name: str(value) for name, value in msgspec.to_builtins(self.record).items()}
        too_long = {name for name, text in texts.items() if len(text.encode()) > 64}
        assert too_long == set()


def fact_of(walk: Walk, turn: Turn) -> f.Fact:
    record, choice = walk.record, turn.choice
    token, entry = (record.lease, record.entry) if turn.true else ("stale", "0-1")
    owner = (record.owner or OWNERS[0]) if turn.true else OWNERS[1]
    said: dict[type[f.Fact], Callable[[], f.Fact]] = {
        f.Leased: lambda: f.Leased(
            entry=entry, token=f"{walk.steps:0{TOKEN_DIGITS}}", owner=OWNERS[0], worker=WORKER
        ),
        f.Adopted: lambda: f.Adopted(token=token, owner=OWNERS[choice % 2], worker=WORKER),
        f.Completed: lambda: f.Completed(token=token, outcome=OUTCOMES[choice % 5], output=b"text"),
        f.Failed: lambda: f.Failed(
            token=token, code="BUSY", message="busy", retryable=choice % 3 > 0
        ),
        f.Lost: lambda: f.Lost(
            token=token, owner=owner, reason="gone", waited_ms=choice % 2 * 1_500
        ),
        f.Released: lambda: f.Released(
            token=token, reason="drain", owner=owner, needless=choice % 2 > 0
        ),
        f.Progressed: lambda: f.Progressed(token=token, progress=turn.rand, note="譯" * choice),
        f.Requeued: lambda: f.Requeued(entry=entry, reason="no room", needless=choice % 2 > 0),
        f.CancelAsked: lambda: f.CancelAsked(reason="no longer needed"),
        f.Reviewed: lambda: f.Reviewed(decision=DECISIONS[choice % 3], reviewer="r" * 64),
        f.Due: f.Due,
        f.DeadlinePassed: lambda: f.DeadlinePassed(token=token if choice % 2 else ""),
        f.Redriven: f.Redriven,
        f.InputUpdated: lambda: f.InputUpdated(input=b"input", input_hash="f" * 16),
    }
    return said[turn.kind]()


REVIVALS = (f.Redriven, f.InputUpdated)
ORDINARY = tuple(kind for kind in facts_of_every_kind() if kind not in REVIVALS)
SUBMISSIONS = st.builds(
    Submission,
    pipeline=st.just("any"),
    input=st.just(b"text"),
    delay_ms=st.sampled_from([0, 2_000]),
    deadline_ms=st.sampled_from([None, DEADLINE_MS]),
    max_retries=st.sampled_from([-1, 0, 1]),
    initial_delay_ms=st.sampled_from([-1, 24 * 3600 * 1000]),
    timeout_ms=st.sampled_from([-1, 24 * 3600 * 1000]),
)
WALKS = st.builds(Walk, st.sampled_from([TRANSLATION, APPROVAL, LONGEST]), SUBMISSIONS)


@given(WALKS, turns(*ORDINARY, most=60))
@settings(max_examples=300)
def test_a_task_ends_once_and_its_record_always_agrees_with_itself(walk: Walk, path: list[Turn]):
    walk.agrees_with_itself()

    for turn in path:
        walk.meet(fact_of(walk, turn), turn.rand)
        walk.now_ms += turn.passes_ms
        walk.agrees_with_itself()
        walk.fits()

    assert len(walk.terminal_states) <= 1
    assert walk.terminal_states == ([walk.record.state] if walk.record.terminal else [])


@given(WALKS, turns(*ORDINARY, *REVIVALS, most=60))
@settings(max_examples=200)
def test_a_task_that_is_redriven_is_counted_once_still(walk: Walk, path: list[Turn]):
    for turn in path:
        walk.meet(fact_of(walk, turn), turn.rand)
        walk.now_ms += turn.passes_ms
        walk.agrees_with_itself()
        walk.fits()


@given(WALKS, turns(*ORDINARY, most=40))
@settings(max_examples=200)
def test_a_fact_that_moved_the_task_does_not_move_it_again(walk: Walk, path: list[Turn]):
    """What is decided again, from the record that it led to, settles nothing twice."""
    for turn in path:
        fact = fact_of(walk, turn)
        moved = walk.meet(fact, turn.rand)
        walk.now_ms += turn.passes_ms
        if moved is not None and isinstance(fact, (*SETTLEMENTS, f.Leased, f.Requeued)):
            assert walk.meet(fact, 0.5) is None


@given(WALKS, turns(*ORDINARY, most=60))
@settings(max_examples=200)
def test_a_task_beyond_its_deadline_begins_no_attempt_and_no_step(walk: Walk, path: list[Turn]):
    """Once it was noticed, at the latest when the attempt that runs is settled, it has failed."""
    for turn in path:
        late = walk.record.is_late(walk.now_ms)
        fact = fact_of(walk, turn)
        before = walk.record
        moved = walk.meet(fact, turn.rand)
        walk.now_ms += turn.passes_ms
        if late and moved is not None:
            assert not isinstance(fact, f.Leased)
            settled = isinstance(fact, (*SETTLEMENTS, f.DeadlinePassed))
            assert not settled or walk.record.state == ("cancelled" if before.cancel else "failed")


def test_only_released_attempts_never_spend_a_budget():
    walk = Walk(TRANSLATION, Submission(pipeline="translation", input=b"text"))

    for number in range(100):
        token = f"{number:0{TOKEN_DIGITS}}"
        leased = f.Leased(entry=walk.record.entry, token=token, owner="d", worker="w")
        walk.meet(leased, 0.5)
        walk.meet(f.Released(token=token, reason="drain"), 0.5)

    record = walk.record
    assert (record.stage, record.state) == (Stage.QUEUED, "translating")
    assert (record.attempt, record.failures, record.losses, record.errors) == (100, 0, 0, 0)


def test_mixed_failures_and_losses_have_separate_budgets():
    walk = Walk(TRANSLATION, Submission(pipeline="translation", input=b"text"))
    ends = [f.Failed] * 3 + [f.Lost] * 4 + [f.Failed]

    for number, kind in enumerate(ends):
        assert not walk.record.terminal
        token = f"{number:0{TOKEN_DIGITS}}"
        walk.meet(f.Leased(entry=walk.record.entry, token=token, owner="d", worker="w"), 0.5)
        end = (
            f.Failed(token=token, code="BUSY", message="busy", retryable=True)
            if kind is f.Failed
            else f.Lost(token=token, owner="d", reason="gone", waited_ms=0)
        )
        walk.meet(end, 0.5)
        walk.now_ms += 60_000
        walk.meet(f.Due(), 0.5)

    record = walk.record
    assert (record.state, record.failures, record.losses, record.errors) == ("failed", 4, 4, 8)
