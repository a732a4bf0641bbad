"""The table of connected workers."""

from stepstream_dispatcher.engine.sessions import Session, Sessions
from tests.support.engine import hello


def test_lane_is_served_as_long_as_any_worker_may_be_fed_from_it():
    sessions = Sessions()
    first, second = (Session(name, hello(name), now=0.0) for name in ("first", "second"))

    sessions.add(first, ["default"])
    sessions.add(second, ["default", "checks"])
    assert (sessions.serves("default"), sessions.serves("checks")) == (True, True)

    sessions.remove(second)
    sessions.remove(second)
    assert (sessions.serves("default"), sessions.serves("checks")) == (True, False)

    sessions.remove(first)
    assert not sessions.serves("default")
