"""The source tree as the meta tests see it: which files there are, and their syntax trees."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

__all__ = ["PACKAGE_ROOTS", "ROOT", "calls", "functions", "location", "packages", "parse", "python"]

ROOT = Path(__file__).resolve().parents[2]
PACKAGE_ROOTS = (
    "clients/python/stepstream",
    "dispatcher/stepstream_dispatcher",
    "worker/stepstream_worker",
)
_GENERATED = ("_pb2", "_pb2_grpc")


def packages() -> list[Path]:
    """The hand-written modules of the three packages."""
    return python(*PACKAGE_ROOTS)


def python(*folders: str) -> list[Path]:
    """The hand-written Python files below the folders, sorted."""
    found = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return sorted(path for path in found if not path.stem.endswith(_GENERATED))


@cache
def parse(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def location(path: Path, node: ast.stmt | ast.expr | ast.ExceptHandler | None = None) -> str:
    """What an editor opens: the path from the root, with the line of the node."""
    name = path.relative_to(ROOT).as_posix()
    return name if node is None else f"{name}:{node.lineno}"


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method of a file."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call below a node with the dotted name that is called, such as "asyncio.sleep"."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node
