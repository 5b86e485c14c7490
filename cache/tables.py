"""Parquet tables with declared, versioned schemas: plain Python rows or numpy columns in, the same out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cache.errors import CorruptArtifactError, SchemaError, rebuild_hint, repair_hint
from cache.files import published
from cache.lazy import Lazy
from cache.parquet import VALUE_BYTES, allowed_bytes, as_rows, as_values, bounded_parquet
from cache.row_checks import KeyCheck, RowProblem, value_problem

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
else:
    pa, pq = Lazy("pyarrow"), Lazy("pyarrow.parquet")

# A few kilobytes of Parquet may claim billions of equal rows; the largest data sets make some millions.
MOST_ROWS = 10**8
COLUMN_TYPES = ("string", "bool", "int8", "int16", "int32", "int64", "float32", "float64")
OR_NULL, OR_NOT_FINITE = " or null", " or not finite"


def _type(kind: str) -> pa.DataType:
    # "element" is what Parquet calls a list's values: with it a schema comes back as declared.
    if kind.startswith("list<"):
        return pa.list_(pa.field("element", _type(kind[5:-1])))
    return pa.type_for_alias(kind)


class Schema:
    """The declared columns of one table, in order, and the version of their meaning.

    `Schema(1, "question_id", question_id="string", seconds="float64 or null")`. A null means "not known". Only columns that say
    so hold nulls, or, with " or not finite", nan and infinity. Integers are not below 0.

    Args:
        key: columns of text that differ in every row; followed by another one, which numbers from `first` the rows that are
            together because they agree in the others.
    """

    def __init__(self, version: int, /, *key: str, first: int = 0, **columns: str) -> None:
        self.version, self.key, self.first = version, key, first
        self.may_be_null = [name for name, kind in columns.items() if kind.endswith(OR_NULL)]
        self.may_be_not_finite = [name for name, kind in columns.items() if kind.endswith(OR_NOT_FINITE)]
        self.columns = {name: kind.partition(" or ")[0] for name, kind in columns.items()}
        unknown = {*self.columns.values()} - {*COLUMN_TYPES, *(f"list<{kind}>" for kind in COLUMN_TYPES)}
        if unknown:
            raise KeyError(*unknown)

    def as_dict(self) -> dict[str, Any]:
        """Return what the record keeps: the version and each column's type."""
        return {"version": self.version, "columns": dict(self.columns)}

    def arrow(self) -> pa.Schema:
        """Return the pyarrow schema, with the version in its metadata."""
        fields = [pa.field(name, _type(kind)) for name, kind in self.columns.items()]
        return pa.schema(fields, {"sevila_schema_version": str(self.version)})


def write_rows(path: Path, schema: Schema, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows (dicts with exactly the schema's columns) to one Parquet file and return how many there were.

    Raises:
        SchemaError: a row lacks a column, has another one, or holds a value of another type.
    """
    rows = list(rows)
    for number, row in enumerate(rows):
        if row.keys() != schema.columns.keys():
            missing, extra = schema.columns.keys() - row.keys(), row.keys() - schema.columns.keys()
            raise SchemaError(
                f"{path.name}, row {number}: missing columns {sorted(missing)}, unexpected {sorted(extra)}"
            )
    return write_columns(path, schema, {name: [row[name] for row in rows] for name in schema.columns})


def write_columns(path: Path, schema: Schema, columns: Mapping[str, Sequence[Any] | np.ndarray]) -> int:
    """Write whole columns to one Parquet file and return the number of rows; raises `SchemaError` like `write_rows`."""
    return write_blocks(path, schema, [columns])


def write_blocks(path: Path, schema: Schema, blocks: Iterable[Mapping[str, Sequence[Any] | np.ndarray]]) -> int:
    """Write columns that come some rows at a time to one Parquet file, with the bytes that they have written at once.

    Raises:
        SchemaError: like `write_rows`.
    """
    table = _joined(schema, [_table(path, schema, columns) for columns in blocks])
    path.parent.mkdir(parents=True, exist_ok=True)
    with published(path) as part:
        pq.write_table(table, part, compression="zstd", write_page_checksum=True)
        if _most_claimed_bytes(table) > allowed_bytes(part.stat().st_size) and not _is_within_bounds(part):
            pq.write_table(table, part, compression="none", use_dictionary=False, write_page_checksum=True)
    return int(table.num_rows)


def _joined(schema: Schema, tables: list[pa.Table]) -> pa.Table:
    """Return the rows of tables, and empty the list: only one column is held twice at a time.

    Each column is in one piece, or in several if it has more than the 2 GB of text that an array can hold.
    """
    if len(tables) == 1:
        return tables[0]
    parts = [table.columns for table in tables]
    tables.clear()
    joined = []
    for field in schema.arrow():
        chunks = [chunk for columns in parts for chunk in columns.pop(0).chunks]
        column = pa.table([pa.chunked_array(chunks, field.type)], schema=pa.schema([field]))
        del chunks
        joined.append(column.combine_chunks().column(0))  # in several pieces where a column has more than 2 GiB of text
        del column
        pa.default_memory_pool().release_unused()
    return pa.Table.from_arrays(joined, schema=schema.arrow())


def _table(path: Path, schema: Schema, columns: Mapping[str, Sequence[Any] | np.ndarray]) -> pa.Table:
    if columns.keys() != schema.columns.keys():
        raise SchemaError(f"{path.name}: has columns {sorted(columns)}, expected {sorted(schema.columns)}")
    arrays = []
    for name, kind in schema.columns.items():
        try:
            arrays.append(_array(columns[name], _type(kind)))
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
            raise SchemaError(f"{path.name}, column {name!r}: not {kind}: {error}") from error
    table = pa.Table.from_arrays(arrays, schema=schema.arrow())
    if problem := value_problem(table, schema.may_be_null, schema.may_be_not_finite):
        raise SchemaError(f"{path.name}, row {problem.row}: {problem.text}")
    return table


def _most_claimed_bytes(table: pa.Table) -> int:
    """Return more than a file of these rows can claim: pages, texts as distinct ones with indices, each value as the largest."""
    n_values = 0
    for column in table.columns:
        for chunk in column.chunks:
            n_values += len(chunk)
            while pa.types.is_list(chunk.type):
                chunk = chunk.flatten()
                n_values += len(chunk)
    return 4 * int(table.nbytes) + VALUE_BYTES * n_values


def _is_within_bounds(path: Path) -> bool:
    """Whether what was written would be read again: rows that are all alike take next to nothing, as in a hostile file."""
    try:
        with bounded_parquet(path) as file:
            file.check()
    except CorruptArtifactError:
        return False
    return True


def _array(values: Sequence[Any] | np.ndarray, wanted: pa.DataType) -> pa.Array:
    # Not pa.array(values, type=...), which cuts 1.5 to 1 in an integer column; a cast refuses that, but parses text.
    array = pa.array(values)
    if pa.types.is_string(array.type) and not pa.types.is_string(wanted):
        raise pa.ArrowTypeError("holds text")
    return array.cast(wanted)


def read_rows(paths: Sequence[Path], schema: Schema, n_rows: int | None = None) -> list[dict[str, Any]]:
    """Return all rows of a table's files, in order, as dicts of Python values (None where null); see `read_columns`."""
    return as_rows(_read(paths, schema, None, n_rows))


def read_table(paths: Sequence[Path], schema: Schema, n_rows: int | None = None) -> pa.Table:
    """Return a table's files, in order, as one Arrow table of the declared types; raises like `read_columns`."""
    return _read(paths, schema, None, n_rows).cast(schema.arrow())


def read_columns(
    paths: Sequence[Path], schema: Schema, names: Sequence[str], n_rows: int | None = None
) -> dict[str, np.ndarray]:
    """Return the named columns of a table's files as numpy arrays; columns without nulls only (a null is an error).

    Args:
        n_rows: how many rows the files have together, where that is known; files that have others are not read.

    Raises:
        SchemaError: the files hold other columns, types or another schema version, or a null where a number is wanted.
        CorruptArtifactError: a file is not readable Parquet, the files have other than `n_rows` rows, or a row has a value or
            key that the schema excludes.
    """
    table = _read(paths, schema, names, n_rows)
    if problem := value_problem(table, (), names):
        raise SchemaError(f"{paths[0].parent}: row {problem.row}: {problem.text}; read it as rows")
    return {name: _numpy(table[name]) for name in names}


class StoredColumns:
    """Columns of a table's files, whose rows become Python values, None where null, when they are asked for."""

    def __init__(self, columns: Sequence[pa.ChunkedArray], n_rows: int) -> None:
        self._columns, self._n_rows = columns, n_rows

    def __len__(self) -> int:
        return self._n_rows

    def values(self, start: int = 0, stop: int | None = None) -> list[list[Any]]:
        """Return the values of each column in rows `start` to `stop`, or to the end."""
        n_rows = None if stop is None else stop - start
        return [as_values(column.slice(start, n_rows)) for column in self._columns]


def read_stored(
    paths: Sequence[Path], schema: Schema, names: Sequence[str], n_rows: int | None = None
) -> StoredColumns:
    """Return the named columns of a table's files; raises like `read_columns`."""
    table = _read(paths, schema, names, n_rows)
    return StoredColumns([table[name] for name in names], table.num_rows)


def _numpy(column: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_dictionary(column.type):
        return np.array(as_values(column), dtype=object)
    array: np.ndarray = column.to_numpy()
    return array


def _read(paths: Sequence[Path], schema: Schema, names: Sequence[str] | None, n_rows: int | None) -> pa.Table:
    tables = []
    n_claimed = 0
    whole = schema.arrow()
    fields = [field for field in whole if names is None or field.name in names]  # in a file's order
    wanted = pa.schema(fields, whole.metadata)
    keys = KeyCheck(schema.key if {*schema.key} & {*wanted.names} else (), schema.first)
    for path in paths:
        with bounded_parquet(path, {*wanted.names, *keys.columns}) as file:
            if not file.schema.equals(whole, check_metadata=True):
                raise SchemaError(
                    f"{path}: holds schema\n{file.schema}\nexpected version {schema.version} with {schema.columns}; "
                    "the artifact was written by another version: run its stage again"
                )
            n_claimed += file.n_rows
            if n_claimed > MOST_ROWS:
                raise CorruptArtifactError(
                    f"{path}: claims {n_claimed} rows, more than any table has; {repair_hint(path)}"
                )
            if n_rows is not None and n_claimed > n_rows:
                raise CorruptArtifactError(f"{path}: claims {n_claimed} rows, expected {n_rows}; {repair_hint(path)}")
            table = file.read()
        problem = value_problem(table, schema.may_be_null, schema.may_be_not_finite) or keys.problem(table)
        if problem is not None:
            raise _refusal(path, schema, problem)
        tables.append(table.select(wanted.names))
    if n_rows is not None and n_claimed != n_rows and paths:
        raise CorruptArtifactError(f"{paths[0].parent}: {n_claimed} rows, expected {n_rows}; {repair_hint(paths[0])}")
    if keys.may_repeat and (repeated := keys.repeated(map(partial(_columns_of, names=schema.key), paths))):
        raise _refusal(paths[repeated[0]], schema, repeated[1])
    return pa.concat_tables(tables) if tables else wanted.empty_table()


def _columns_of(path: Path, names: Sequence[str]) -> pa.Table:
    with bounded_parquet(path, names) as file:
        return file.read()


def _refusal(path: Path, schema: Schema, problem: RowProblem) -> CorruptArtifactError:
    """Return the error about a row of a file, which names the row's key."""
    (key,) = as_rows(_columns_of(path, schema.key).slice(problem.row, 1)) if schema.key else ({},)
    of_key = f" ({', '.join(f'{name} {value!r}' for name, value in key.items())})" if key else ""
    return CorruptArtifactError(f"{path}: row {problem.row}{of_key}: {problem.text}; {rebuild_hint(path)}")


def n_rows(paths: Sequence[Path]) -> int:
    """Return how many rows a table's files say they have; raises `CorruptArtifactError` for what is no Parquet."""
    total = 0
    for path in paths:
        with bounded_parquet(path, ()) as file:
            total += file.n_rows
    return total


def read_head(paths: Sequence[Path], n_rows: int) -> list[dict[str, Any]]:
    """Return the first rows of a table's files, whatever their schema, for people to look at."""
    rows: list[dict[str, Any]] = []
    for path in paths:
        if len(rows) < n_rows:
            with bounded_parquet(path) as file:
                rows += file.head(n_rows)
    return rows[:n_rows]
