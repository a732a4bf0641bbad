import json

import msgspec
import pytest

from stepstream.errors import InternalError
from stepstream_dispatcher.core.record import Event, EventType, Stage
from stepstream_dispatcher.store import codec

FIELDS = {"version": "3", "state": "translating", "stage": "leased", "pipeline": "p@1", "step": "s"}
EVENT = Event(sequence=4, at_ms=9, type=EventType.LOST, state="translating", message="„Ende“\n")


def published(**change):
    """A published event of which one field is not ours."""
    return json.dumps(json.loads(codec.encode_published("d1", "t1", EVENT)) | change).encode()


@pytest.mark.parametrize(
    ("value", "text"),
    [("a", "a"), (7, "7"), (0.25, "0.25"), (0.0, "0.0"), (Stage.QUEUED, "queued"), ("", "")],
)
def test_fields_are_written_as_text(value, text):
    assert codec.field_text(value) == text
    assert type(codec.field_text(value)) is str


def test_a_record_is_read_from_text_without_the_stores_own_fields():
    record = codec.decode_record(
        "t1", {**FIELDS, "progress": "0.5", "ops": "abcdefgh", "settled:s": "token"}
    )

    assert (record.version, record.stage, record.progress) == (3, Stage.LEASED, 0.5)
    assert record.max_retries == -1


@pytest.mark.parametrize("change", [{"version": "many"}, {"stage": "nowhere"}, {"version": ""}])
def test_a_record_that_is_none_is_our_fault(change):
    with pytest.raises(InternalError, match="record of task t1 is unreadable"):
        codec.decode_record("t1", FIELDS | change)


def test_an_event_round_trips_through_the_history():
    assert codec.decode_event(codec.encode_event(EVENT)) == EVENT


def test_an_event_without_words_is_packed_without_their_places():
    event = Event(sequence=4, at_ms=9, type=EventType.LEASED, state="translating", step="translate")

    packed = codec.encode_event(event)

    assert msgspec.msgpack.decode(packed) == [4, 9, 4, "translating", "translate"]
    assert codec.decode_event(packed) == event
    assert codec.decode_event(msgspec.msgpack.encode(event)) == event  # with every place


def test_an_event_round_trips_through_the_channel():
    assert codec.decode_published(codec.encode_published("d1", "t1", EVENT)) == ("t1", EVENT)


def test_a_published_event_is_json_for_anybody():
    published = json.loads(codec.encode_published("d1", "t1", EVENT))

    assert (published["task_id"], published["type"], published["sequence"]) == ("t1", "LOST", 4)


@pytest.mark.parametrize("dispatcher_id", ["d1", 'with "quotes"', "ü"])
def test_own_messages_are_known_by_their_beginning(dispatcher_id):
    own = codec.encode_published(dispatcher_id, "t1", EVENT)
    others = codec.encode_published(dispatcher_id + "x", "t1", EVENT)

    assert own.startswith(codec.published_by(dispatcher_id))
    assert not others.startswith(codec.published_by(dispatcher_id))


@pytest.mark.parametrize(
    "payload",
    [b"", b"{}", b"[]", b"\xff", published(task_id=7), published(type="OF_A_NEWER_RELEASE")],
)
def test_a_foreign_message_is_not_read(payload):
    with pytest.raises((msgspec.DecodeError, KeyError)):
        codec.decode_published(payload)
