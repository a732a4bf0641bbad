"""The page on tracing names the spans and attributes that the code has, and no others."""

import ast
import re

from stepstream import _telemetry as sdk
from stepstream_dispatcher import _telemetry as dispatcher
from tests.support import tree

PAGE = (tree.ROOT / "docs" / "tracing.md").read_text(encoding="utf-8")
SPANS = set(re.findall(r"^\| `(\w+) <\w+>` \|", PAGE, re.MULTILINE))
ATTRIBUTES = set(re.findall(r"^\| `([\w.]+)` \|", PAGE, re.MULTILINE))
SERVICES = ("SERVICE", "WORKER_SERVICE", "SCOPE")
LOGGERS = {"stepstream.step", "stepstream.worker"}  # spelled like attributes
# Imported by others only where they are used.
IMPORTERS = {"_otel.py", "otlp.py"}


def values(module) -> set[str]:
    return {getattr(module, name) for name in module.__all__ if name not in SERVICES}


def test_the_page_has_every_attribute():
    assert {one for one in values(sdk) | values(dispatcher) if "." in one} == ATTRIBUTES


def test_the_page_has_every_span():
    assert {one for one in values(sdk) | values(dispatcher) if "." not in one} == SPANS


def test_both_packages_spell_a_name_alike():
    shared = set(sdk.__all__) & set(dispatcher.__all__)

    assert {name for name in shared if getattr(sdk, name) != getattr(dispatcher, name)} == set()


def test_names_are_spelled_in_one_module_of_each_package():
    names = (values(sdk) | values(dispatcher)) - LOGGERS
    found = [
        tree.location(path, node)
        for path in tree.packages()
        if path.name != "_telemetry.py"
        for node in ast.walk(tree.parse(path))
        if isinstance(node, ast.Constant) and node.value in names and "." in str(node.value)
    ]

    assert found == []


def test_opentelemetry_is_imported_where_it_is_wanted_only():
    found = [
        tree.location(path, node)
        for path in tree.packages()
        if path.name not in IMPORTERS
        for node in ast.walk(tree.parse(path))
        if isinstance(node, ast.ImportFrom | ast.Import)
        and "opentelemetry" in ast.unparse(node)
        and not is_for_types(path, node)
    ]

    assert found == []


def is_for_types(path, node) -> bool:
    blocks = [
        block
        for block in ast.walk(tree.parse(path))
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
    ]
    return any(block.lineno < node.lineno <= (block.end_lineno or 0) for block in blocks)
