import re

import pytest

from stepstream_dispatcher.store import redis_scripts


@pytest.mark.parametrize("name", [name for name in redis_scripts.__all__ if name.isupper()])
def test_a_script_says_who_it_is_below_its_declaration(name):
    first, second, *_ = getattr(redis_scripts, name).source.splitlines()

    assert first.startswith("#!lua")
    assert re.fullmatch(r"-- stepstream/\w+ version \d+", second)


def test_only_submissions_are_refused_by_a_full_redis():
    allowed = {
        name: "allow-oom" in getattr(redis_scripts, name).source.splitlines()[0]
        for name in redis_scripts.__all__
        if name.isupper()
    }

    assert allowed == {
        "SUBMIT": False,
        "SETTLE": True,
        "TRIM": True,
        "FORGET": True,
        "IMPORT": True,
        "LEAVE": True,
        "DROP_TIMERS": True,
        "DISCARD": True,
        "TALLY": True,
        "SURVEY": True,
        "REPAIR": True,
        "RECOUNT": True,
    }


@pytest.mark.parametrize("name", [name for name in redis_scripts.__all__ if name.isupper()])
def test_no_reply_is_negated_into_minus_zero(name):
    """Redis before 7.2.5 writes it as "-0", which HINCRBY refuses half-way through a script."""
    assert (
        re.findall(r"[=,(]\s*-\s*(?:call\b.*|touched)", getattr(redis_scripts, name).source) == []
    )


def test_both_commit_scripts_have_one_body():
    bodies = {
        each.source.split("\n", 1)[1] for each in (redis_scripts.SUBMIT, redis_scripts.SETTLE)
    }

    assert len(bodies) == 1
