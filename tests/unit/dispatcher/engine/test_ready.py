"""Entries that wait for room: each lane in order, each for so long, the oldest first."""

from stepstream_dispatcher.core.assign import Offer
from stepstream_dispatcher.engine.leasing import Load
from stepstream_dispatcher.engine.ready import Ready
from stepstream_dispatcher.store.port import Entry
from tests.support.records import queued


def load(name: str, queue: str = "default") -> Load:
    return Load(entry=Entry(queue, name, name, "translate"), record=queued(), data={})


def offer(session_id: str, free: int, *queues: str) -> Offer:
    return Offer(session_id=session_id, queues=frozenset(queues), free=free, held=0)


def names(loads) -> list[str]:
    return [one.entry.entry_id for one in loads]


def test_what_finds_room_is_taken_in_order_and_the_rest_waits():
    ready = Ready()
    ready.add([load("1"), load("2"), load("3")], until=5.0)

    taken = ready.match([offer("a", 2, "default")])

    assert [(one.entry.entry_id, session) for one, session in taken] == [("1", "a"), ("2", "a")]
    assert ready.waiting("default") == 1
    assert names(ready.take_all()) == ["3"]
    assert not ready


def test_a_slot_that_serves_two_lanes_goes_to_what_waits_longest():
    ready = Ready()
    ready.add([load("late", "checks")], until=2.0)
    ready.add([load("later")], until=3.0)

    ((taken, _),) = ready.match([offer("a", 1, "default", "checks")])

    assert taken.entry.entry_id == "late"
    assert ready.waiting("default") == 1


def test_a_lane_without_room_holds_up_no_other():
    ready = Ready()
    ready.add([load("1", "checks")], until=1.0)
    ready.add([load("2")], until=2.0)

    taken = ready.match([offer("a", 4, "default")])

    assert names(one for one, _ in taken) == ["2"]
    assert ready.waiting("checks") == 1


def test_what_has_waited_long_enough_is_taken_alone():
    ready = Ready()
    ready.add([load("1")], until=1.0)
    ready.add([load("2")], until=2.0)

    assert names(ready.take_late(0.9)) == []
    assert names(ready.take_late(1.0)) == ["1"]
    assert ready.waiting("default") == 1


def test_lanes_are_taken_as_a_whole():
    ready = Ready()
    ready.add([load("1"), load("2", "checks")], until=1.0)

    assert names(ready.take_lanes({"checks", "nothing"})) == ["2"]
    assert names(ready.take_all()) == ["1"]
