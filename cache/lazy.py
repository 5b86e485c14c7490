"""Large libraries, imported on first use: commands that only list artifacts read no arrays and no tables."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Lazy:
    """A module that is imported at the first access to one of its attributes."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        """Return the module's attribute of this name."""
        value = getattr(import_module(self._name), name)
        setattr(self, name, value)
        return value
