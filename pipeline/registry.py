"""Registries of plug-ins: those declared in the files of a folder, and those of other packages, by entry points."""

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
    """All entries of one kind, by name.

    Attributes:
        kind: name of the kind in messages.
        group: entry point group of other packages' entries.
        built_in_entries: returns this package's entries, by name.
        problem: given a loaded entry point and its name, returns why it is not a valid entry; "" if it is.
    """

    kind: str
    group: str
    built_in_entries: Callable[[], Mapping[str, Entry]]
    problem: Callable[[Any, str], str]

    def names(self) -> list[str]:
        """Return all names, sorted, without loading other packages."""
        return sorted({*self.built_in_entries(), *self.names_of_others()})

    def names_of_others(self) -> list[str]:
        """Return the names of other packages' entries, sorted."""
        return sorted({point.name for point in self._points()})

    def named(self, name: str, also: Iterable[str] = ()) -> Entry:
        """Return the entry with this name; `also` are further names to suggest in the error.

        Raises:
            SevilaError: there is no such entry (the message suggests the nearest name), there are two, or it cannot be loaded.
        """
        built_in = self.built_in_entries()
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
        except (Exception, SystemExit) as error:  # other packages may raise anything
            hint = "; other packages import our code by `from sevila.extending import ...`" if _is_ours(error) else ""
            raise SevilaError(
                f"{self.kind} {point.name!r} of {_owner(point)} cannot be loaded: {failure(error)}{hint}"
            ) from error
        problem = self.problem(value, point.name)
        if problem:
            raise SevilaError(f"entry point {point.name!r} of {_owner(point)} is {problem}")
        return value


def failure(error: BaseException) -> str:
    """Describe an error of another package in one line, with the file and line in that package that raised it."""
    if isinstance(error, SevilaError):
        return str(error)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    if "importlib" in Path(frames[-1].filename).parts:  # a failed import has no frame in the package
        return repr(error)
    own_folders = {
        Path(__file__).parents[1] / room for room in ("pipeline", "stages", "cache", "reports", "cli", "sevila")
    }
    foreign_frames = [frame for frame in frames if not own_folders & set(Path(frame.filename).parents)]
    package = Path(foreign_frames[0].filename).parent if foreign_frames else Path()  # the folder that our call enters
    last = [frame for frame in foreign_frames if Path(frame.filename).parent == package] or frames
    return f"{error!r} ({Path(last[-1].filename).name}, line {last[-1].lineno})"


def call_problem(function: Callable[..., Any], *arguments: Any) -> str:
    """Return why a function cannot be called with these arguments; "" if it can, or has no signature."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        return str(error)
    except ValueError:
        return ""
    return ""


def in_folder(folder: ModuleType, entries_in: Callable[[ModuleType], Mapping[str, Entry]]) -> Mapping[str, Entry]:
    """Return the entries of all modules of a package, by name; `entries_in` returns those of one module."""
    modules = [import_module(f"{folder.__name__}.{info.name}") for info in iter_modules(folder.__path__)]
    return {name: entry for module in modules for name, entry in entries_in(module).items()}


@cache
def entry_points_of_others() -> Any:
    """Return all entry points of installed packages; cached, because reading them takes longer than a step of a plan."""
    return entry_points()


def _is_ours(error: BaseException) -> bool:
    """Return whether the missing module is one of ours, which an installed package has under another name."""
    return isinstance(error, ModuleNotFoundError) and error.name in ("cache", "pipeline", "stages")


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value
