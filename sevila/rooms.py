"""Import the repository's folders as `sevila.cache`, `sevila.pipeline`, ..., so that a user may have a module `cache`.

The code itself imports by folder, `from cache.errors import ...`. Each module that is loaded as part of `sevila` gets its own
`__import__`, which maps `cache` to `sevila.cache`. If the folders were imported under their own names before `sevila`, as in the
tests, `sevila.cache` is that same module: nothing is loaded twice.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

ROOMS = ("cache", "cli", "pipeline", "reports", "stages", "workers")
HERE = Path(__file__).parent
ROOT = HERE if (HERE / "cache").is_dir() else HERE.parent  # in an installed package; in a clone of the repository


def _import(
    name: str,
    globals: Mapping[str, Any] | None = None,
    locals: Mapping[str, Any] | None = None,
    names: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    """Replace `builtins.__import__` in modules of `sevila`."""
    room = name.partition(".")[0]
    if level or room not in ROOMS:
        return builtins.__import__(name, globals, locals, names or (), level)
    module = builtins.__import__(f"sevila.{name}", globals, locals, names or ())
    return module if names else sys.modules[f"sevila.{room}"]


LOADED_BEFORE = any(str(ROOT / room) in getattr(sys.modules.get(room), "__path__", ()) for room in ROOMS)
BUILTINS = {**vars(builtins), "__import__": _import}


class _OurModule(SourceFileLoader):
    """Loads a module whose import statements map the folders to parts of `sevila`."""

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__builtins__"] = BUILTINS
        super().exec_module(module)


class _SameModule(Loader):
    """Loads the module that is imported under its name without `sevila.`."""

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = import_module(module.__name__.removeprefix("sevila."))


class _Finder:
    """Finds `sevila.cache.errors` and the like."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not name.startswith("sevila."):
            return None
        room = name.split(".")[1]
        if room in ROOMS and LOADED_BEFORE:
            return ModuleSpec(name, _SameModule(), is_package=True)
        spec = PathFinder.find_spec(name, [str(ROOT)] if name == f"sevila.{room}" and room in ROOMS else path)
        if spec is not None and spec.origin and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _OurModule(name, spec.origin)
        return spec


sys.meta_path.insert(0, _Finder())
