"""Tasks that move while they are counted."""

import itertools

import pytest

from stepstream_dispatcher.core.census import Census
from stepstream_dispatcher.core.record import TERMINAL_STATES, Event, EventType, Stage, TaskRecord

LIFE = [  # of one task: the state that each version has, and what led there
    ("pending", EventType.SUBMITTED),
    ("translating", EventType.LEASED),
    ("failed", EventType.FAILED),
    ("translating", EventType.REDRIVEN),
    ("cancelled", EventType.CANCELLED),
]


def event(version: int) -> Event:
    state, kind = LIFE[version - 1]
    return Event(sequence=version, at_ms=0, type=kind, state=state)


def record(version: int) -> TaskRecord:
    state, _ = LIFE[version - 1]
    stage = Stage.ENDED if state in TERMINAL_STATES else Stage.QUEUED
    return TaskRecord(version=version, state=state, stage=stage, pipeline="p@1", step="translate")


def orders() -> list[tuple[int, int, int, int]]:
    """When listening began, which version was read, after which event that, and the last one."""
    last = len(LIFE)
    return [
        (first, seen, after, end)
        for first, seen, after, end in itertools.product(range(last + 1), repeat=4)
        if first <= seen <= end and first <= after <= end and end
    ]


@pytest.mark.parametrize(("first", "seen", "after", "end"), orders())
def test_a_moving_task_is_counted_once_where_it_was_at_the_marker(
    first: int, seen: int, after: int, end: int
):
    """Read at version `seen`, and that taken in after the event `after`: earlier or later."""
    census = Census()
    for version in range(first + 1, after + 1):
        census.heard("t1", event(version))
    if seen:
        census.saw("t1", record(seen))
        if LIFE[seen - 1][0] in TERMINAL_STATES:
            census.saw_end(LIFE[seen - 1][0], "t1")
    for version in range(after + 1, end + 1):
        census.heard("t1", event(version))
    state, _ = LIFE[end - 1]
    ended = int(state in TERMINAL_STATES)

    counts = census.counts(ended=ended)

    assert {name: n for name, n in counts.items() if n} == (
        {state: 1} if ended else {state: 1, "live": 1}
    )


def test_progress_moves_nothing():
    census = Census()
    census.saw("t1", record(1))

    census.heard("t1", Event(sequence=0, at_ms=0, type=EventType.PROGRESS, state="translating"))

    assert census.counts(ended=0)["pending"] == 1


def test_a_task_that_begins_anew_after_it_expired_is_live():
    census = Census()
    census.heard("t1", event(5))

    census.heard("t1", event(1))

    assert census.counts(ended=1)["pending"] == 1


def test_more_ends_than_may_be_remembered_are_not_counted():
    census = Census(ends_max=3)
    for number in range(3):
        census.heard(
            f"ended-{number}", Event(sequence=9, at_ms=0, type=EventType.DONE, state="done")
        )
    kept = census.gave_up
    census.saw_end("failed", "t1")
    census.saw("t2", record(1))
    census.heard("t3", event(5))

    assert (kept, census.gave_up) == (False, True)
    assert not any(census.counts(ended=0).values())


def test_more_events_than_may_be_heard_are_not_counted():
    census = Census(events_max=2)
    for number in range(2):
        census.heard(f"t{number}", event(1))
    kept = census.gave_up
    census.heard("t2", event(1))

    assert (kept, census.gave_up) == (False, True)
    assert not any(census.counts(ended=0).values())


def test_most_ends_are_counted_by_what_the_others_leave():
    census = Census()
    census.saw_end("done", "t1")
    census.saw_end("cancelled", "t2")
    census.saw_end("cancelled", "t2")

    assert census.counts(ended=3) == {"failed": 0, "cancelled": 1, "done": 2, "live": 0}
