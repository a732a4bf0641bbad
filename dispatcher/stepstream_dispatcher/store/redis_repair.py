"""What a sweep asks of Redis: counts beside sizes, records beside indexes, and guarded repairs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from stepstream.errors import InternalError
from stepstream_dispatcher.core.reconcile import Mend, Sight, Tally, is_passed
from stepstream_dispatcher.store.codec import WAITING_STATES, decode_record
from stepstream_dispatcher.store.keys import GROUP, Keys
from stepstream_dispatcher.store.port import Page, Survey, SurveyMode
from stepstream_dispatcher.store.redis_link import Command, Link
from stepstream_dispatcher.store.redis_scripts import RECOUNT, REPAIR, SURVEY, TALLY, keep

__all__ = ["RedisRepairs"]

TASKS_MAX: Final = 500  # a call of survey.lua or repair.lua; bounds how long it holds Redis
KEYS_OF_TASK: Final = 4  # record, data, history and input: what SCAN passes for each, at most
NAME_COST_S: Final = 5e-7  # of a key that SCAN passes, or a member that ZSCAN answers: 0.33 us
FIELDS: Final = (  # in the order of survey.lua
    "version",
    "state",
    "stage",
    "pipeline",
    "step",
    "queue",
    "entry",
    "lease",
    "owner",
    "due_ms",
    "deadline_ms",
    "created_ms",
    "updated_ms",
)


class RedisRepairs:
    """Reads and mends what stands beside the records.

    Args:
        link: Connections.
        keys: Names.
        dispatcher_id: Who sweeps.
    """

    def __init__(self, link: Link, keys: Keys, *, dispatcher_id: str) -> None:
        self._link = link
        self._keys = keys
        self._dispatcher_id = dispatcher_id
        self._places = {"index": keys.index, "delayed": keys.delayed, "ended": keys.ended}
        self._places |= {state: keys.state(state) for state in WAITING_STATES}

    async def tally(self, queues: Sequence[str], *, marker: bytes) -> Tally:
        """See RepairableStore.tally."""
        names = [self._keys.count, *self._places.values(), *map(self._keys.stream, queues)]
        channel = self._keys.dispatcher(self._dispatcher_id)
        arguments: list[str | bytes] = [GROUP, str(len(WAITING_STATES)), channel, marker]
        flat, sizes, lengths, groups = await TALLY.run(self._link, names, arguments)
        texts = [text.decode() for text in flat]
        return Tally(
            counts={name: int(n) for name, n in zip(texts[::2], texts[1::2], strict=True)},
            sizes=dict(zip(self._places, sizes, strict=True)),
            lanes=dict(zip(queues, lengths, strict=True)),
            groupless=frozenset(
                queue for queue, has_group in zip(queues, groups, strict=True) if not has_group
            ),
        )

    # --- who sweeps, and when --------------------------------------------------------------------

    async def claim_sweep(self, *, ttl_s: float) -> bool:
        """See RepairableStore.claim_sweep."""
        ttl_ms = str(round(ttl_s * 1000))
        key = self._keys.sweep
        await keep(self._link, [key], ("SET", key, self._dispatcher_id, "NX", "PX", ttl_ms))
        (holder,) = await self._link.ask(("GET", key))
        if holder != self._dispatcher_id.encode():
            return False
        (kept,) = await self._link.ask(("PEXPIRE", key, ttl_ms))
        return bool(kept)

    async def sweep_is_due(self) -> bool:
        """See RepairableStore.sweep_is_due."""
        (there,) = await self._link.ask(("EXISTS", self._keys.swept))
        return not there

    async def end_sweep(self, *, quiet_s: float) -> None:
        """See RepairableStore.end_sweep."""
        await RECOUNT.run(self._link, self._recounted(), [self._dispatcher_id])
        if quiet_s:
            ttl_ms = str(round(quiet_s * 1000))
            key = self._keys.swept
            await keep(self._link, [key], ("SET", key, self._dispatcher_id, "PX", ttl_ms))

    async def hold_trims(self, *, ttl_s: float) -> None:
        """See RepairableStore.hold_trims."""
        ttl_ms = str(round(ttl_s * 1000))
        key = self._keys.recount
        await keep(self._link, [key], ("SET", key, self._dispatcher_id, "PX", ttl_ms))

    async def recount(self, corrections: Mapping[str, int]) -> bool:
        """See RepairableStore.recount."""
        pairs = [text for name, by in corrections.items() if by for text in (name, str(by))]
        arguments = [self._dispatcher_id, *pairs]
        return bool(await RECOUNT.run(self._link, self._recounted(), arguments))

    def _recounted(self) -> list[str]:
        return [self._keys.count, self._keys.sweep, self._keys.recount]

    # --- walking ---------------------------------------------------------------------------------

    async def record_page(self, cursor: str, *, count: int) -> Page:
        """See RepairableStore.record_page."""
        passed = count * KEYS_OF_TASK
        page = await self._page(
            ("SCAN", cursor or "0", "MATCH", self._keys.all_records, "COUNT", str(passed)), passed
        )
        return Page(
            names=[self._keys.task_of(name) for name in page.names],
            cursor=page.cursor,
            cost_s=page.cost_s,
        )

    async def member_page(self, place: str, cursor: str, *, count: int) -> Page:
        """See RepairableStore.member_page."""
        command = ("ZSCAN", self._places[place], cursor or "0", "COUNT", str(count))
        page = await self._page(command, count)
        return Page(names=page.names[::2], cursor=page.cursor, cost_s=page.cost_s)

    async def _page(self, command: Command, passed: int) -> Page:
        """What a round trip takes is an upper limit, and so is what Redis takes for each name."""
        began = time.monotonic()
        ((cursor, names),) = await self._link.ask(command)
        took_s = time.monotonic() - began
        return Page(
            names=[name.decode(errors="replace") for name in names],
            cursor="" if cursor == b"0" else cursor.decode(),
            cost_s=min(took_s, max(passed, len(names)) * NAME_COST_S),
        )

    async def survey(
        self, task_ids: Sequence[str], queues: Sequence[str], *, how: SurveyMode
    ) -> Survey:
        """See RepairableStore.survey."""
        keys, sights, cost_us = self._keys, list[Sight](), 0
        sets = [self._places[state] for state in WAITING_STATES]
        fixed = [keys.index, keys.delayed, keys.ended, *map(keys.stream, queues), *sets]
        words = [GROUP, str(len(queues)), str(len(sets)), how]
        for start in range(0, len(task_ids), TASKS_MAX):
            part = task_ids[start : start + TASKS_MAX]
            began = time.monotonic()
            used_us, delivered, rows = await SURVEY.run(
                self._link,
                [*fixed, *map(keys.record, part)],
                [*words, *queues, *WAITING_STATES, *part],
            )
            passed = {queue: at.decode() for queue, at in zip(queues, delivered, strict=True)}
            sights += [_sight(one, row, passed) for one, row in zip(part, rows, strict=True)]
            took_us = round((time.monotonic() - began) * 1e6)  # an upper limit
            cost_us += used_us if used_us >= 0 else took_us
        return Survey(sights=sights, cost_s=cost_us / 1e6)

    # --- mending ---------------------------------------------------------------------------------

    async def mend(self, mends: Sequence[Mend]) -> tuple[int, list[Mend]]:
        """See RepairableStore.mend."""
        changed, moved = 0, list[Mend]()
        places = list(self._places)
        for start in range(0, len(mends), TASKS_MAX):
            part = mends[start : start + TASKS_MAX]
            names = [self._keys.count, *self._places.values()]
            names += [name for mend in part for name in self._keys.of_task(mend.task_id)]
            arguments = [str(len(WAITING_STATES))]
            arguments += [text for mend in part for text in _texts(mend, places)]
            touched, *places_moved = await REPAIR.run(self._link, names, arguments)
            changed += touched
            moved += [part[at] for at in places_moved]
        return changed, moved


def _texts(mend: Mend, places: Sequence[str]) -> Iterator[str]:
    """The arguments of one task; repair.lua's header is the contract."""
    yield str(mend.version or "")
    yield str(places.index(mend.place) + 2)
    yield f"{mend.state} {mend.task_id}" if mend.state else mend.task_id
    yield "" if mend.score is None else str(mend.score)


def _sight(task_id: str, row: Any, delivered: Mapping[str, str]) -> Sight:
    """What a row says; a record that somebody else has spoilt says nothing."""
    try:
        return _read(task_id, row, delivered) if row else Sight.of_unreadable(task_id)
    except (InternalError, ValueError):
        return Sight.of_unreadable(task_id)


def _read(task_id: str, row: Sequence[Any], delivered: Mapping[str, str]) -> Sight:
    """Raises InternalError or ValueError where the record is none of ours."""
    values, listed, timer, waits, ends, expires_ms, there, holder = row
    fields = {
        name: value.decode(errors="replace")
        for name, value in zip(FIELDS, values, strict=True)
        if value is not None
    }
    record = decode_record(task_id, fields) if fields else None
    return Sight(
        task_id=task_id,
        record=record,
        listed_ms=_number(listed),
        timer_ms=_number(timer),
        waits_ms=_number(waits),
        ends=frozenset(end.decode() for end in ends),
        expires_ms=expires_ms,
        has_entry=bool(there),
        holder=holder.decode(),
        known=record is None or record.queue in delivered,
        passed=record is not None and is_passed(record.entry, delivered.get(record.queue, "")),
    )


def _number(score: bytes | None) -> int | None:
    return None if score is None else int(float(score))
