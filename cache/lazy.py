"""Large libraries, imported when something of theirs is used: what only lists a store's artifacts reads no array and no table."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Lazy:
    """Stands for a module that is imported at the first look into it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        """Return what the module has under this name."""
        value = getattr(import_module(self._name), name)
        setattr(self, name, value)
        return value
