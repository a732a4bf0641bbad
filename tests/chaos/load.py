"""The callers of a run: who submits what, waits, watches, cancels and decides."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import random
import time
from collections.abc import Iterator
from contextlib import aclosing

import msgspec

from stepstream import AsyncClient
from stepstream.errors import InvalidTask, OutcomeUnknown, QueueFull, StepstreamError
from stepstream.types import Gap, Submitted, Task, TaskEvent
from stepstream_dispatcher.core.admission import task_id_of
from tests.chaos.history import Outcome, Recorder, Reopened, Sighting, Submit, Watched, now
from tests.chaos.world import World
from tests.support.pace import lasts

__all__ = ["Callers", "Order", "Pace", "digests", "orders"]

CLIENTS = 3
UNDER_WAY_MAX = 1_000  # Submits at once: in the fallback each lasts as long as its task
CALL_LIMIT_S = 60.0  # of a Submit: longer than any fault
WATCHERS_MAX = 300
LOOK_EVERY_S, LOOK_LIMIT_S = 0.5, 5.0


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How much work a run has."""

    tasks: int
    seconds: float  # in which they are submitted
    step_s: float  # the longest step


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One task to submit."""

    request: str
    at_s: float  # since the start
    pipeline: str
    input: dict[str, object]
    max_retries: int | None = None
    cancel_after_s: float | None = None
    reviewed: bool = False  # it waits for a person at its end
    watched: bool = False
    impatient: bool = False  # its caller does not retry, so that a refusal is one


def orders(seed: int, pace: Pace) -> Iterator[Order]:
    """Tasks without end, by seed: most are plain chains of three steps."""
    luck = random.Random(f"tasks {seed}")
    for number in itertools.count():
        kind = luck.random()
        sleeps = [round(luck.uniform(0.0, pace.step_s), 3) for _ in range(3)]
        plans: dict[str, list[dict[str, object]]] = {
            step: [{"sleep": sleep}]
            for step, sleep in zip(("first", "second", "third"), sleeps, strict=True)
        }
        if 0.10 <= kind < 0.15:  # its second step fails once
            plans["second"] = [{"sleep": sleeps[1] / 2, "error": "once"}, {"sleep": sleeps[1] / 2}]
        order = Order(
            request=f"chaos-{seed}-{number}",
            at_s=pace.seconds * number / pace.tasks,
            pipeline="chain",
            input={"plans": plans, "number": number},
            watched=luck.random() < WATCHERS_MAX / max(pace.tasks, WATCHERS_MAX) / 2,
            impatient=0.15 <= kind < 0.20,
            cancel_after_s=luck.uniform(0.0, 3 * pace.step_s) if 0.05 <= kind < 0.10 else None,
        )
        if kind < 0.05:
            plans = {
                "translate": [{"sleep": sleeps[0]}],
                "verify": [{"sleep": sleeps[1], "outcome": "rejected"}],
            }
            order = msgspec.structs.replace(
                order,
                pipeline="translation",
                input={"plans": plans, "number": number},
                reviewed=True,
            )
        yield order


def digests(outputs: dict[str, object]) -> dict[str, str]:
    """Short digests of outputs, by step."""
    return {
        step: hashlib.sha256(json.dumps(output, sort_keys=True).encode()).hexdigest()[:12]
        for step, output in sorted(outputs.items())
    }


class Callers:
    """Carries orders out and writes down what was answered.

    Args:
        world: The system.
        recorder: Where it is written down.
        seed: Of what the callers do by chance.
    """

    def __init__(self, world: World, recorder: Recorder, seed: int) -> None:
        self._recorder = recorder
        self._luck = random.Random(f"callers {seed}")
        first = [number % world.size.dispatchers for number in range(CLIENTS)]
        self._clients = [world.client(one) for one in first]
        self._impatient = [world.client(one, retry_s=0.0) for one in first]
        self._lookers = [world.client_of(name) for name in world.dispatchers]
        self._room = asyncio.Semaphore(UNDER_WAY_MAX)
        self.answers = dict.fromkeys(Outcome, 0)
        self.accepted: set[str] = set()  # tasks of which a caller was told so
        self.modes: dict[str, int] = {}
        self.errors: dict[str, int] = {}
        self._missing: dict[str, int] = {}  # how often a task was not there
        self._ended: dict[str, Reopened] = {}  # reviewed tasks whose reviewers saw their end
        self.waiting = 0  # watchers and reviewers that are not done

    async def run(self, given: Iterator[Order], *, at_least: int, over: asyncio.Event) -> None:
        """Submit orders at their times; returns when every caller is done.

        Args:
            given: What to submit.
            at_least: How many in any case.
            over: No more are needed then: faults that had to wait find work too.
        """
        start_mono = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number, order in enumerate(given):
                if number >= at_least and over.is_set():
                    break
                await lasts(max(start_mono + order.at_s - time.monotonic(), 0.0))
                await self._room.acquire()
                group.create_task(self._carry_out(order))

    async def look_around(self) -> None:
        """Ask every dispatcher for the counts, for ever: other callers stay with whoever works."""
        async with asyncio.TaskGroup() as group:
            for client in self._lookers:
                group.create_task(self._look_at(client))

    async def _look_at(self, client: AsyncClient) -> None:
        while True:
            try:
                await client.stats(call_timeout_s=LOOK_LIMIT_S)
            except (StepstreamError, TimeoutError) as error:
                self._count(f"stats {_reason(error)}")
            await lasts(LOOK_EVERY_S)

    def _count(self, word: str) -> None:
        self.errors[word] = self.errors.get(word, 0) + 1

    async def _carry_out(self, order: Order) -> None:
        try:
            submit = await self._submit(order)
        finally:
            self._room.release()
        if submit.outcome is Outcome.FAIL:
            return
        self.waiting += 1
        client = self._luck.choice(self._clients)
        async with asyncio.TaskGroup() as group:
            if order.cancel_after_s is not None:
                group.create_task(self._cancel(client, submit.task, order.cancel_after_s))
            if order.reviewed:
                group.create_task(self._review(client, submit.task))
            if order.watched and submit.outcome is Outcome.OK:
                group.create_task(self._watch(client, submit.task))
        self.waiting -= 1

    async def _submit(self, order: Order) -> Submit:
        client = self._luck.choice(self._impatient if order.impatient else self._clients)
        began = now()
        try:
            answer: Submitted | Exception = await client.submit(
                order.pipeline,
                order.input,
                request_id=order.request,
                initial_delay_s=0.5,
                call_timeout_s=CALL_LIMIT_S,
            )
        except (StepstreamError, TimeoutError) as error:
            answer = error
        submit = Submit(
            request=order.request,
            task=task_id_of("", order.request),
            began=began,
            ended=now(),
            outcome=_outcome(answer, final=order.impatient),
            mode=answer.execution_mode if isinstance(answer, Submitted) else "",
            error=_reason(answer) if isinstance(answer, Exception) else "",
        )
        self._recorder.add(submit)
        self.answers[submit.outcome] += 1
        if submit.outcome is Outcome.OK:
            self.accepted.add(submit.task)
        for words, count in ((submit.mode, self.modes), (submit.error, self.errors)):
            if words:
                count[words] = count.get(words, 0) + 1
        return submit

    async def _cancel(self, client: AsyncClient, task: str, after_s: float) -> None:
        await lasts(after_s)
        try:
            await client.cancel(task, reason="by chance")
        except (StepstreamError, TimeoutError) as error:
            self._count(f"cancel {_reason(error)}")

    async def _review(self, client: AsyncClient, task: str) -> None:
        """Decide whenever the task waits for a person, until it has ended."""
        while True:
            began = now()
            try:
                waiting = await client.wait(task, timeout_s=CALL_LIMIT_S)
                if waiting.finished:
                    self._ended[task] = Reopened(task=task, began=began, ended=now())
                    return
                decision = self._luck.choice(("approved", "edited", "rejected"))
                if waiting.revisions:
                    decision = "approved"
                output = {"by": "a person"} if decision == "edited" else None
                await client.review(
                    task,
                    decision,
                    reviewer="somebody",
                    output=output,
                    feedback="again" if decision == "rejected" else "",
                    version=waiting.version,
                )
            except (StepstreamError, TimeoutError) as error:
                reason = _reason(error)
                self._count(f"review {reason}")
                if reason == "TASK_NOT_FOUND" and self._gives_up(task):
                    return
                await lasts(1.0)

    async def review_again(self) -> None:
        """Decide, for ever, what waits for a person although its reviewer has seen its end."""
        async with asyncio.TaskGroup() as group:
            while True:
                for task in await self._waiting_again():
                    self._recorder.add(self._ended.pop(task))
                    group.create_task(self._review(self._clients[0], task))
                await lasts(1.0)

    async def _waiting_again(self) -> list[str]:
        try:
            page = await self._clients[0].list(state="human_review", page_size=1000)
        except (StepstreamError, TimeoutError):
            return []
        return [one.task_id for one in page.tasks if one.task_id in self._ended]

    def _gives_up(self, task: str) -> bool:
        """Whether a task that is not there is given up: an unknown Submit may not have arrived.

        A task of a fallback is known to one dispatcher alone, until it is imported.
        """
        self._missing[task] = self._missing.get(task, 0) + 1
        return self._missing[task] >= 30

    async def _watch(self, client: AsyncClient, task: str) -> None:
        sequences: list[int] = []
        gaps, last, error_word = 0, "", ""
        while True:
            try:
                async with aclosing(
                    client.watch(task, after=sequences[-1] if sequences else 0)
                ) as items:
                    async for item in items:
                        if isinstance(item, TaskEvent):
                            sequences.append(item.sequence)
                            last = item.type
                        gaps += isinstance(item, Gap)
                break
            except (StepstreamError, TimeoutError) as error:
                error_word = _reason(error)
                if error_word == "TASK_NOT_FOUND" and self._gives_up(task):
                    break
                if error_word not in {"TASK_NOT_FOUND", "UNAVAILABLE", "STORE_UNAVAILABLE"}:
                    break
                await lasts(1.0)
            except asyncio.CancelledError:  # given up at the end of the run: it saw no end
                self._recorder.add(
                    Watched(task=task, sequences=sequences, gaps=gaps, last=last, error="")
                )
                raise
            error_word = ""
        self._recorder.add(
            Watched(task=task, sequences=sequences, gaps=gaps, last=last, error=error_word)
        )
        if not error_word:
            await self._look(client, task)

    async def _look(self, client: AsyncClient, task: str) -> None:
        """Read a task that its watcher saw end."""
        try:
            found: Task = await client.get(task)
        except (StepstreamError, TimeoutError):
            return  # a dispatcher that cannot say so now; the final truth will
        if found.finished:
            outputs = digests(dict(found.outputs))
            self._recorder.add(Sighting(task=task, at=now(), state=found.state, outputs=outputs))


def _outcome(answer: Submitted | Exception, *, final: bool) -> Outcome:
    """What a caller knows: only a refusal at the first try is one for sure."""
    match answer:
        case Submitted():
            return Outcome.OK
        case InvalidTask():
            return Outcome.FAIL
        case QueueFull() if final:
            return Outcome.FAIL
        case _:
            return Outcome.INFO


def _reason(error: Exception) -> str:
    if isinstance(error, OutcomeUnknown):
        return "OUTCOME_UNKNOWN"
    return error.reason if isinstance(error, StepstreamError) else type(error).__name__
