"""Rules of CONTRIBUTING.md that neither ruff nor mypy nor import-linter can hold."""

import ast
import re
import statistics
from pathlib import Path

import pytest

from tests.support import tree

FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 600  # 400 is where to think about splitting, this is where it has to happen
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "base", "misc"}
# The broad handlers of the project: loops, the last resort of a call, and user code.
BROAD_HANDLERS = {
    "clients/python/stepstream/worker/runner.py",
    "dispatcher/stepstream_dispatcher/engine/supervise.py",
    "dispatcher/stepstream_dispatcher/rpc/status.py",
}
# A step's process looks for modules where its worker does, as those of multiprocessing do.
SEARCH_PATH_HANDERS = {
    "clients/python/stepstream/worker/child.py",
    "clients/python/stepstream/worker/processes.py",
}
EVERYWHERE = (*tree.PACKAGE_ROOTS, "tests", "bench", "tools")


def places(found: list[tuple[Path, ast.AST]]) -> list[str]:
    return [tree.location(path, node) for path, node in found]  # type: ignore[arg-type]


def dotted(path: Path, *names: str) -> list[tuple[Path, ast.AST]]:
    """Where a file uses one of the dotted names, or imports one from its module."""
    nodes = ast.walk(tree.parse(path))
    return [(path, node) for node in nodes if any(uses(node, name) for name in names)]


def uses(node: ast.AST, name: str) -> bool:
    module, _, member = name.rpartition(".")
    if isinstance(node, ast.Attribute):
        return ast.unparse(node) == name
    if isinstance(node, ast.ImportFrom):
        return node.module == name or (
            node.module == module and any(alias.name == member for alias in node.names)
        )
    return isinstance(node, ast.Import) and any(alias.name == name for alias in node.names)


@pytest.mark.parametrize(
    ("names", "instead"),
    [
        (("sys.path",), "the proto path is the import path; install the project"),
        (("unittest.mock",), "a real object, a proven fake, or a stub in the test"),
        (("asyncio.create_task", "asyncio.ensure_future", "asyncio.gather"), "a TaskGroup"),
    ],
)
def test_banned_names_are_nowhere(names: tuple[str, ...], instead: str):
    found = [
        place
        for path in tree.python(*EVERYWHERE)
        if "sys.path" not in names or tree.location(path) not in SEARCH_PATH_HANDERS
        for place in dotted(path, *names)
    ]

    assert places(found) == [], f"use instead: {instead}"


def test_tasks_are_not_made_on_the_loop():
    found = [
        (path, call)
        for path in tree.python(*EVERYWHERE)
        for name, call in tree.calls(tree.parse(path))
        if re.fullmatch(r".*loop(\(\))?\.create_task", name)
    ]

    assert places(found) == []


def test_the_environment_is_read_in_settings_modules_only():
    found = [
        place
        for path in tree.packages()
        if path.stem != "settings"
        for place in dotted(path, "os.environ", "os.getenv", "os.environb")
    ]

    assert places(found) == []


def test_broad_handlers_stand_in_three_places_only():
    """One that only cleans up and raises again catches nothing, and is not meant."""
    found = [
        (path, node)
        for path in tree.packages()
        if tree.location(path) not in BROAD_HANDLERS
        for node in ast.walk(tree.parse(path))
        if isinstance(node, ast.ExceptHandler) and is_broad(node) and not raises_again(node)
    ]

    assert places(found) == []


def is_broad(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(ast.unparse(kind) in {"Exception", "BaseException"} for kind in caught)


def raises_again(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    left = any(
        isinstance(node, ast.Return | ast.Continue | ast.Break) for node in ast.walk(handler)
    )
    return isinstance(last, ast.Raise) and last.exc is None and not left


def test_tests_do_not_sleep_to_wait():
    """A pause of zero only yields; a sleep inside a @step is the work of that step.

    tests/support/pace.py has the pauses that a fault in real time needs.
    """
    found = [
        (path, call)
        for path in tree.python("tests")
        if path.name != "pace.py"
        for name, call in sleeps_outside_steps(tree.parse(path))
        if [ast.unparse(argument) for argument in call.args] != ["0"]
    ]

    assert places(found) == []


def sleeps_outside_steps(module: ast.Module) -> list[tuple[str, ast.Call]]:
    work = {
        id(call)
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if any("step" in ast.unparse(decorator) for decorator in node.decorator_list)
        for _, call in tree.calls(node)
    }
    return [
        (name, call)
        for name, call in tree.calls(module)
        if name in {"time.sleep", "asyncio.sleep", "sleep"} and id(call) not in work
    ]


def test_no_function_is_longer_than_the_limit():
    found = [
        f"{tree.location(path, node)} {node.name}: {length(node)} lines"
        for path in tree.python(*EVERYWHERE)
        for node in tree.functions(path)
        if length(node) > FUNCTION_LINES_MAX
    ]

    assert found == []


def test_functions_are_small_as_a_rule():
    lengths = [length(node) for path in tree.packages() for node in tree.functions(path)]

    assert statistics.quantiles(lengths, n=10)[-1] <= 30


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_no_module_is_longer_than_the_limit():
    found = [
        f"{tree.location(path)}: {lines} lines"
        for path in tree.python(*EVERYWHERE)
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MODULE_LINES_MAX
    ]

    assert found == []


def test_file_names_say_what_is_inside():
    parts = {
        (tree.location(path), part.strip("_"))
        for path in tree.python(*EVERYWHERE)
        for part in path.relative_to(tree.ROOT).with_suffix("").parts
    }

    banned = [place for place, part in parts if set(part.split("_")) & BANNED_NAMES]

    assert banned == []


def test_redis_keys_are_built_in_one_module():
    found = [
        (path, node)
        for path in tree.packages()
        if path.stem != "keys"
        for node in ast.walk(tree.parse(path))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.match(r"task:[a-z]", node.value)
    ]

    assert places(found) == []
