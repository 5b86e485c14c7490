"""Which selectors there are: those in the files of this folder, and other people's by the entry points `sevila.selectors`."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pkgutil import iter_modules

import pipeline.selection
from cache.errors import SevilaError, did_you_mean
from pipeline.selection.selector import Selector

GROUP = "sevila.selectors"


def selector_names() -> list[str]:
    """The names of all selectors, ascending; other people's code is not loaded for that."""
    return sorted({*_built_in(), *(point.name for point in entry_points_of_others())})


def selector_named(name: str, also: Iterable[str] = ()) -> Selector:
    """The selector called `name`; `also` are further names that could have been meant.

    Raises:
        SevilaError: there is none, with the nearest one there is; two have the name; or other people's cannot be loaded.
    """
    built_in = _built_in().get(name)
    points = [point for point in entry_points_of_others() if point.name == name]
    if len(points) + (built_in is not None) > 1:
        owners = [*(["this package"] if built_in else []), *map(_owner, points)]
        raise SevilaError(f"selector {name!r} is offered by {' and '.join(owners)}; uninstall all but one of them")
    if built_in is not None:
        return built_in
    if points:
        return _loaded(points[0])
    known = sorted({*selector_names(), *also})
    raise SevilaError(f"no selector is called {name!r}{did_you_mean(name, known)}; there are: {', '.join(known)}")


@cache
def entry_points_of_others() -> tuple[EntryPoint, ...]:
    """The entry points of installed packages, read once a process: it takes longer than a plan's step."""
    return tuple(entry_points(group=GROUP))


def _built_in() -> dict[str, Selector]:
    modules = [import_module(f"pipeline.selection.{each.name}") for each in iter_modules(pipeline.selection.__path__)]
    return {
        value.name: value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, Selector) and value.function.__module__ == module.__name__
    }


def _loaded(point: EntryPoint) -> Selector:
    try:
        value = point.load()
    except (Exception, SystemExit) as error:  # other people's code may raise anything
        raise SevilaError(f"selector {point.name!r} of {_owner(point)} cannot be loaded: {error!r}") from error
    if not isinstance(value, Selector) or value.name != point.name:
        what = f"selector {value.name!r}" if isinstance(value, Selector) else type(value).__name__
        raise SevilaError(
            f"entry point {point.name!r} of {_owner(point)} is a {what}; a function of that name, declared by "
            "pipeline.selection.selector.selector, was wanted"
        )
    return value


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value
