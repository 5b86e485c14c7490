"""The available selectors: those in this folder's files, and those of other packages by entry points `sevila.selectors`."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from types import ModuleType
from typing import Any

import pipeline.selection
from pipeline.registry import Registry, in_folder
from pipeline.selection.selector import Selector


def selector_names() -> list[str]:
    """Return the names of all selectors, ascending, without loading those of other packages."""
    return SELECTORS.names()


def selector_named(name: str, also: Iterable[str] = ()) -> Selector:
    """Return the selector called `name`; an error also suggests names of `also`. Raises as `Registry.named`."""
    return SELECTORS.named(name, also)


def _declared(module: ModuleType) -> dict[str, Selector]:
    values = [value for value in vars(module).values() if isinstance(value, Selector)]
    return {value.name: value for value in values if value.function.__module__ == module.__name__}


def _problem(value: Any, name: str) -> str:
    if isinstance(value, Selector) and value.name == name:
        return ""
    actual = f"selector {value.name!r}" if isinstance(value, Selector) else type(value).__name__
    return f"a {actual}; expected a function of that name, declared by sevila.extending.selector"


SELECTORS = Registry("selector", "sevila.selectors", partial(in_folder, pipeline.selection, _declared), _problem)
