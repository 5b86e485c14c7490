"""Registries that a file extends: all of a kind in a folder's files, and other people's by the entry points of a group."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path
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
        ours: returns those of this package, by name.
        problem: says what is wrong with what an entry point of a name leads to; "" where it is one of that name.
    """

    kind: str
    group: str
    ours: Callable[[], Mapping[str, Entry]]
    problem: Callable[[Any, str], str]

    def names(self) -> list[str]:
        """The names of all, ascending; other people's code is not loaded for that."""
        return sorted({*self.ours(), *self.names_of_others()})

    def names_of_others(self) -> list[str]:
        """The names of those that other packages offer, ascending."""
        return sorted({point.name for point in self._points()})

    def named(self, name: str, also: Iterable[str] = ()) -> Entry:
        """The one called `name`; `also` are further names that could have been meant.

        Raises:
            SevilaError: there is none, with the nearest one there is; two have the name; or other people's cannot be loaded.
        """
        built_in = self.ours()
        points = [point for point in self._points() if point.name == name]
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

    def _points(self) -> EntryPoints:
        points: EntryPoints = entry_points_of_others().select(group=self.group)
        return points

    def _loaded(self, point: EntryPoint) -> Entry:
        try:
            value: Entry = point.load()
        except (Exception, SystemExit) as error:  # other people's code may raise anything
            hint = "; other packages import our code by `from sevila.extending import ...`" if _is_ours(error) else ""
            raise SevilaError(
                f"{self.kind} {point.name!r} of {_owner(point)} cannot be loaded: {failure(error)}{hint}"
            ) from error
        problem = self.problem(value, point.name)
        if problem:
            raise SevilaError(f"entry point {point.name!r} of {_owner(point)} is {problem}")
        return value


def failure(error: BaseException) -> str:
    """Return what other people's code raised, and on which line of it, in one line."""
    if isinstance(error, SevilaError):
        return str(error)
    lines = [each for each in traceback.extract_tb(error.__traceback__) if not each.filename.startswith("<frozen")]
    if "importlib" in Path(lines[-1].filename).parts:  # an import that fails, fails there
        return repr(error)
    ours = {Path(__file__).parents[1] / room for room in ("pipeline", "stages", "cache", "reports", "cli", "sevila")}
    theirs = [each for each in lines if not ours & set(Path(each.filename).parents)]
    entry = Path(theirs[0].filename).parent if theirs else Path()  # where our call enters their package
    last = [each for each in theirs if Path(each.filename).parent == entry] or lines
    return f"{error!r} ({Path(last[-1].filename).name}, line {last[-1].lineno})"


def call_problem(function: Callable[..., Any], *arguments: Any) -> str:
    """Return why a function of other people's cannot be called with these arguments; "" if it can, or does not say."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        return str(error)
    except ValueError:
        return ""
    return ""


def in_folder(folder: ModuleType, entries_in: Callable[[ModuleType], Mapping[str, Entry]]) -> Mapping[str, Entry]:
    """Return, by name, what the modules of a package declare; `entries_in` returns those of a module."""
    modules = [import_module(f"{folder.__name__}.{each.name}") for each in iter_modules(folder.__path__)]
    return {name: entry for module in modules for name, entry in entries_in(module).items()}


@cache
def entry_points_of_others() -> Any:
    """All entry points of installed packages, of which to `select`; read once a process: it takes longer than a plan's step."""
    return entry_points()


def _is_ours(error: BaseException) -> bool:
    """Whether a module is missing that the repository has under this name, and the installed package under another."""
    return isinstance(error, ModuleNotFoundError) and error.name in ("cache", "pipeline", "stages")


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value
