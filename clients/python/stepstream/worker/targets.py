"""How the function of a step is found again in another process: by its module and its name."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

import msgspec

from stepstream.worker.registry import Step

__all__ = ["Target", "load", "target_of"]

_MAIN = "__main__"
_MAIN_ELSEWHERE = "__stepstream_main__"  # as in multiprocessing, so that its guard says no


class Target(msgspec.Struct, frozen=True):
    """Where a function is."""

    step: str
    module: str
    path: str  # of the module's file; empty when it has none
    name: str  # dotted, within the module


def target_of(step: Step) -> Target:
    """Where the function of a step is found in another process.

    Raises:
        ValueError: It is not found by a name: it is a lambda or stands inside another function, or
            its module has neither a name nor a file.
    """
    function: Any = step.function
    name = str(getattr(function, "__qualname__", function))
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    if module is None or _function_at(module, name) is not function:
        raise ValueError(
            f"the step {step.name!r} runs in a process, which has to find its function {name} by "
            "module and name: define it with `def` at the top level of a module"
        )
    spec = getattr(module, "__spec__", None)
    path = getattr(module, "__file__", None) or ""
    if module.__name__ != _MAIN:
        return Target(step.name, module.__name__, path, name)
    if spec is not None:  # python -m package.module
        return Target(step.name, spec.name, path, name)
    if not path or path.startswith("<"):
        raise ValueError(
            f"the step {step.name!r} runs in a process, which cannot import {name} from a program "
            "without a file: move it into a module"
        )
    return Target(step.name, _MAIN_ELSEWHERE, path, name)


def load(target: Target) -> Any:
    """Imports the module, or loads it from its file, and returns the function.

    Raises:
        ImportError: There is no such module.
        AttributeError: It has no such function.
    """
    found = _function_at(sys.modules.get(target.module) or _import(target), target.name)
    if found is None:
        raise AttributeError(f"{target.module} has no {target.name}")
    return found


def _import(target: Target) -> ModuleType:
    if "." in target.module or not target.path or _is_found(target):
        return importlib.import_module(target.module)
    spec = importlib.util.spec_from_file_location(target.module, target.path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{target.path} is not Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[target.module] = module
    spec.loader.exec_module(module)
    return module


def _is_found(target: Target) -> bool:
    """Whether an import by name would find that very file."""
    spec = importlib.util.find_spec(target.module)
    return spec is not None and spec.origin == target.path


def _function_at(module: ModuleType, name: str) -> Any:
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return found.function if isinstance(found, Step) else found
