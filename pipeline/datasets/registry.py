"""The available data sets: those in this folder's files, and those of other packages by entry points `sevila.datasets`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pipeline.datasets
from cache.errors import SevilaError
from pipeline.datasets.adapter import About, Adapter
from pipeline.datasets.question import Annotations
from pipeline.registry import Registry, call_problem, failure, in_folder

REQUIRED_MEMBERS = ("name", "about", "read")


def adapter_names() -> list[str]:
    """Return the names of all data sets, ascending, without loading those of other packages."""
    return ADAPTERS.names()


def adapter_named(name: str) -> Adapter:
    """Return the adapter called `name`. Raises as `Registry.named`."""
    return ADAPTERS.named(name)


def read_split(adapter: Adapter, path: Path, split: str) -> Annotations:
    """Return what an adapter reads; an unexpected exception of another package's adapter becomes a `SevilaError`."""
    try:
        return adapter.read(path, split)
    except (SevilaError, OSError):
        raise
    except Exception as error:
        if adapter.name in ADAPTERS.built_in_entries():
            raise
        raise SevilaError(f"data set {adapter.name!r} cannot read {path}: {failure(error)}") from error


def _declared(module: Any) -> dict[str, Adapter]:
    return {module.name: module} if isinstance(getattr(module, "about", None), About) else {}


def _problem(value: Any, name: str) -> str:
    missing = [member for member in REQUIRED_MEMBERS if not hasattr(value, member)]
    kind = f"the module {value.__name__}" if isinstance(value, ModuleType) else f"a {type(value).__name__}"
    if missing:
        return f"{kind} without {', '.join(missing)}; expected a module with {', '.join(REQUIRED_MEMBERS)}"
    if not isinstance(value.about, About) or value.name != name:
        about = type(value.about).__name__
        return f"{kind} with the name {value.name!r} and an about of type {about}; expected {name!r} and About"
    problem = call_problem(value.read, Path(), "")
    return f"{kind} whose read cannot be called with (path, split): {problem}" if problem else ""


ADAPTERS = Registry("data set", "sevila.datasets", partial(in_folder, pipeline.datasets, _declared), _problem)
