"""What two artifacts of one kind do not have in common: configs and inputs anywhere upstream, rows, files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cache.errors import StoreError
from cache.lineage import differences
from cache.printable import printable_lines
from cache.record import Record
from cache.store import Store
from cache.tables import Schema, read_values

SHOWN_CHARACTERS = 80

Key = tuple[Any, ...]


@dataclass(frozen=True)
class ColumnDiff:
    """One column: in how many rows it differs, and the first of these as (key, A's value, B's value)."""

    n_changed: int
    first: list[tuple[Key, Any, Any]]


@dataclass(frozen=True)
class TableDiff:
    """One table: rows matched by `key`, those of one artifact only, and the columns in which matched rows differ.

    `key` are the fewest leading columns that tell all rows of both apart, none for a single row and for tables of the same
    bytes. Where no columns do, equal rows are counted through. Columns of one schema only are in `columns_only_a` or
    `columns_only_b`.
    """

    key: tuple[str, ...]
    n_both: int
    n_changed: int
    n_only_a: int
    n_only_b: int
    only_a: list[Key]
    only_b: list[Key]
    columns_only_a: list[str]
    columns_only_b: list[str]
    columns: dict[str, ColumnDiff]

    @property
    def is_empty(self) -> bool:
        """Whether the table is the same in both."""
        return not (self.n_changed or self.n_only_a or self.n_only_b or self.columns_only_a or self.columns_only_b)


@dataclass(frozen=True)
class Diff:
    """Everything that differs: settings and inputs upstream first, then tables, then files that are no tables."""

    a: str
    b: str
    differences: list[str]
    tables: dict[str, TableDiff]
    files: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)


def diff(store: Store, a: str, b: str, n_rows: int) -> Diff:
    """Compare two artifacts, each an id or an unambiguous beginning; gives the first `n_rows` of each sort of differing rows.

    Raises:
        StoreError: there is no such artifact, or the two are of different kinds.
    """
    of_a, of_b = store.record(store.find(a)), store.record(store.find(b))
    if of_a.kind != of_b.kind:
        raise StoreError(
            f"{of_a.id} is of kind {of_a.kind}, {of_b.id} of kind {of_b.kind}: two of one kind were wanted"
        )
    names = list(dict.fromkeys([*of_a.schemas, *of_b.schemas]))
    tables = {name: _table_diff(_Table(store, of_a, name), _Table(store, of_b, name), n_rows) for name in names}
    hashes = [
        {name: file["sha256"] for name, file in record.files.items() if not name.endswith(".parquet")}
        for record in (of_a, of_b)
    ]
    files = [name for name in sorted(hashes[0].keys() | hashes[1].keys()) if hashes[0].get(name) != hashes[1].get(name)]
    return Diff(of_a.id, of_b.id, differences(store, of_a.id, of_b.id), tables, files)


def diff_text(found: Diff) -> str:
    """Return the comparison for a terminal."""
    lines = [f"A: {found.a}", f"B: {found.b}", *(f"  {line}" for line in found.differences)]
    for name, table in found.tables.items():
        counts = f"{table.n_both} rows in both, {table.n_only_a} only in A, {table.n_only_b} only in B"
        lines += ["", f"{name}: {counts}; {table.n_changed} changed"]
        for which, columns in (("A", table.columns_only_a), ("B", table.columns_only_b)):
            lines += [f"  columns only in {which}: {', '.join(columns)}"] if columns else []
        for which, count, keys in (("A", table.n_only_a, table.only_a), ("B", table.n_only_b, table.only_b)):
            lines += [f"  only in {which}: {_named(table.key, key)}" for key in keys] + _more(count - len(keys))
        for column, changed in table.columns.items():
            lines.append(f"  {column}: differs in {changed.n_changed} rows")
            lines += [f"    {_named(table.key, key)}: {_short(x)} -> {_short(y)}" for key, x, y in changed.first]
            lines += _more(changed.n_changed - len(changed.first))
    lines += ["", *(f"{name}: other bytes" for name in found.files)] if found.files else []
    return printable_lines(lines)


class _Table:
    """One table of one artifact, column by column, in the schema that its record names."""

    def __init__(self, store: Store, record: Record, name: str) -> None:
        schema = record.schemas.get(name, {"version": 1, "columns": {}})
        self.schema = Schema(schema["version"], **schema["columns"])
        files = [
            file for file in record.files if file.startswith((f"{name}.", f"{name}/")) and file.endswith(".parquet")
        ]
        self.hashes = [record.files[file]["sha256"] for file in sorted(files)]
        self._paths = [store.checked_file(record, file) for file in sorted(files)]
        columns = list(self.schema.columns)
        self.n_rows = len(self.column(columns[0])) if columns else 0  # a record may say anything

    def column(self, name: str) -> list[Any]:
        return read_values(self._paths, self.schema, name)


def _table_diff(a: _Table, b: _Table, n_rows: int) -> TableDiff:
    if a.hashes == b.hashes and a.hashes:
        return TableDiff((), a.n_rows, 0, 0, 0, [], [], [], [], {})
    shared = [name for name in a.schema.columns if name in b.schema.columns]
    key, rows_a, rows_b = _keys(a, b, shared)
    both = [(i, rows_b[found]) for found, i in rows_a.items() if found in rows_b]
    keys = list(rows_a)
    only_a, only_b = [k for k in rows_a if k not in rows_b], [k for k in rows_b if k not in rows_a]
    columns: dict[str, ColumnDiff] = {}
    changed: set[int] = set()
    for name in shared[len(key) :]:
        values_a, values_b = a.column(name), b.column(name)
        differing = [(i, j) for i, j in both if not _equal(values_a[i], values_b[j])]
        if differing:
            first = [(keys[i], values_a[i], values_b[j]) for i, j in differing[:n_rows]]
            columns[name] = ColumnDiff(len(differing), first)
            changed.update(i for i, _ in differing)
    return TableDiff(
        key,
        len(both),
        len(changed),
        len(only_a),
        len(only_b),
        only_a[:n_rows],
        only_b[:n_rows],
        [name for name in a.schema.columns if name not in shared],
        [name for name in b.schema.columns if name not in shared],
        columns,
    )


def _keys(a: _Table, b: _Table, shared: Sequence[str]) -> tuple[tuple[str, ...], dict[Key, int], dict[Key, int]]:
    """Return the key's columns and the row number of each key in A and in B."""
    keys_a: list[Key] = [()] * a.n_rows
    keys_b: list[Key] = [()] * b.n_rows
    for length in range(len(shared) + 1):
        if len(set(keys_a)) == len(keys_a) and len(set(keys_b)) == len(keys_b):
            break
        if length == len(shared):
            keys_a, keys_b = _counted(keys_a), _counted(keys_b)
            break
        keys_a, keys_b = (
            [(*key, _hashable(value)) for key, value in zip(keys, table.column(shared[length]), strict=True)]
            for keys, table in ((keys_a, a), (keys_b, b))
        )
    rows_a, rows_b = ({key: row for row, key in enumerate(keys)} for keys in (keys_a, keys_b))
    return tuple(shared[:length]), rows_a, rows_b


def _counted(keys: list[Key]) -> list[Key]:
    seen: dict[Key, int] = {}
    counted = []
    for key in keys:
        seen[key] = seen.get(key, 0) + 1
        counted.append((*key, seen[key]))
    return counted


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _equal(x: Any, y: Any) -> bool:
    return bool(x == y or (x != x and y != y))  # two NaN are the same


def _named(names: tuple[str, ...], key: Key) -> str:
    return " ".join(f"{name}={value}" for name, value in zip(names, key, strict=False)) or "the row"


def _short(value: Any) -> str:
    text = f"[{', '.join(map(_short, value))}]" if isinstance(value, list) else repr(value)
    text = f"{value:.6g}" if isinstance(value, float) else text
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}..."


def _more(count: int) -> list[str]:
    return [f"    ... and {count} more (--rows N shows more)"] if count > 0 else []
