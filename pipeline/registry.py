"""Registries that a file extends: all of a kind in a folder's files, and other people's by the entry points of a group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, Generic, TypeVar

from cache.errors import RecipeError, SevilaError, did_you_mean

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Registry(Generic[Entry]):
    """Everything of a kind, by name.

    Attributes:
        kind: what one is called, for people.
        group: of the entry points by which other packages offer theirs.
        folder: the package whose files hold ours.
        entries_in: returns those that a module of the folder declares, by name.
        problem: says what is wrong with what an entry point of a name leads to; "" where it is one of that name.
    """

    kind: str
    group: str
    folder: ModuleType
    entries_in: Callable[[ModuleType], Mapping[str, Entry]]
    problem: Callable[[Any, str], str]

    def names(self) -> list[str]:
        """The names of all, ascending; other people's code is not loaded for that."""
        return sorted({*self._built_in(), *(point.name for point in entry_points_of_others(self.group))})

    def named(self, name: str, also: Iterable[str] = ()) -> Entry:
        """The one called `name`; `also` are further names that could have been meant.

        Raises:
            SevilaError: there is none, with the nearest one there is; two have the name; or other people's cannot be loaded.
        """
        built_in = self._built_in()
        points = [point for point in entry_points_of_others(self.group) if point.name == name]
        if len(points) + (name in built_in) > 1:
            owners = [*(["this package"] if name in built_in else []), *map(_owner, points)]
            raise SevilaError(
                f"{self.kind} {name!r} is offered by {' and '.join(owners)}; uninstall all but one of them"
            )
        if name in built_in:
            return built_in[name]
        if points:
            return self._loaded(points[0])
        known = sorted({*self.names(), *also})
        raise RecipeError(
            f"no {self.kind} is called {name!r}{did_you_mean(name, known)}; there are: {', '.join(known)}"
        )

    def _built_in(self) -> dict[str, Entry]:
        modules = [import_module(f"{self.folder.__name__}.{each.name}") for each in iter_modules(self.folder.__path__)]
        return {name: entry for module in modules for name, entry in self.entries_in(module).items()}

    def _loaded(self, point: EntryPoint) -> Entry:
        try:
            value: Entry = point.load()
        except (Exception, SystemExit) as error:  # other people's code may raise anything
            raise SevilaError(f"{self.kind} {point.name!r} of {_owner(point)} cannot be loaded: {error!r}") from error
        problem = self.problem(value, point.name)
        if problem:
            raise SevilaError(f"entry point {point.name!r} of {_owner(point)} is {problem}")
        return value


@cache
def entry_points_of_others(group: str) -> tuple[EntryPoint, ...]:
    """The entry points of installed packages, read once a process: it takes longer than a plan's step."""
    return tuple(entry_points(group=group))


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value
