"""Pauses between tries that bring nothing."""

from stepstream_dispatcher.core.patience import Patience


def pauses(patience: Patience, tries: int) -> list[float]:
    """How long each vain try is followed by a pause, when the next one comes at once after it."""
    now, found = 1000.0, []
    for _ in range(tries):
        patience.tried_in_vain(["entries"], now=now)
        pause_s = next(s for s in range(1, 1000) if patience.allows(["entries"], now=now + s))
        found.append(float(pause_s))
        now += pause_s
    return found


def test_the_pause_doubles_up_to_a_limit():
    patience = Patience(first_s=30.0, most_s=600.0)

    assert pauses(patience, 7) == [30, 60, 120, 240, 480, 600, 600]


def test_another_cause_is_not_waited_with():
    patience = Patience(first_s=30.0, most_s=600.0)
    patience.tried_in_vain(["entries"], now=1000.0)

    assert patience.allows(["entries", "timers"], now=1001.0)
    assert not patience.allows(["entries"], now=1001.0)
    assert not patience.allows([], now=1001.0)


def test_success_ends_the_pause():
    patience = Patience(first_s=30.0, most_s=600.0)
    pauses(patience, 3)
    patience.succeeded()

    assert patience.allows(["entries"], now=0.0)
    assert pauses(patience, 1) == [30]


def test_a_pause_that_nothing_was_tried_after_begins_anew():
    patience = Patience(first_s=30.0, most_s=600.0)
    pauses(patience, 3)
    patience.tried_in_vain(["entries"], now=10_000.0)

    assert not patience.allows(["entries"], now=10_029.0)
    assert patience.allows(["entries"], now=10_030.0)
