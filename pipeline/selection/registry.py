"""Which selectors there are: those in the files of this folder, and other people's by the entry points `sevila.selectors`."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from types import ModuleType
from typing import Any

import pipeline.selection
from pipeline.registry import Registry, in_folder
from pipeline.selection.selector import Selector


def selector_names() -> list[str]:
    """The names of all selectors, ascending; other people's code is not loaded for that."""
    return SELECTORS.names()


def selector_named(name: str, also: Iterable[str] = ()) -> Selector:
    """The selector called `name`; `also` are further names that could have been meant. Raises as `Registry.named`."""
    return SELECTORS.named(name, also)


def _declared(module: ModuleType) -> dict[str, Selector]:
    values = [value for value in vars(module).values() if isinstance(value, Selector)]
    return {value.name: value for value in values if value.function.__module__ == module.__name__}


def _problem(value: Any, name: str) -> str:
    if isinstance(value, Selector) and value.name == name:
        return ""
    what = f"selector {value.name!r}" if isinstance(value, Selector) else type(value).__name__
    return f"a {what}; a function of that name, declared by sevila.extending.selector, was wanted"


SELECTORS = Registry("selector", "sevila.selectors", partial(in_folder, pipeline.selection, _declared), _problem)
