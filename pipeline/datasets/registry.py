"""Which data sets there are: those in the files of this folder, and other people's by the entry points `sevila.datasets`."""

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

WANTED = ("name", "about", "read")


def adapter_names() -> list[str]:
    """The names of all data sets, ascending; other people's code is not loaded for that."""
    return ADAPTERS.names()


def adapter_named(name: str) -> Adapter:
    """The adapter called `name`. Raises as `Registry.named`: RecipeError that names the nearest one there is."""
    return ADAPTERS.named(name)


def read_split(adapter: Adapter, path: Path, split: str) -> Annotations:
    """Return what an adapter reads; what other people's raises that is no error of files is a `SevilaError` that says where."""
    try:
        return adapter.read(path, split)
    except (SevilaError, OSError):
        raise
    except Exception as error:
        if adapter.name in ADAPTERS.ours():
            raise
        raise SevilaError(f"data set {adapter.name!r} cannot read {path}: {failure(error)}") from error


def _declared(module: Any) -> dict[str, Adapter]:
    return {module.name: module} if isinstance(getattr(module, "about", None), About) else {}


def _problem(value: Any, name: str) -> str:
    missing = [attribute for attribute in WANTED if not hasattr(value, attribute)]
    what = f"the module {value.__name__}" if isinstance(value, ModuleType) else f"a {type(value).__name__}"
    if missing:
        return f"{what} without {', '.join(missing)}; a module with {', '.join(WANTED)} was wanted"
    if not isinstance(value.about, About) or value.name != name:
        return f"{what} whose name is {value.name!r} and whose about is a {type(value.about).__name__}; {name!r}, an About wanted"
    problem = call_problem(value.read, Path(), "")
    return f"{what} whose read cannot be called with (path, split): {problem}" if problem else ""


ADAPTERS = Registry("data set", "sevila.datasets", partial(in_folder, pipeline.datasets, _declared), _problem)
