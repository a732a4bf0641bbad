"""Reads pipelines from TOML and validates them whole, with file and line of what is wrong."""

from __future__ import annotations

import hashlib
import re
import tomllib
from typing import Annotated, Final, Literal

import msgspec

from stepstream_dispatcher.core.pipeline import (
    DONE,
    FAILED,
    RESERVED_STATES,
    Pipeline,
    PipelineError,
    RetryPolicy,
    Step,
)
from stepstream_dispatcher.core.toml_lines import LineIndex, Path

__all__ = ["load"]

_ENDS: Final = frozenset({DONE, FAILED})
_REVIEW_OUTCOMES: Final = frozenset({"approved", "edited", "rejected"})
_WORKER_KEYS: Final = ("queue", "timeout", "retry")

_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h)")
_UNIT_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}
_DURATION_MAX_MS: Final = 24 * _UNIT_MS["h"]  # a longer attempt is a task of its own
_STEPS_MAX: Final = 64  # one heartbeat of a worker names its step types; nobody draws more


def load(source_name: str, text: str) -> list[Pipeline]:
    """Read and validate the pipelines of one TOML file.

    Args:
        source_name: Name of the file, for messages.
        text: What is in it; docs/pipelines.md has the format.

    Raises:
        PipelineError: The first thing that is wrong, as `file:line: words`.
    """
    source = _Source(source_name, text)
    tables = source.document().get("pipeline")
    if not isinstance(tables, dict) or not tables:
        raise source.wrong((), "no [pipeline.<name>] table")
    return [_pipeline(source, name, table) for name, table in tables.items()]


# ── the file as it is written ────────────────────────────────────────────────────────────────────

_Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_-]{1,48}$")]


class _RetryTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    retries: Annotated[int, msgspec.Meta(ge=0, le=100)] = 3
    initial: str = "1s"
    factor: Annotated[float, msgspec.Meta(ge=1, le=10)] = 2.0
    max: str = "60s"
    jitter: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.2


class _StepTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: _Name
    state: _Name
    kind: Literal["worker", "human"] = "worker"
    queue: _Name | None = None
    timeout: str | None = None
    retry: _RetryTable | None = None
    on: dict[_Name, str] = {}
    max_revisions: Annotated[int, msgspec.Meta(ge=0, le=100)] | None = None


class _PipelineTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    step: Annotated[list[_StepTable], msgspec.Meta(min_length=1, max_length=_STEPS_MAX)]
    queue: _Name | None = None
    result: list[str] | None = None


class _Source:
    """One file: its text, and errors that say where."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._text = text
        self._lines = LineIndex(text)

    def document(self) -> dict[str, object]:
        try:
            document = tomllib.loads(self._text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            found = re.search(r"line (\d+)", str(error))
            line = int(found[1]) if found else 1
            raise PipelineError(f"{self._name}:{line}: {error}") from error
        for key in document:
            if key != "pipeline":
                raise self.wrong((key,), f"unknown key {key!r}")
        return document

    def wrong(self, path: Path, words: str) -> PipelineError:
        return PipelineError(f"{self._name}:{self._lines.line(path)}: {words}")

    def duration_ms(self, path: Path, text: str) -> int:
        match = _DURATION.fullmatch(text)
        value = round(float(match[1]) * _UNIT_MS[match[2]]) if match else 0
        if not 1 <= value <= _DURATION_MAX_MS:
            raise self.wrong(path, f'{path[-1]}: {text!r} is not a duration, "100ms" to "24h"')
        return value


def _pipeline(source: _Source, name: str, table: object) -> Pipeline:
    at: Path = ("pipeline", name)
    parsed = _parse(source, at, table)
    if not re.fullmatch(r"[a-z0-9_-]{1,48}", name):
        raise source.wrong(at, f"pipeline name {name!r} does not match [a-z0-9_-]{{1,48}}")
    _check_names(source, at, parsed)
    steps = {
        each.name: _step(source, (*at, "step", number), each, parsed.queue or name)
        for number, each in enumerate(parsed.step)
    }
    _check_graph(source, at, steps)
    return _versioned(
        Pipeline(
            name=name,
            version="",
            steps=steps,
            first=parsed.step[0].name,
            result=_result(source, at, parsed.result, steps),
        )
    )


def _parse(source: _Source, at: Path, table: object) -> _PipelineTable:
    try:
        return msgspec.convert(table, _PipelineTable)
    except msgspec.ValidationError as error:
        words, _, at_words = str(error).partition(" - at ")
        where = at_words.partition("$")[2]
        unknown = re.search(r"unknown field `(.+)`", words)
        raise source.wrong(
            (*at, *_error_path(where), *([unknown[1]] if unknown else [])),
            f"{'.'.join(str(part) for part in _error_path(where)) or at[-1]}: {words}",
        ) from error


def _error_path(where: str) -> Path:
    """Turn msgspec's `$.step[0].retry` into ("step", 0, "retry")."""
    parts = re.findall(r"[a-z_]+|\d+", where)
    return tuple(int(part) if part.isdigit() else part for part in parts)


def _step(source: _Source, at: Path, table: _StepTable, queue: str) -> Step:
    human = table.kind == "human"
    _check_kind(source, at, table)
    return Step(
        name=table.name,
        state=table.state,
        kind=table.kind,
        queue="" if human else table.queue or queue,
        timeout_ms=0
        if table.timeout is None
        else source.duration_ms((*at, "timeout"), table.timeout),
        retry=_retry(source, (*at, "retry"), table.retry or _RetryTable()),
        on=table.on,
        max_revisions=3 if table.max_revisions is None else table.max_revisions,
    )


def _retry(source: _Source, at: Path, table: _RetryTable) -> RetryPolicy:
    policy = RetryPolicy(
        retries=table.retries,
        initial_ms=source.duration_ms((*at, "initial"), table.initial),
        factor=table.factor,
        max_ms=source.duration_ms((*at, "max"), table.max),
        jitter=table.jitter,
    )
    if policy.max_ms < policy.initial_ms:
        raise source.wrong((*at, "max"), f"retry max {table.max} is below initial {table.initial}")
    return policy


def _result(
    source: _Source, at: Path, names: list[str] | None, steps: dict[str, Step]
) -> tuple[str, ...]:
    """Return the result order: as written, or the last step first."""
    for name in names or ():
        if name not in steps:
            raise source.wrong((*at, "result"), f"result names an unknown step {name!r}")
    return tuple(reversed(steps)) if names is None else tuple(names)


def _versioned(pipeline: Pipeline) -> Pipeline:
    canonical = msgspec.json.encode(pipeline, order="sorted")
    digest = hashlib.sha256(canonical).hexdigest()[:8]
    return msgspec.structs.replace(pipeline, version=digest)


# ── checks ───────────────────────────────────────────────────────────────────────────────────────


def _check_names(source: _Source, at: Path, table: _PipelineTable) -> None:
    names: set[str] = set()
    states: set[str] = set()
    for number, step in enumerate(table.step):
        where = (*at, "step", number)
        if step.name in _ENDS:
            raise source.wrong((*where, "name"), f"step name {step.name!r} is reserved")
        if step.state in RESERVED_STATES:
            raise source.wrong((*where, "state"), f"state {step.state!r} is reserved")
        if step.name in names:
            raise source.wrong((*where, "name"), f"a second step named {step.name!r}")
        if step.state in states:
            raise source.wrong((*where, "state"), f"a second step with state {step.state!r}")
        names.add(step.name)
        states.add(step.state)


def _check_kind(source: _Source, at: Path, step: _StepTable) -> None:
    if step.kind == "worker":
        if not step.on:
            raise source.wrong((*at, "on"), f"step {step.name!r} has no outcome in `on`")
        if step.max_revisions is not None:
            raise source.wrong((*at, "max_revisions"), "max_revisions is for human steps")
        return
    for key in _WORKER_KEYS:
        if getattr(step, key) is not None:
            raise source.wrong((*at, key), f"{key} is for worker steps")
    if set(step.on) != _REVIEW_OUTCOMES:
        raise source.wrong(
            (*at, "on"), f"human step {step.name!r} needs exactly approved, edited and rejected"
        )


def _check_graph(source: _Source, at: Path, steps: dict[str, Step]) -> None:
    for number, step in enumerate(steps.values()):
        for outcome, target in step.on.items():
            if target not in steps and target not in _ENDS:
                words = f"step {step.name!r}: {outcome} leads to an unknown step {target!r}"
                raise source.wrong((*at, "step", number, "on", outcome), words)
    reached = _reachable(next(iter(steps)), steps)
    for number, name in enumerate(steps):
        if name not in reached:
            raise source.wrong((*at, "step", number), f"step {name!r} is never reached")
    if DONE not in reached:
        raise source.wrong(at, "no outcome leads to done")
    for number, name in enumerate(steps):
        if any(
            name in _reachable(target, steps, bounded=False) for target in _unbounded(steps[name])
        ):
            words = f"step {name!r} is in a loop that no max_revisions bounds"
            raise source.wrong((*at, "step", number, "on"), words)


def _reachable(start: str, steps: dict[str, Step], *, bounded: bool = True) -> set[str]:
    """Names that can follow, `start` included; `bounded` follows a reviewer's `rejected` too."""
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        step = steps.get(name)
        if step is not None:
            waiting.extend(step.on.values() if bounded else _unbounded(step))
    return reached


def _unbounded(step: Step) -> list[str]:
    """Targets that a task may take any number of times: all but a reviewer's `rejected`."""
    return [
        target
        for outcome, target in step.on.items()
        if step.kind == "worker" or outcome != "rejected"
    ]
