"""Commits to Redis: transitions packed for commit.lua, and its words turned into results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from redis import exceptions as redis_errors

from stepstream.errors import InternalError
from stepstream_dispatcher.core.record import EventType, Transition
from stepstream_dispatcher.store.codec import (
    WAITING_STATES,
    decode_record,
    encode_event,
    encode_published,
    is_told_by_record,
)
from stepstream_dispatcher.store.keys import GROUP, Keys
from stepstream_dispatcher.store.port import MINUTE_MS, CommitFailed, CommitKind, Result, Verdict
from stepstream_dispatcher.store.redis_errors import Remedy, remedy_of
from stepstream_dispatcher.store.redis_link import Link, StoreClock
from stepstream_dispatcher.store.redis_scripts import SETTLE, SUBMIT

__all__ = ["TRANSITIONS_MAX", "RedisCommits"]

TRANSITIONS_MAX: Final = 256  # a call; bounds how long one script holds Redis
ARGUMENTS_BEFORE: Final = 5  # of all transitions, see the header of commit.lua

_pack: Final = msgspec.msgpack.Encoder().encode
_RESULT_BY_WORD: Final = {verdict.value.encode(): Result(verdict) for verdict in Verdict}
_FULL: Final = Result(Verdict.FULL)


class _Positions(dict[str, int]):
    """Where in KEYS the keys of one kind are, by name and counted from 1 as Lua does.

    A key is added when it is first asked for; the empty name is none.

    Args:
        keys: KEYS, as far as they are known.
        build: Makes the key of a name.
    """

    def __init__(self, keys: list[str], build: Callable[[str], str]) -> None:
        super().__init__({"": 0})
        self._keys = keys
        self._build = build

    def __missing__(self, name: str) -> int:
        self._keys.append(self._build(name))
        position = self[name] = len(self._keys)
        return position


class _Places(msgspec.Struct, frozen=True):
    """Where in KEYS the keys are that transitions share."""

    lanes: _Positions
    waiting: _Positions  # the sets of the states in which tasks wait for somebody
    workers: _Positions


class RedisCommits:
    """Carries out transitions by commit.lua.

    Theory of operation. A tenth of the time of a step goes into events that are published, and
    mostly nobody listens. Each call says whether anybody does, and the next one carries the events
    if so. A call that does not, and is heard, is refused whole and made again with them: so each
    event is published with its change or not at all. What listens elsewhere, at a replica or
    another node of a cluster, cannot be asked: then all are carried.

    Args:
        link: Connections that commits alone use.
        keys: Names.
        clock: Learns the time that every reply begins with.
        dispatcher_id: Who publishes the events.
    """

    def __init__(self, link: Link, keys: Keys, clock: StoreClock, *, dispatcher_id: str) -> None:
        self._link = link
        self._keys = keys
        self._clock = clock
        self._dispatcher_id = dispatcher_id
        self._is_heard = True  # as the latest call has said
        self.is_mirrored = True  # whether somebody may listen elsewhere

    async def commit(
        self, transitions: Sequence[Transition], *, kind: CommitKind, live_max: int
    ) -> list[Result]:
        """See Store.commit.

        The script isolates a transition that fails. Should the call as a whole fail, the
        transitions are sent one by one, so that the one at fault is alone; those that the failed
        call had carried out then answer DUPLICATE.
        """
        assert 0 < len(transitions) <= TRANSITIONS_MAX
        try:
            answers = await self._run(transitions, kind=kind, live_max=live_max)
        except redis_errors.ResponseError as error:
            if remedy_of(error) is Remedy.FULL:
                return [_FULL] * len(transitions)
            answers = [
                await self._run_alone(transition, kind=kind, live_max=live_max)
                for transition in transitions
            ]
        return _results(transitions, answers)

    async def _run_alone(
        self, transition: Transition, *, kind: CommitKind, live_max: int
    ) -> list[bytes] | bytes:
        try:
            (answer,) = await self._run([transition], kind=kind, live_max=live_max)
        except redis_errors.ResponseError as error:
            if remedy_of(error) is Remedy.FULL:
                return b"FULL"
            return [b"ERROR", str(error).encode()]
        return answer  # type: ignore[no-any-return]

    async def _run(
        self, transitions: Sequence[Transition], *, kind: CommitKind, live_max: int
    ) -> list[Any]:
        carries = self._is_heard or self.is_mirrored
        answers = await self._call(transitions, kind, live_max, carries=carries)
        return answers or await self._call(transitions, kind, live_max, carries=True)

    async def _call(
        self, transitions: Sequence[Transition], kind: CommitKind, live_max: int, *, carries: bool
    ) -> list[Any]:
        keys, arguments = self._packed(transitions, live_max, carries=carries)
        script = SUBMIT if kind == "submit" else SETTLE
        sent_mono = self._clock.read()
        answers: list[Any]
        seconds, microseconds, heard, *answers = await script.run(self._link, keys, arguments)
        self._clock.observe(seconds, microseconds, sent_mono=sent_mono)
        self._is_heard = bool(heard)
        return answers

    def _published(self, transition: Transition) -> bytes:
        return encode_published(self._dispatcher_id, transition.task_id, transition.event)

    def _packed(
        self, transitions: Sequence[Transition], live_max: int, *, carries: bool
    ) -> tuple[list[str], list[str | bytes]]:
        """Build KEYS and ARGV; commit.lua's header is the contract."""
        keys = self._keys
        minute = self._clock.now_ms() // MINUTE_MS
        names = [keys.count, keys.index, keys.delayed, keys.ended, keys.minute(minute)]
        for transition in transitions:
            names += keys.of_task(transition.task_id)
        places = _Places(
            lanes=_Positions(names, keys.stream),
            waiting=_Positions(names, keys.state),
            workers=_Positions(names, keys.worker),
        )
        packed: list[str | bytes] = []
        loose: list[bytes] = []  # what MessagePack would carry as bytes, which Lua does not unpack
        first = ARGUMENTS_BEFORE + len(transitions) + 1  # counted from 1 as Lua does
        for transition in transitions:
            packed.append(_packed_transition(transition, places, first + len(loose)))
            loose.append(self._published(transition) if carries else b"")
            loose.append(b"" if is_told_by_record(transition) else encode_event(transition.event))
            if transition.data:
                loose += transition.data.values()
        before = (
            GROUP,
            keys.events,
            str(live_max),
            str(len(transitions)),
            "1" if carries else "0",
        )
        return names, [*before, *packed, *loose]


def _packed_transition(transition: Transition, places: _Places, first_loose: int) -> bytes:
    task_id, event, retain_s = transition.task_id, transition.event, transition.retain_s
    ack_queue, ack_id = transition.ack or ("", "")
    left, entered = transition.move or ("", "")
    worker, tally = transition.tally or ("", "")
    ended_as = left if retain_s < 0 else event.state
    waits = entered in WAITING_STATES
    created = transition.fields.get("created_ms", event.at_ms)
    return _pack(
        (
            task_id,
            transition.op_id,
            str(transition.expected_version),
            transition.lease,
            f"settled:{transition.settles}" if transition.settles else "",
            transition.touch,
            _hash_fields(transition),
            tuple(transition.data),
            places.lanes[ack_queue],
            ack_id,
            places.lanes[transition.enqueue or ""],
            transition.fields.get("step", event.step),
            "no" if transition.undelay else str(transition.due_ms or ""),
            left,
            entered,
            places.waiting[left if left in WAITING_STATES else ""],
            places.waiting[entered if waits else ""],
            str(event.at_ms) if waits else "",
            transition.live,
            event.type is EventType.RETRYING,
            retain_s,
            str(event.at_ms + retain_s * 1000) if retain_s > 0 else "",
            f"{ended_as} {task_id}" if retain_s else "",
            places.workers[worker],
            tally,
            "" if transition.expected_version else str(created),
            first_loose,
        )
    )


def _hash_fields(transition: Transition) -> list[str]:
    """The fields to set, flat and as text; `entry` and `ops` are last, for the script to fill."""
    fields = transition.fields
    if transition.enqueue is not None and "entry" in fields:
        fields = {name: value for name, value in fields.items() if name != "entry"}
    parts = [""] * (2 * len(fields))
    parts[::2] = fields
    parts[1::2] = map(str, fields.values())
    if transition.settles:
        parts += f"settled:{transition.settles}", transition.lease
    if transition.enqueue is not None:
        parts += "entry", ""
    if not (transition.settles or transition.touch):
        parts += "ops", ""
    return parts


def _results(transitions: Sequence[Transition], answers: Sequence[Any]) -> list[Result]:
    results: list[Result | None] = []
    failure = ""
    for transition, answer in zip(transitions, answers, strict=True):
        if isinstance(answer, bytes):
            results.append(_RESULT_BY_WORD[answer])
            continue
        word, content = answer
        if word == b"ERROR":
            failure = failure or f"task {transition.task_id}: {content.decode(errors='replace')}"
            results.append(None)
            continue
        if word == b"APPLIED":
            results.append(Result(Verdict.APPLIED, entry=content.decode()))
            continue
        texts = [text.decode(errors="replace") for text in content]
        fields = dict(zip(texts[::2], texts[1::2], strict=True))
        try:
            record = decode_record(transition.task_id, fields)
        except InternalError as error:  # of this one alone
            failure = failure or error.message
            results.append(None)
        else:
            results.append(Result(Verdict(word.decode()), record))
    if failure:
        raise CommitFailed(f"redis could not carry out a transition of {failure}", results)
    return [result for result in results if result is not None]
