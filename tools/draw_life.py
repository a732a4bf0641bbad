"""Draws the life of a task in ARCHITECTURE.md from the table that decides it, or checks it.

Every fact of `core/lifecycle.MOVES` is decided for real in each stage that admits it, in all the
variants below, along the shipped translation pipeline; an arrow is what came of one. A line of the
table that no variant reaches is an error, so that the drawing cannot leave one out.

Run it from the root: `.venv/bin/python tools/draw_life.py` (`--check` changes nothing).
"""

import argparse
import sys
from pathlib import Path

import msgspec

from stepstream_dispatcher.core import facts as f
from stepstream_dispatcher.core.lifecycle import MOVES, Circumstances, Refusal, decide
from stepstream_dispatcher.core.pipeline import Pipeline
from stepstream_dispatcher.core.record import Stage, TaskRecord, after
from stepstream_dispatcher.pipelines import read_pipelines

PAGE = Path(__file__).resolve().parent.parent / "ARCHITECTURE.md"
BEGIN = "<!-- drawn by tools/draw_life.py: do not edit -->\n"
END = "<!-- end of the drawing -->\n"

NOW_MS = 1_000_000
TOKEN, NEW_TOKEN, ENTRY, HERE = "lease", "new lease", "1-1", "dispatcher"
TRANSLATION: Pipeline = next(one for one in read_pipelines(()) if one.name == "translation")

QUEUED = TaskRecord(
    version=1, state="pending", stage=Stage.QUEUED, pipeline=TRANSLATION.key,
    step="translate", queue="default", entry=ENTRY,
)  # fmt: skip
LEASED = msgspec.structs.replace(
    QUEUED, stage=Stage.LEASED, state="translating", lease=TOKEN, owner=HERE, attempt=1
)
VERIFYING = msgspec.structs.replace(LEASED, step="verify", state="llm_verification")
DELAYED = msgspec.structs.replace(QUEUED, stage=Stage.DELAYED, state="translating", entry="")
WAITING = msgspec.structs.replace(
    QUEUED, stage=Stage.WAITING, step="review", state="human_review", queue="", entry=""
)
FAILED = msgspec.structs.replace(QUEUED, stage=Stage.ENDED, state="failed", entry="")
RECORDS = (
    QUEUED,
    msgspec.structs.replace(QUEUED, releases=1),
    LEASED,
    msgspec.structs.replace(LEASED, failures=3),
    msgspec.structs.replace(LEASED, losses=4),
    msgspec.structs.replace(LEASED, releases=1),
    msgspec.structs.replace(LEASED, cancel=1),
    VERIFYING,
    DELAYED,
    WAITING,
    FAILED,
    msgspec.structs.replace(FAILED, step="review"),
    msgspec.structs.replace(FAILED, state="cancelled"),
    *(msgspec.structs.replace(one, deadline_ms=NOW_MS) for one in (QUEUED, DELAYED, WAITING)),
)
FACTS: tuple[f.Fact, ...] = (
    f.Leased(entry=ENTRY, token=NEW_TOKEN, owner=HERE, worker="worker"),
    f.Adopted(token=TOKEN, owner="another", worker="worker"),
    *(f.Completed(token=TOKEN, outcome=one, output=b"") for one in ("completed", "passed")),
    f.Completed(token=TOKEN, outcome="rejected", output=b""),
    f.Failed(token=TOKEN, code="CODE", message="", retryable=True),
    *(f.Released(token=TOKEN, reason="", needless=needless) for needless in (False, True)),
    *(f.Lost(token=TOKEN, reason="", owner=HERE, waited_ms=ms) for ms in (0, 1_500)),
    f.Due(),
    *(f.DeadlinePassed(token=one) for one in ("", TOKEN)),
    *(f.Requeued(entry=ENTRY, reason="", needless=needless) for needless in (False, True)),
    f.CancelAsked(reason=""),
    *(f.Reviewed(decision=one, reviewer="ana") for one in ("approved", "rejected")),
    f.Redriven(),
    f.InputUpdated(input=b"", input_hash=""),
    f.Progressed(token=TOKEN, progress=0.5, note=""),
)
ANSWERED = {(Stage.ENDED, f.CancelAsked)}  # a word for the caller, never a change


def main() -> int:
    """Draws, or with --check reports whether the drawing is current; exit 1 when it is not."""
    parser = argparse.ArgumentParser(description="draw the life of a task")
    parser.add_argument("--check", action="store_true", help="change nothing, fail when stale")
    old = PAGE.read_text(encoding="utf-8")
    new = redrawn(old)
    if parser.parse_args().check:
        if new != old:
            print(f"{PAGE.name} is stale: run tools/draw_life.py")
        return int(new != old)
    PAGE.write_text(new, encoding="utf-8")
    return 0


def redrawn(page: str) -> str:
    """The page with the present drawing in it."""
    before, _, rest = page.partition(BEGIN)
    _, _, behind = rest.partition(END)
    return f"{before}{BEGIN}{drawing()}{END}{behind}"


def drawing() -> str:
    """The diagram, as Mermaid inside a fence."""
    lines = ["[*] --> queued: Submit", "[*] --> delayed: Submit with a delay"]
    for (left, entered), facts in arrows().items():
        lines.append(f"{left} --> {entered}: {', '.join(facts)}")
    lines.append("ended --> [*]: after RESULT_TTL")
    body = "\n".join(f"  {line}" for line in lines)
    return f"```mermaid\nstateDiagram-v2\n{body}\n```\n"


def arrows() -> dict[tuple[str, str], list[str]]:
    """What comes of each fact: names of facts by (stage left, stage entered), in table order.

    Raises:
        AssertionError: A line of the table is reached by none of the variants.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for stage, kind in (move for move in MOVES if move not in ANSWERED):
        targets = _targets(stage, kind)
        assert targets, f"no variant of {kind.__name__} is taken up in stage {stage}"
        for entered in targets:
            names = found.setdefault((stage.value, entered), [])
            names.append(kind.__name__)
    return found


def _targets(stage: Stage, kind: type[f.Fact]) -> list[str]:
    """Stages that a fact of a kind leads to."""
    targets: dict[str, None] = {}
    for record in (one for one in RECORDS if one.stage is stage):
        for fact in (one for one in FACTS if type(one) is kind):
            decision = decide(record, fact, _circumstances())
            if not isinstance(decision, Refusal):
                targets[after(record, decision).stage.value] = None
    return list(targets)


def _circumstances() -> Circumstances:
    return Circumstances(
        task_id="task", pipeline=TRANSLATION, now_ms=NOW_MS, rand=0.5, op_id="00000000", retain_s=1
    )


if __name__ == "__main__":
    sys.exit(main())
