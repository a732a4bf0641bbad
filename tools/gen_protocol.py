"""Writes the generated parts of docs/protocol.md, or checks that they are current (--check).

Run it with the interpreter of the development environment: it imports `stepstream.session`, whose
table and constants the page shows, and takes the messages from worker_service.proto. Everything
between `<!-- generated: name -->` and `<!-- end -->` is made here; the rest is written by hand.
"""

import argparse
import ast
import re
import sys
from itertools import pairwise
from pathlib import Path

from stepstream import session
from stepstream.session import TABLE, Role, Row, State

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "protocol.md"
PROTO = ROOT / "protos" / "stepstream" / "v1" / "worker_service.proto"
BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> int:
    """Writes the page, or with --check says whether it is stale; exit 1 when it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, fail when stale")
    check = parser.parse_args().check
    old = PAGE.read_text(encoding="utf-8")
    new = render(old)
    if check and new != old:
        print(f"stale: {PAGE.relative_to(ROOT)} (run: make gen)", file=sys.stderr)
        return 1
    if new != old:
        PAGE.write_text(new, encoding="utf-8")
    return 0


def render(page: str) -> str:
    """The page with every generated block made anew."""
    blocks = {
        "diagram": diagram(),
        "worker": rows(Role.WORKER),
        "dispatcher": rows(Role.DISPATCHER),
        "constants": constants(),
        "messages": messages(),
    }
    return BLOCK.sub(lambda found: f"{found[1]}{blocks[found[2]]}{found[3]}", page)


def diagram() -> str:
    """The changes of state as a Mermaid diagram."""
    moves: dict[tuple[State, State], list[str]] = {}
    for row in TABLE:
        if row.next is not row.state:
            who = "" if row.part == session.HALF_CLOSE else f"{row.sender.value}: "
            label = f"{who}{row.part}"
            labels = moves.setdefault((row.state, row.next), [])
            if label not in labels:
                labels.append(label)
    lines = [
        f"    {start.value} --> {end.value}: {', '.join(labels)}"
        for (start, end), labels in moves.items()
    ]
    first = f"    [*] --> {State.OPENING.value}"
    return "\n".join(["```mermaid", "stateDiagram-v2", first, *lines, "```", ""])


def rows(sender: Role) -> str:
    """The sender's rows of the table."""
    head = ["| when | part | then | |", "|---|---|---|---|"]
    return "\n".join([*head, *(line(row) for row in TABLE if row.sender is sender), ""])


def line(row: Row) -> str:
    """One row of a table."""
    note = "Only received, never sent: " if row.crossing else ""
    sentence = f"{note}{row.sentence[0].lower()}{row.sentence[1:]}" if note else row.sentence
    return f"| {row.state.value} | `{row.part}` | {row.next.value} | {sentence} |"


def constants() -> str:
    """The constants of the session module with the sentences that stand under them."""
    source = Path(session.__file__).read_text(encoding="utf-8")
    body = ast.parse(source).body
    lines = ["| name | value | |", "|---|---|---|"]
    for statement, after in pairwise(body):
        if isinstance(statement, ast.Assign) and isinstance(after, ast.Expr):
            name = ast.unparse(statement.targets[0])
            words = " ".join(str(ast.literal_eval(after.value)).split())
            lines.append(f"| `{name}` | {getattr(session, name)} | {words} |")
    return "\n".join([*lines, ""])


def messages() -> str:
    """The service and its messages, as the proto file has them."""
    text = PROTO.read_text(encoding="utf-8")
    return f"```proto\n{text[text.index('// Hands steps') :].rstrip()}\n```\n"


if __name__ == "__main__":
    sys.exit(main())
