"""The words for people."""

import pytest

from stepstream._convert import frame_from_message, task_from_message, value_to_payload
from stepstream.cli.wording import (
    event_words,
    finding_words,
    progress_words,
    task_words,
    title_of,
    value_text,
)
from stepstream.types import EventType, TaskEvent
from tests.unit.client.dispatcher_stub import frame, make_event, make_task


def _event(kind: str, **fields: object) -> TaskEvent:
    event = frame_from_message(frame(make_event(3, kind, "x", step="verify", **fields)))
    assert isinstance(event, TaskEvent)
    return event


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (_event("SUBMITTED"), "accepted"),
        (_event("LEASED", actor="w1", attempt=1), "verify at w1"),
        (_event("LEASED", actor="w1", attempt=3), "verify at w1 (attempt 3)"),
        (_event("COMPLETED", detail="passed"), "verify passed"),
        (
            _event("RETRYING", attempt=1, detail="HANDLER_ERROR", message="ValueError: {x}\nmore"),
            "verify failed: HANDLER_ERROR: ValueError: {x}; again in 0 s",
        ),
        (_event("WAITING", detail="rejected"), "verify rejected: a person decides"),
        (
            _event("REVIEWED", actor="ana", detail="rejected", message="no"),
            "review rejected by ana: no",
        ),
        (_event("FAILED", detail="NO_ENGINE"), "verify failed for good: NO_ENGINE"),
        (_event("PROGRESS", progress=0.25, message="2 of 8"), "verify 25% 2 of 8"),
    ],
)
def test_an_event_is_a_few_words(event, words):
    assert event_words(event) == words


@pytest.mark.parametrize(
    ("progress", "note", "words"),
    [
        (0.0, "", ""),
        (0.25, "", "25%"),
        (0.25, "2 of 8", "25% 2 of 8"),
        (0.0, "loading the model", "0% loading the model"),
    ],
)
def test_progress_is_a_share_and_the_note_beside_it(progress, note, words):
    running = task_from_message(
        make_task(state="translating", step="translate", progress=progress, progress_note=note)
    )

    assert progress_words(running) == words
    assert task_words(running) == f"translating: translate {words}".rstrip()


@pytest.mark.parametrize("kind", [kind for kind in EventType if kind != EventType.UNSPECIFIED])
def test_each_kind_of_event_has_words(kind):
    assert event_words(_event(kind)) != kind.lower() or kind == EventType.CANCELLED


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        ("a", "a"),
        (b"\xff", "�"),
        ({"text": "軟體", "more": 1}, "軟體"),
        ({"n": 1}, '{\n  "n": 1\n}'),
    ],
)
def test_a_value_is_its_text_or_json(value, text):
    assert value_text(value) == text


def test_a_task_is_known_by_its_label_or_its_first_line():
    labelled = task_from_message(make_task(labels={"title": "A letter"}))
    bare = task_from_message(make_task(input=value_to_payload({"text": f"# {'x' * 50}\ny"})))

    assert title_of(labelled) == "A letter"
    assert title_of(bare) == "x" * 39 + "…"


def test_a_finding_is_one_line():
    assert (
        finding_words({"check": "tags", "message": "<b> lost", "line": 2})
        == "line 2: tags: <b> lost"
    )
    assert finding_words("odd") == "odd"
