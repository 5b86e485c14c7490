"""What the rows of a table may hold, whoever wrote them: no unexpected null, finite numbers, each key once, numbered rows."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cache.lazy import Lazy

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc
else:
    pa, pc = Lazy("pyarrow"), Lazy("pyarrow.compute")

KEYS_AT_ONCE = 1 << 16  # keys that are Python objects while they are hashed


class RowProblem(NamedTuple):
    """A row, from 0 in its table, and what is wrong with it."""

    row: int
    text: str


def value_problem(table: pa.Table, may_be_null: Sequence[str], may_be_not_finite: Sequence[str]) -> RowProblem | None:
    """Return the first row of the first column with a null, or a number that is not finite, outside the columns named.

    Integers are counts and numbers of things: one below 0 is a problem, too, as other programs write -1 for what is not known.
    """
    for name, column in zip(table.column_names, table.columns, strict=True):
        start = 0
        for chunk in column.chunks:
            at = _first_wrong(chunk, name in may_be_null, name in may_be_not_finite)
            if at is not None:
                value = chunk[at].as_py()
                actual = "is null" if value is None else f"holds {reprlib.repr(value)}"
                return RowProblem(start + at, f"column {name!r} {actual}; expected {_wanted(chunk.type)}")
            start += len(chunk)
    return None


def _first_wrong(chunk: pa.Array, may_be_null: bool, may_be_not_finite: bool) -> int | None:
    if chunk.null_count and not may_be_null:
        return int(chunk.is_null().index(True).as_py())
    if pa.types.is_list(chunk.type):
        element = _first_wrong(chunk.flatten(), may_be_null, may_be_not_finite)
        if element is None:
            return None
        ends = chunk.value_lengths().fill_null(0).to_numpy().cumsum()
        return int(np.searchsorted(ends, element, side="right"))
    if pa.types.is_floating(chunk.type) and not may_be_not_finite:
        at = int(pc.is_finite(chunk).index(False).as_py())
        return at if at >= 0 else None
    if pa.types.is_integer(chunk.type) and (pc.min(chunk).as_py() or 0) < 0:
        return int(pc.less(chunk, 0).index(True).as_py())
    return None


def _wanted(kind: pa.DataType) -> str:
    kind = kind.value_type if pa.types.is_list(kind) else kind
    return "a finite number" if pa.types.is_floating(kind) else "0 or more" if pa.types.is_integer(kind) else "a value"


class KeyCheck:
    """Holds rows against the table's key, one file after the other.

    A key of one column, of text, differs in every row. Of a key (a, b, n), rows of equal (a, b) are adjacent, n counts `first`,
    `first` + 1, ... in them, and no (a, b) comes back later.
    """

    def __init__(self, key: Sequence[str], first: int) -> None:
        self.columns = tuple(key)
        self._ids = key[:1] if len(key) == 1 else key[:-1]
        self._number = key[1:][-1:]  # the column that numbers rows, or none
        self._first = first
        self._hashes: list[np.ndarray] = []  # of the keys, one for the rows that are together

    def problem(self, table: pa.Table) -> RowProblem | None:
        """Return the first row of a file that is out of order."""
        if not self.columns or not table.num_rows:
            return None
        columns = [table[name].unify_dictionaries() for name in self._ids]
        codes = [np.concatenate([chunk.indices.to_numpy() for chunk in column.chunks]) for column in columns]
        is_start = np.ones(table.num_rows, bool)
        for name in self._number:
            is_start[1:] = np.logical_or.reduce([each[1:] != each[:-1] for each in codes])
            numbers = table[name].to_numpy()
            wrong = np.flatnonzero(np.diff(numbers, prepend=0) != 1)
            wrong = wrong[~is_start[wrong]]
            starts = np.flatnonzero(is_start)
            wrong = np.concatenate([starts[numbers[starts] != self._first], wrong])
            if len(wrong):
                row = int(wrong.min())
                wanted = self._first if is_start[row] else numbers[row - 1] + 1
                return RowProblem(row, f"column {name!r} holds {numbers[row]}; expected {wanted}")
        hashes = np.zeros(np.count_nonzero(is_start), np.int64)
        for column, each in zip(columns, codes, strict=True):
            hashes = hashes * 1_000_003 + _hashes(column.chunk(0).dictionary)[each[is_start]]
        self._hashes.append(hashes)
        return None

    @property
    def may_repeat(self) -> bool:
        """Whether a key of the files so far may be there twice: two have the same hash."""
        hashes = np.sort(np.concatenate([np.empty(0, np.int64), *self._hashes]))
        return bool((hashes[1:] == hashes[:-1]).any())

    def repeated(self, tables: Iterable[pa.Table]) -> tuple[int, RowProblem] | None:
        """Return the number of the file, and the row, whose key is in an earlier row that is not adjacent."""
        seen: dict[tuple[str, ...], str] = {}
        for file, table in enumerate(tables):
            before = None
            for row, key in enumerate(zip(*(table[name].to_pylist() for name in self._ids), strict=True)):
                if key != before or not self._number:
                    here = f"row {row}" + (f" of file {file}" if file else "")
                    if key in seen:
                        return file, RowProblem(row, f"its key is that of {seen[key]}; expected each once")
                    seen[key] = here
                before = key
        return None


def _hashes(texts: pa.Array) -> np.ndarray:
    """Return the hash of each text, int64 [N]; it differs from process to process."""
    blocks: Iterator[pa.Array] = (texts.slice(start, KEYS_AT_ONCE) for start in range(0, len(texts), KEYS_AT_ONCE))
    hashes = [np.fromiter(map(hash, block.to_pylist()), np.int64, len(block)) for block in blocks]
    return np.concatenate([np.empty(0, np.int64), *hashes])
