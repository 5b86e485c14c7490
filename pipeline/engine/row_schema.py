"""Table schemas derived from row classes: a column for each field."""

from __future__ import annotations

from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from cache.tables import Schema

COLUMN_TYPES: dict[Any, str] = {bool: "bool", int: "int32", float: "float64"}  # default: string


def schema_of(version: int, row: type, **types: str) -> Schema:
    """Return the schema of a table of `row`; `types` override the column types derived from its fields."""
    return Schema(version, **{name: types.get(name) or _type(hint) for name, hint in get_type_hints(row).items()})


def _type(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):  # optional: a nullable column
        return _type(next(kind for kind in arguments if kind is not NoneType))
    if origin in (list, tuple, Sequence):
        return f"list<{_type(arguments[0])}>"
    return "string" if origin is Literal else COLUMN_TYPES.get(hint, "string")
