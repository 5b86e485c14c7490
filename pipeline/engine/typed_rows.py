"""Rows of large tables: they stay columns, and become Python objects only while somebody looks at them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar, get_origin, get_type_hints, overload

import numpy as np

from cache.errors import CorruptArtifactError
from cache.tables import StoredColumns
from pipeline.reasons import Reason

Element = TypeVar("Element")
Key = TypeVar("Key", bound=Hashable)

BLOCK_ROWS = 1024
OBJECTS_AT_ONCE = 100_000  # rows that are kept as Python objects; of more, those that somebody looks at


def fields_of(kind: type[Any], columns: Collection[str]) -> dict[str, Any]:
    """Return the fields of a NamedTuple or dataclass that are columns, with their types."""
    return {name: hint for name, hint in get_type_hints(kind).items() if name in columns}


def rows_as(kind: type[Element], fields: Mapping[str, Any], columns: StoredColumns, source: str) -> Sequence[Element]:
    """Return the rows of columns, which are the `fields` in their order, as `kind`.

    Raises `CorruptArtifactError` when a row is looked at whose fields contradict each other: status and reason, or, of a class
    with a method `problem`, what that says.
    """

    def make(values: list[list[Any]]) -> list[Element]:
        for number, hint in enumerate(fields.values()):
            if hint is Reason or get_origin(hint) is tuple:
                values[number] = list(map(Reason if hint is Reason else tuple, values[number]))
        rows = [kind(**dict(zip(fields, row, strict=True))) for row in zip(*values, strict=True)]
        _refuse_contradictions(rows, kind, list(fields), source)
        return rows

    return _rows(columns, make)


def _refuse_contradictions(rows: Sequence[Any], kind: type[Any], fields: Sequence[str], source: str) -> None:
    problem_of, has_status = getattr(kind, "problem", None), {"status", "reason"} <= {*fields}
    for row in rows if has_status or problem_of is not None else ():
        problem = problem_of(row) if problem_of is not None else ""
        if has_status and row.status != ("failed" if row.reason else "ok"):
            problem = (
                f"has status {row.status!r} and reason {str(row.reason)!r}; expected ok without, or failed with one"
            )
        if problem:
            raise CorruptArtifactError(f"{source}: {fields[0]} {getattr(row, fields[0])!r} {problem}")


def values_of(column: StoredColumns) -> Sequence[Any]:
    """Return the values of one column."""
    return _rows(column, lambda values: values[0])


def _rows(columns: StoredColumns, make: Callable[[list[list[Any]]], list[Element]]) -> Sequence[Element]:
    return LazyRows(columns, make) if len(columns) > OBJECTS_AT_ONCE else make(columns.values())


class LazyRows(Sequence[Element]):
    """Rows [N] of a table, in its order; an object is made anew each time that it is asked for."""

    def __init__(self, columns: StoredColumns, make: Callable[[list[list[Any]]], list[Element]]) -> None:
        """Args: `make` returns the rows of some columns' values."""
        self._columns, self._make = columns, make
        self._start, self._block, self._next = 0, list[Element](), 0

    def __len__(self) -> int:
        return len(self._columns)

    @overload
    def __getitem__(self, at: int) -> Element: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Element]: ...
    def __getitem__(self, at: int | slice) -> Element | Sequence[Element]:
        if isinstance(at, slice):
            return [self[number] for number in range(*at.indices(len(self)))]
        at = range(len(self))[at]  # which may be negative
        if not self._start <= at < self._start + len(self._block):
            # One row takes as long as hundreds of neighbours: a block where rows are read one after the other.
            n_rows = BLOCK_ROWS if at == self._next else 1
            self._start, self._block = at, self._read(at, at + n_rows)
        self._next = at + 1
        return self._block[at - self._start]

    def __iter__(self) -> Iterator[Element]:
        for start in range(0, len(self), BLOCK_ROWS):
            yield from self._read(start, start + BLOCK_ROWS)

    def _read(self, start: int, stop: int) -> list[Element]:
        return self._make(self._columns.values(start, stop))


class Mapped(Sequence[Element]):
    """What a function makes of each element of a sequence, when it is asked for."""

    def __init__(self, make: Callable[[Any], Element], of: Sequence[Any]) -> None:
        self._make, self._of = make, of

    def __len__(self) -> int:
        return len(self._of)

    @overload
    def __getitem__(self, at: int) -> Element: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Element]: ...
    def __getitem__(self, at: int | slice) -> Element | Sequence[Element]:
        return Mapped(self._make, self._of[at]) if isinstance(at, slice) else self._make(self._of[at])

    def __iter__(self) -> Iterator[Element]:
        return map(self._make, self._of)


class Zipped(Collection[tuple[Any, ...]]):
    """The rows of some columns as tuples, which exist while they are looked at."""

    def __init__(self, columns: Sequence[Sequence[Any]]) -> None:
        self._columns = columns

    def __len__(self) -> int:
        return len(self._columns[0])

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return zip(*self._columns, strict=True)

    def __contains__(self, row: object) -> bool:
        return any(row == each for each in self)


class ByKey(Mapping[Key, Element]):
    """Rows by their keys, the first row of equal keys: a key takes 16 bytes beside what `keys` and `rows` take."""

    def __init__(self, keys: Sequence[Key], rows: Sequence[Element]) -> None:
        self._keys, self._rows = keys, rows
        hashes = hashes_of(keys)
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def __getitem__(self, key: Key) -> Element:
        at = int(np.searchsorted(self._hashes, hash(key)))
        while at < len(self._hashes) and self._hashes[at] == hash(key):
            number = int(self._order[at])
            if self._keys[number] == key:
                return self._rows[number]
            at += 1
        raise KeyError(key)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def hashes_of(keys: Collection[Hashable]) -> np.ndarray:
    """Return the hash of each key, int64 [N]; it differs from process to process."""
    return np.fromiter(map(hash, keys), np.int64, len(keys))


class Grouped(Mapping[Key, Sequence[Element]], Generic[Key, Element]):
    """The rows of each key, in their order, by the keys in the order of their first rows."""

    def __init__(self, keys: Iterable[Key], rows: Sequence[Element]) -> None:
        self._rows = rows
        self._numbers: dict[Key, list[int]] = {}
        for number, key in enumerate(keys):
            self._numbers.setdefault(key, []).append(number)

    def __getitem__(self, key: Key) -> Sequence[Element]:
        return [self._rows[number] for number in self._numbers[key]]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)
