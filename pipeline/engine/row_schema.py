"""Table schemas derived from row classes: a column for each field."""

from __future__ import annotations

from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from cache.tables import OR_NULL, Schema

COLUMN_TYPES: dict[Any, str] = {bool: "bool", int: "int32", float: "float64"}  # default: string


def schema_of(version: int, row: type, *key: str, first: int = 0, **types: str) -> Schema:
    """Return the schema of a table of `row`; `types` override the column types derived from its fields, nulls apart."""
    hints = get_type_hints(row)
    kinds = {name: (types.get(name) or _type(hint)) + OR_NULL * _is_optional(hint) for name, hint in hints.items()}
    return Schema(version, *key, first=first, **kinds)


def _is_optional(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType) and NoneType in get_args(hint)


def _type(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if _is_optional(hint):
        return _type(next(kind for kind in arguments if kind is not NoneType))
    if origin in (list, tuple, Sequence):
        return f"list<{_type(arguments[0])}>"
    return "string" if origin is Literal else COLUMN_TYPES.get(hint, "string")
