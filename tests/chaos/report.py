"""What a run comes to: the result file and the table for a person."""

from __future__ import annotations

import platform
from collections import Counter
from pathlib import Path

import msgspec

from tests.chaos.checker import Verdict
from tests.chaos.history import History
from tests.chaos.takeovers import LIMITS_S, Figures, Takeover, figures

__all__ = ["Result", "result_of", "table"]

DUPLICATE_WORK_MAX = 1.3  # handlers begun for each recorded step
SHOWN = 10  # breaches of a kind in the table; the file has all


class Result(msgspec.Struct, kw_only=True):
    """One run, as `.stepstream/chaos/<seed>.json` keeps it."""

    seed: int
    seconds: float  # from the first process to the verdict
    started: str  # UTC
    tasks: int  # that Redis had in the end
    steps: int  # recorded
    submitted: dict[str, int]  # Submits by outcome
    modes: dict[str, int]  # accepted ones by execution mode
    faults: dict[str, int]  # by kind
    lost: int
    doubled: int
    unexpected: int
    recovered: int
    excused: int  # gone with the tail that AOF_1S may lose
    dropped: int  # of a fallback's journal (docs/fallback.md)
    late: int  # results of attempts that had been taken away; none was recorded
    duplicate_work: float
    takeovers: dict[str, Figures]  # by class: first losses of a step
    takeover_s: dict[str, list[float]]  # the times themselves, to be merged with other runs
    early: int  # takeovers before the last obstacle was gone; not in the figures
    repeated: int  # takeovers of a step that had been lost before; not in the figures
    breaches: dict[str, list[str]]
    idle: list[str]  # faults without effect
    audit: list[str]
    crashes: list[str]  # processes that ended by themselves
    versions: dict[str, str]
    settings: dict[str, str]
    command: str

    @property
    def failures(self) -> list[str]:
        """Why the run does not pass; empty when it does."""
        found = [f"{name}: {len(tasks)}" for name, tasks in self.breaches.items()]
        found += [f"no effect: {words}" for words in self.idle]
        found += [f"audit: {words}" for words in self.audit[:SHOWN]]
        found += [f"crash: {words}" for words in self.crashes]
        if self.duplicate_work > DUPLICATE_WORK_MAX:
            found.append(f"{self.duplicate_work:.3f} attempts a step")
        for name, one in self.takeovers.items():
            if one.p99 > LIMITS_S[name]:
                found.append(f"takeover, {name}: p99 is {one.p99:.2f} s of {LIMITS_S[name]:g} s")
        return found


def result_of(
    history: History,
    verdict: Verdict,
    taken: list[Takeover],
    *,
    audit: list[str],
    idle: list[str],
    about: dict[str, object],
) -> Result:
    """Puts a result together; `about` has the fields that say what was run."""
    first = [one for one in taken if not one.again and not one.early]
    times = {name: sorted(one.took_s for one in first if one.of == name) for name in LIMITS_S}
    shown = {name: figures(seconds) for name, seconds in times.items()}
    modes = Counter(submit.mode for submit in history.submits if submit.mode)
    fields: dict[str, object] = {
        "tasks": len(history.truth),
        "steps": verdict.steps,
        "submitted": dict(verdict.submitted),
        "modes": dict(modes),
        "faults": dict(sorted(Counter(fault.kind for fault in history.faults).items())),
        "lost": len(verdict.lost),
        "doubled": len(verdict.doubled),
        "unexpected": len(verdict.unexpected),
        "recovered": len(verdict.recovered),
        "excused": len(verdict.excused),
        "dropped": len(verdict.dropped),
        "late": verdict.late,
        "duplicate_work": round(verdict.attempts_a_step, 4),
        "takeovers": {name: one for name, one in shown.items() if one},
        "takeover_s": {name: [round(s, 3) for s in found] for name, found in times.items()},
        "repeated": sum(one.again for one in taken),
        "early": sum(one.early and not one.again for one in taken),
        "breaches": verdict.breaches,
        "idle": idle,
        "audit": audit,
    }
    return msgspec.convert({**fields, **about}, Result, from_attributes=True)


def versions(redis_info: dict[str, object]) -> dict[str, str]:
    """What was run, for the evidence."""
    server = "valkey_version" if "valkey_version" in redis_info else "redis_version"
    return {
        "python": platform.python_version(),
        server.partition("_")[0]: str(redis_info[server]),
        "kernel": platform.release(),
    }


def table(result: Result, folder: Path) -> str:
    """The result for a person."""
    faults = sum(result.faults.values())
    lines = [
        f"seed {result.seed}: {result.seconds:.0f} s, {faults} faults",
        f"  {result.tasks} tasks, {result.steps} steps",
        "",
        "  " + ", ".join(f"{kind} {count}" for kind, count in result.faults.items()),
        f"  submits     {result.submitted}",
        f"  modes       {result.modes}",
        f"  lost {result.lost}   doubled {result.doubled}   unexpected {result.unexpected}",
        f"  recovered {result.recovered}   excused {result.excused}   dropped {result.dropped}",
        f"  {result.duplicate_work:.3f} attempts a step, {result.late} late results",
    ]
    for name, one in result.takeovers.items():
        lines.append(
            f"  takeover, {name:<10} {one.count:4}: p50 {one.p50:.2f} s, p99 {one.p99:.2f} s, "
            f"max {one.max:.2f} s of {LIMITS_S[name]:g} s"
        )
    lines.append(f"  not in these: {result.early} amid other faults, {result.repeated} repeated")
    for name, tasks in result.breaches.items():
        lines += [f"  {name.upper()}"] + [f"    {words}" for words in tasks[:SHOWN]]
    failures = result.failures
    lines += ["", *(f"  FAILED  {words}" for words in failures)]
    lines.append(f"  everything is in {folder}" if failures else "  passed")
    return "\n".join(lines)
