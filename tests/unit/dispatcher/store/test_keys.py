import pytest

from stepstream_dispatcher.store.keys import GROUP, Keys


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (lambda keys: keys.stream("default"), "task:stream"),
        (lambda keys: keys.stream("checks"), "task:stream:checks"),
        (lambda keys: keys.record("t1"), "task:record:t1"),
        (lambda keys: keys.data("t1"), "task:data:t1"),
        (lambda keys: keys.history("t1"), "task:history:t1"),
        (lambda keys: keys.input("t1"), "task:input:t1"),
        (lambda keys: keys.state("failed"), "task:state:failed"),
        (lambda keys: keys.worker("w"), "task:worker:w"),
        (lambda keys: keys.dispatcher("d1"), "task:dispatcher:d1"),
        (lambda keys: keys.index, "task:index"),
        (lambda keys: keys.count, "task:count"),
        (lambda keys: keys.delayed, "task:delayed"),
        (lambda keys: keys.ended, "task:ended"),
        (lambda keys: keys.dispatchers, "task:dispatchers"),
        (lambda keys: keys.workers, "task:workers"),
        (lambda keys: keys.paused, "task:paused"),
        (lambda keys: keys.draining, "task:draining"),
        (lambda keys: keys.events, "task:events"),
        (lambda keys: keys.pipelines, "task:pipelines"),
        (lambda keys: keys.minute(29), "task:minute:29"),
    ],
)
def test_names_are_those_of_the_design(name, expected):
    assert name(Keys()) == expected
    assert name(Keys("acme:")) == f"acme:{expected}"
    assert name(Keys("acme:", partition=3)) == f"acme:{{3}}:{expected}"


def test_the_group_has_no_prefix_because_it_is_no_key():
    assert GROUP == "task:processors"
