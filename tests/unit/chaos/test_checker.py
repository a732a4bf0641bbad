"""Each invariant is seen to fire on a made-up history that breaks it, and on no other."""

from __future__ import annotations

import msgspec
import pytest

from stepstream_dispatcher.core.record import Event, EventType
from tests.chaos.checker import check
from tests.chaos.history import (
    Fault,
    History,
    Outcome,
    Reopened,
    Run,
    Sighting,
    Submit,
    Truth,
    Watched,
)

TASK = "a" * 32
OTHER = "b" * 32
STEPS = ("first", "second", "third")


def submit(outcome: Outcome = Outcome.OK, task: str = TASK, ended: float = 1.0) -> Submit:
    return Submit(request=f"of {task}", task=task, began=0.5, ended=ended, outcome=outcome)


def events(*told: tuple[EventType, str, int]) -> list[Event]:
    """Events with running sequences, one a second."""
    return [
        Event(
            sequence=number,
            at_ms=number * 1000,
            type=kind,
            state="done" if kind is EventType.DONE else "somewhere",
            step=step,
            attempt=attempt,
            actor="w-0",
        )
        for number, (kind, step, attempt) in enumerate(told, start=1)
    ]


GOOD = events(
    (EventType.SUBMITTED, "first", 0),
    (EventType.LEASED, "first", 1),
    (EventType.COMPLETED, "first", 1),
    (EventType.LEASED, "second", 1),
    (EventType.LOST, "second", 1),
    (EventType.LEASED, "second", 2),
    (EventType.COMPLETED, "second", 2),
    (EventType.LEASED, "third", 1),
    (EventType.DONE, "third", 1),
)
RUNS = [("first", 1), ("second", 1), ("second", 2), ("third", 1)]


def run(step: str, attempt: int, ended: float | None = 2.0) -> Run:
    how = "completed" if ended else ""
    return Run(task=TASK, step=step, attempt=attempt, pid=1, began=1.0, ended=ended, how=how)


def truth(told: list[Event] | None = None, state: str = "done", **changes: object) -> Truth:
    told = GOOD if told is None else told
    fields = {"state": state, "version": len(told), "events": told, **changes}
    return msgspec.convert(fields, Truth)


def history(**changes: object) -> History:
    """One task that ended well after one loss."""
    fields: dict[str, object] = {
        "submits": [submit()],
        "runs": [run(step, attempt) for step, attempt in RUNS],
        "truth": {TASK: truth()},
        **changes,
    }
    return History(**fields)  # type: ignore[arg-type]


def extended(*told: tuple[EventType, str, int]) -> list[Event]:
    known = [(event.type, event.step, event.attempt) for event in GOOD]
    return events(*known, *told)


def without(number: int) -> list[Event]:
    return [event for event in GOOD if event.sequence != number]


def with_attempt(number: int, attempt: int) -> list[Event]:
    return [
        msgspec.structs.replace(event, attempt=attempt) if event.sequence == number else event
        for event in GOOD
    ]


def test_a_good_history_breaks_nothing():
    verdict = check(history(watched=[Watched(task=TASK, sequences=[*range(1, 10)], last="DONE")]))

    assert verdict.breaches == {}
    assert verdict.steps == 3
    assert verdict.attempts_a_step == pytest.approx(4 / 3)


BAD = {
    "accepted and not there": (history(truth={}), "lost"),
    "accepted and not at its end": (history(truth={TASK: truth(state="second")}), "lost"),
    "never submitted": (history(submits=[]), "unexpected"),
    "refused and there": (history(submits=[submit(Outcome.FAIL)]), "unexpected"),
    "a step recorded twice": (
        history(
            truth={
                TASK: truth(extended((EventType.LEASED, "third", 2), (EventType.DONE, "third", 2)))
            },
            runs=[run(*one) for one in (*RUNS, ("third", 2))],
        ),
        "doubled",
    ),
    "two ends": (
        history(truth={TASK: truth(extended((EventType.CANCELLED, "third", 1)))}),
        "doubled",
    ),
    "an event after the end": (
        history(truth={TASK: truth(extended((EventType.QUEUED, "third", 1)))}),
        "doubled",
    ),
    "a version without an event": (history(truth={TASK: truth(without(5))}), "holes"),
    "more versions than events": (history(truth={TASK: truth(version=10)}), "holes"),
    "the result of an attempt that was lost": (
        history(truth={TASK: truth(with_attempt(7, 1))}),
        "stale",
    ),
    "a result that nobody was handed": (
        history(truth={TASK: truth(events(*[(e.type, e.step, e.attempt) for e in without(8)]))}),
        "stale",
    ),
    "recorded and never begun": (
        history(runs=[run(*one) for one in RUNS if one != ("first", 1)]),
        "unstarted",
    ),
    "another result later": (
        history(
            truth={TASK: truth(outputs={"first": "x"})},
            sightings=[Sighting(task=TASK, at=9.0, state="done", outputs={"first": "y"})],
        ),
        "changed",
    ),
    "another end later": (
        history(sightings=[Sighting(task=TASK, at=9.0, state="cancelled", outputs={})]),
        "changed",
    ),
    "a watcher that missed an event": (
        history(watched=[Watched(task=TASK, sequences=[1, 2, 4, 5, 6, 7, 8, 9], last="DONE")]),
        "misled",
    ),
    "a watcher that saw one twice": (
        history(watched=[Watched(task=TASK, sequences=[1, 2, 2, *range(3, 10)], last="DONE")]),
        "misled",
    ),
    "a watcher that did not see the end": (
        history(watched=[Watched(task=TASK, sequences=[*range(1, 9)], last="LEASED")]),
        "misled",
    ),
    "a watcher that was sent away": (
        history(watched=[Watched(task=TASK, sequences=[1], last="SUBMITTED", error="INTERNAL")]),
        "misled",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_history_breaks_what_it_is_meant_to_break(name: str):
    bad, breach = BAD[name]

    assert breach in check(bad).breaches


def test_an_unknown_submit_that_is_there_is_recovered():
    verdict = check(history(submits=[submit(Outcome.INFO)]))

    assert verdict.breaches == {}
    assert verdict.recovered == [TASK]


def test_an_unknown_submit_that_is_not_there_is_nothing():
    assert check(history(submits=[submit(), submit(Outcome.INFO, OTHER)])).breaches == {}


def test_a_refusal_that_follows_an_unknown_outcome_decides_nothing():
    verdict = check(history(submits=[submit(Outcome.INFO), submit(Outcome.FAIL)]))

    assert verdict.breaches == {}


def killed_redis(at: float) -> list[Fault]:
    return [Fault(kind="kill-redis", target="redis", began=at, ended=at + 1, paths=["redis"])]


def test_what_was_acknowledged_just_before_a_kill_of_redis_is_excused():
    verdict = check(history(truth={}, faults=killed_redis(2.0), volatile_s=2.0))

    assert verdict.breaches == {}
    assert len(verdict.excused) == 1


@pytest.mark.parametrize(
    ("at", "volatile_s"),
    [(3.5, 2.0), (0.4, 2.0), (2.0, 0.0)],
    ids=["long before the kill", "asked after the kill", "the file is synced at every write"],
)
def test_nothing_else_is_excused(at: float, volatile_s: float):
    verdict = check(history(truth={}, faults=killed_redis(at), volatile_s=volatile_s))

    assert len(verdict.lost) == 1


@pytest.mark.parametrize(
    ("ended", "mode", "lost"),
    [(1.5, "PARALLEL", 0), (2.1, "PARALLEL", 1), (1.5, "SYNCHRONOUS_FALLBACK", 1)],
    ids=["answered while it was dead", "answered once it was back", "kept in a journal"],
)
def test_what_was_under_way_at_a_kill_of_redis_is_excused(ended: float, mode: str, lost: int):
    under_way = msgspec.structs.replace(submit(ended=ended), mode=mode)

    verdict = check(
        history(submits=[under_way], truth={}, faults=killed_redis(1.0), volatile_s=2.0)
    )

    assert (len(verdict.lost), len(verdict.excused)) == (lost, 1 - lost)


@pytest.mark.parametrize(
    ("changes", "breaches"),
    [
        ({}, ["changed"]),
        ({"faults": killed_redis(7.0), "volatile_s": 2.0}, []),
        ({"faults": killed_redis(9.0), "volatile_s": 2.0}, ["changed"]),
        ({"dropped": {TASK}}, []),
    ],
    ids=["for no reason", "just before a kill of Redis", "long before it", "its journal gave way"],
)
def test_a_decision_is_lost_for_a_documented_reason(
    changes: dict[str, object], breaches: list[str]
):
    reopened = Reopened(task=TASK, began=5.0, ended=6.0)

    assert list(check(history(reopened=[reopened], **changes)).breaches) == breaches


def test_a_review_begins_another_life():
    told = events(
        (EventType.SUBMITTED, "first", 0),
        (EventType.LEASED, "first", 1),
        (EventType.WAITING, "first", 1),
        (EventType.REVIEWED, "review", 0),
        (EventType.LEASED, "first", 1),
        (EventType.DONE, "first", 1),
    )
    runs = [run("first", 1), run("first", 1)]

    assert check(history(truth={TASK: truth(told)}, runs=runs)).breaches == {}


def test_a_result_after_the_loss_of_its_attempt_is_late():
    lost_at = 5.0
    runs = [run(*one) for one in RUNS if one != ("second", 1)]

    assert check(history(runs=[*runs, run("second", 1, lost_at + 1)])).late == 1
    assert check(history(runs=[*runs, run("second", 1, lost_at - 1)])).late == 0


def test_attempts_that_failed_as_planned_are_no_duplicate_work():
    told = events(
        (EventType.SUBMITTED, "first", 0),
        (EventType.LEASED, "first", 1),
        (EventType.RETRYING, "first", 1),
        (EventType.QUEUED, "first", 1),
        (EventType.LEASED, "first", 2),
        (EventType.DONE, "first", 2),
    )
    runs = [run("first", 1), run("first", 2)]

    assert check(history(truth={TASK: truth(told)}, runs=runs)).attempts_a_step == 1.0


def test_what_a_fallback_gave_up_by_its_own_rules_is_told_and_no_breach():
    sighting = Sighting(task=TASK, at=9.0, state="cancelled", outputs={})

    verdict = check(history(sightings=[sighting], dropped={TASK}))

    assert verdict.breaches == {}
    assert verdict.dropped == [TASK]
