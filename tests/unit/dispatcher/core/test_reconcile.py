"""What a sweep decides about one task, over every stage."""

import itertools

import msgspec
import pytest

from stepstream_dispatcher.core.reconcile import (
    DELAYED,
    ENDED,
    INDEX,
    Mend,
    Need,
    Repair,
    Sight,
    Tally,
    differences,
    is_passed,
    mends_of,
    need_of,
    stray_of,
)
from stepstream_dispatcher.core.record import Stage, TaskRecord

WAITING = ("scheduled", "human_review", "failed")
STATES = {
    Stage.QUEUED: "translating",
    Stage.LEASED: "translating",
    Stage.DELAYED: "scheduled",
    Stage.WAITING: "human_review",
    Stage.ENDED: "failed",
}
DUE, DEADLINE, EXPIRES = 700, 900, 5000


def record(stage: Stage, *, deadline_ms: int = 0) -> TaskRecord:
    return TaskRecord(
        version=4,
        state=STATES[stage],
        stage=stage,
        pipeline="translation@1",
        step="translate",
        queue="default",
        entry="5-1",
        due_ms=DUE if stage is Stage.DELAYED else 0,
        deadline_ms=deadline_ms,
        created_ms=100,
        updated_ms=200,
    )


def sound(stage: Stage, *, deadline_ms: int = 0) -> Sight:
    """A task of which nothing is destroyed."""
    known = record(stage, deadline_ms=deadline_ms)
    return Sight(
        task_id="t1",
        record=known,
        listed_ms=100,
        timer_ms=known.timer_ms or None,
        waits_ms=200 if known.state in WAITING else None,
        ends=frozenset({"failed"}) if stage is Stage.ENDED else frozenset(),
        expires_ms=EXPIRES if stage is Stage.ENDED else -1,
        has_entry=True,
        holder="d1" if stage is Stage.LEASED else "",
        passed=stage is Stage.LEASED,
    )


def without(sight: Sight, **changes: object) -> Sight:
    return msgspec.structs.replace(sight, **changes)


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("deadline_ms", [0, DEADLINE])
def test_a_sound_task_is_left_alone(stage: Stage, deadline_ms: int):
    sight = sound(stage, deadline_ms=deadline_ms)

    assert need_of(sight) is Need.NOTHING
    assert mends_of(sight, WAITING) == []
    assert stray_of(sight, INDEX) is None


@pytest.mark.parametrize(
    ("stage", "has_entry", "holder", "passed"),
    list(itertools.product(Stage, [True, False], ["", "d1"], [True, False])),
)
def test_a_task_that_nobody_would_meet_is_found(
    stage: Stage, has_entry: bool, holder: str, passed: bool
):
    sight = without(sound(stage), has_entry=has_entry, holder=holder, passed=passed)
    met = {
        Stage.QUEUED: has_entry and (not passed or bool(holder)),
        Stage.LEASED: bool(holder),
    }.get(stage, True)
    wanted = {Stage.QUEUED: Need.ENTRY, Stage.LEASED: Need.HOLDER}

    assert need_of(sight) is (Need.NOTHING if met else wanted[stage])


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("deadline_ms", [0, DEADLINE])
def test_every_set_that_lacks_the_task_gets_it(stage: Stage, deadline_ms: int):
    whole = sound(stage, deadline_ms=deadline_ms)
    bare = without(whole, listed_ms=None, timer_ms=None, waits_ms=None, ends=frozenset())

    mends = {mend.place: mend.score for mend in mends_of(bare, WAITING)}

    wanted = {INDEX: 100}
    if whole.timer_ms:
        wanted[DELAYED] = whole.timer_ms
    if STATES[stage] in WAITING:
        wanted[STATES[stage]] = 200
    if stage is Stage.ENDED:
        wanted[ENDED] = EXPIRES
    assert mends == wanted
    assert {mend.version for mend in mends_of(bare, WAITING)} == {4}


@pytest.mark.parametrize("stage", Stage)
def test_a_timer_that_differs_is_put_right(stage: Stage):
    (mend,) = mends_of(without(sound(stage), timer_ms=1), WAITING)

    assert (mend.place, mend.score) == (DELAYED, DUE if stage is Stage.DELAYED else None)


def test_an_ended_record_that_never_goes_is_not_said_to():
    sight = without(sound(Stage.ENDED), ends=frozenset(), expires_ms=-1)

    assert mends_of(sight, WAITING) == []


@pytest.mark.parametrize("place", [INDEX, DELAYED, *WAITING])
def test_what_has_no_record_is_a_stray(place: str):
    gone = Sight(task_id="t1", record=None)

    assert need_of(gone) is Need.NOTHING
    assert mends_of(gone, WAITING) == []
    assert stray_of(gone, place) == Mend(task_id="t1", version=0, place=place, score=None)


def test_a_task_that_has_expired_and_was_not_trimmed_is_none():
    expired = Sight(task_id="t1", record=None, ends=frozenset({"failed"}))

    assert stray_of(expired, INDEX) is None
    assert stray_of(expired, "failed") is None
    assert stray_of(expired, "human_review") is not None


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("place", WAITING)
def test_a_member_of_another_state_is_a_stray(stage: Stage, place: str):
    stray = stray_of(sound(stage), place)

    assert (stray is None) == (STATES[stage] == place)


@pytest.mark.parametrize("stage", Stage)
def test_a_timer_of_what_has_none_is_a_stray(stage: Stage):
    assert (stray_of(sound(stage), DELAYED) is None) == (stage is Stage.DELAYED)


@pytest.mark.parametrize(
    ("place", "word"),
    [
        (INDEX, Repair.INDEX),
        (DELAYED, Repair.TIMERS),
        (ENDED, Repair.ENDED),
        ("failed", Repair.STATES),
    ],
)
def test_each_repair_has_its_word(place: str, word: Repair):
    assert Mend(task_id="t1", version=1, place=place, score=None).repair is word


SIZES = {"index": 7, "delayed": 1, "ended": 3, "scheduled": 1, "human_review": 1, "failed": 1}
COUNTS = {
    "scheduled": 1,
    "human_review": 1,
    "translating": 2,
    "done": 1,
    "failed": 1,
    "cancelled": 1,
    "live": 4,
    "retries": 9,
    "entries": 2,
    "timers": 1,
    "listed": 7,
}


def tally(**changes: dict[str, int]) -> Tally:
    return Tally(
        counts=COUNTS | changes.get("counts", {}),
        sizes=SIZES | changes.get("sizes", {}),
        lanes={"default": 2, "checks": 0} | changes.get("lanes", {}),
        groupless=frozenset(),
    )


def test_counts_that_agree_differ_in_nothing():
    assert differences(tally()) == {}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"lanes": {"default": 0}}, {"entries": 2}),
        ({"lanes": {"default": 3}}, {"entries": -1}),
        ({"sizes": {"delayed": 0}}, {"timers": 1}),
        ({"sizes": {"index": 6}}, {"listed": 1}),
        ({"sizes": {"index": 8}, "counts": {"listed": 8}}, {"index": -1}),
        ({"sizes": {"ended": 1}}, {"ended": 2}),
        ({"sizes": {"human_review": 0}}, {"human_review": 1}),
        ({"counts": {"live": 5}}, {"live": 1}),
        ({"counts": {"translating": 3}}, {"live": -1}),
    ],
)
def test_each_destroyed_thing_shows(changes: dict[str, dict[str, int]], found: dict[str, int]):
    assert differences(tally(**changes)) == found


def test_a_task_submitted_anew_before_it_was_trimmed_is_no_difference():
    """It is counted for both lives, and listed once."""
    assert differences(tally(counts={"translating": 3, "live": 5})) == {}


def test_a_lane_without_its_group_shows():
    assert differences(msgspec.structs.replace(tally(), groupless=frozenset({"default"})))


@pytest.mark.parametrize(
    ("entry", "delivered", "passed"),
    [
        ("5-1", "5-1", True),
        ("5-1", "5-2", True),
        ("5-10", "5-9", False),
        ("10-0", "9-7", False),
        ("5-1", "", False),
        ("", "5-1", False),
    ],
)
def test_entries_are_compared_as_numbers(entry: str, delivered: str, passed: bool):
    assert is_passed(entry, delivered) is passed
