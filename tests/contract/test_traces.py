"""The traces of tasks, read without the rest of what is kept of them."""

from stepstream_dispatcher.core.admission import Submission, creation
from tests.support.records import TRANSLATION


def created(store, task_id, trace):
    submission = Submission(pipeline="translation", input=b"x" * 10_000, trace=trace)
    return creation(
        submission, TRANSLATION, task_id=task_id, op_id=task_id[:8], now_ms=store.now_ms()
    )


async def test_traces_are_read_in_order_and_empty_where_there_is_none(store):
    await store.commit(
        [
            created(store, "traced01", {"traceparent": "00-1"}),
            created(store, "untraced", {}),
            created(store, "traced02", {"traceparent": "00-2"}),
        ],
        kind="submit",
    )

    found = await store.traces(["traced02", "untraced", "nobody", "traced01"])

    assert found == [b'{"traceparent":"00-2"}', b"", b"", b'{"traceparent":"00-1"}']
