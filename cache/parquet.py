"""Reading Parquet that may come from anybody: what it says of itself may take no more memory than its size justifies.

A few kilobytes may hold one long text and say that it stands in every row, or that one number is repeated without end. So texts
stay indices into the distinct ones: in Python too, equal texts of a file are one object. What `cache.tables` writes is within
these bounds, whatever it holds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cache.errors import CorruptArtifactError, repair_hint
from cache.files import open_file
from cache.lazy import Lazy

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
else:
    pa, pc, pq = Lazy("pyarrow"), Lazy("pyarrow.compute"), Lazy("pyarrow.parquet")

# In memory, of what the file takes on disk.
MOST_TIMES, ALWAYS_BYTES = 256, 16 << 20
VALUE_BYTES = 8  # at most; of a text, its index
ID_BYTES = 4096  # ids and questions stand in any number of rows; only what is longer counts each time


@dataclass(frozen=True)
class BoundedParquet:
    """An open file, whose claims were checked; `schema` is that of all its columns."""

    path: Path
    schema: pa.Schema
    n_rows: int
    size_bytes: int
    file: pq.ParquetFile
    names: list[str]

    def read(self) -> pa.Table:
        """Return all rows of the columns it was opened for, texts as dictionaries; raises `CorruptArtifactError`."""
        parts = dict(self._columns())
        in_order = [parts[name] for name in dict.fromkeys(self.names)]
        columns = [column for part in in_order for column in part.columns]
        return pa.Table.from_arrays(columns, schema=pa.schema([field for part in in_order for field in part.schema]))

    def check(self) -> None:
        """Read all rows of these columns without keeping them; raises `CorruptArtifactError`."""
        for _ in self._columns():
            pass

    def _columns(self) -> Iterator[tuple[str, pa.Table]]:
        """Yield each column with its name, lists first: while Arrow reads texts, it takes four times what it keeps."""
        total, lists = 0, {field.name for field in self.schema if pa.types.is_list(field.type)}
        for name in sorted(dict.fromkeys(self.names), key=lambda name: name not in lists):
            column = self.file.read(columns=[name])
            total += _bytes_of(column)
            _refuse_beyond(self.path, self.size_bytes, total)
            if column.nbytes > ALWAYS_BYTES:
                pa.default_memory_pool().release_unused()
            yield name, column

    def head(self, n_rows: int) -> list[dict[str, Any]]:
        """Return the first rows as Python values; raises `CorruptArtifactError`."""
        batch = next(self.file.iter_batches(batch_size=n_rows, columns=self.names), None)
        if batch is None:
            return []
        table = pa.Table.from_batches([batch])
        _refuse_beyond(self.path, self.size_bytes, _bytes_of(table))
        return as_rows(table)


@contextmanager
def bounded_parquet(
    path: Path, names: Collection[str] | None = None, content: bytes | None = None
) -> Iterator[BoundedParquet]:
    """Open a file, or the bytes that were read from it, to read these columns of it, or all.

    Raises:
        CorruptArtifactError: it is not readable, here or in the block, or claims more than its size justifies.
    """
    try:
        if content is None:
            open_file(path).close()  # pyarrow would wait for a pipe
        with pa.OSFile(str(path)) if content is None else pa.BufferReader(content) as source:
            plain = pq.ParquetFile(source)
            schema, metadata = plain.schema_arrow, plain.metadata
            requested = [name for name in schema.names if names is None or name in names]
            leaves = [metadata.schema.column(number) for number in range(metadata.num_columns)]
            texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
            file = pq.ParquetFile(source, metadata=metadata, read_dictionary=texts, page_checksum_verification=True)
            size_bytes = source.size()
            _refuse_beyond(path, size_bytes, _claimed_bytes(file, schema, requested))
            yield BoundedParquet(path, schema, metadata.num_rows, size_bytes, file, requested)
    except (pa.ArrowException, UnicodeDecodeError, OSError, MemoryError) as error:
        raise CorruptArtifactError(f"{path}: not readable as Parquet: {error}; {repair_hint(path)}") from error


def _claimed_bytes(file: pq.ParquetFile, schema: pa.Schema, names: Collection[str]) -> int:
    """Return what columns take in memory, texts as indices, by what the file's end and, for lists, its pages say."""
    metadata = file.metadata
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    total = sum(max(group.total_byte_size, 0) for group in groups)
    nested = [name for name in names if pa.types.is_nested(schema.field(name).type)]
    total += metadata.num_rows * VALUE_BYTES * (len(names) - len(nested))
    if not nested:
        return total
    # Of a damaged file, pyarrow ends the process where a column is described; reading it without keeping anything raises.
    file.scan_contents(nested)
    for group in groups:
        for number in range(metadata.num_columns):
            if metadata.schema.column(number).path.split(".")[0] in nested:
                total += max(group.column(number).num_values, 0) * VALUE_BYTES
    return total


def _bytes_of(table: pa.Table) -> int:
    return int(table.nbytes) + sum(map(_long_text_bytes, table.columns))


def _long_text_bytes(column: pa.ChunkedArray) -> int:
    """Return what the texts of a column that are longer than an id take beyond that, each as often as it stands there."""
    total = 0
    for chunk in column.chunks:
        while pa.types.is_list(chunk.type):
            chunk = chunk.flatten()
        if pa.types.is_dictionary(chunk.type):
            chunk.dictionary.validate(full=True)  # that it is text
            beyond = pc.max_element_wise(pc.subtract(pc.binary_length(chunk.dictionary), ID_BYTES), 0)
            total += pc.sum(beyond.take(chunk.indices)).as_py() or 0
    return total


def allowed_bytes(size_bytes: int) -> int:
    """Return how many bytes in memory a file of a size may claim."""
    return max(ALWAYS_BYTES, MOST_TIMES * size_bytes)


def _refuse_beyond(path: Path, size_bytes: int, claimed_bytes: int) -> None:
    if claimed_bytes > allowed_bytes(size_bytes):
        raise CorruptArtifactError(
            f"{path}: {size_bytes} bytes that claim {claimed_bytes} in memory, more than any table of a stage does; "
            f"{repair_hint(path)}"
        )


def as_values(column: pa.ChunkedArray) -> list[Any]:
    """Return a column as Python values, None where null; equal texts of a file are one object."""
    return [value for chunk in column.chunks for value in _values(chunk)]


def as_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows of a table as dicts of Python values, like `as_values`."""
    columns = [as_values(column) for column in table.columns]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(chunk: pa.Array) -> list[Any]:
    if pa.types.is_dictionary(chunk.type):
        dictionary, indices = chunk.dictionary, chunk.indices.fill_null(-1).to_numpy()
        if len(indices) < len(dictionary):  # some rows of many
            used, indices = np.unique(indices, return_inverse=True)
            indices = indices - int(np.any(used < 0))
            dictionary = dictionary.take(pa.array(used[used >= 0]))
        texts = np.array([*dictionary.to_pylist(), None], dtype=object)  # the last one for what is null
        values: list[Any] = texts[indices].tolist()
    elif pa.types.is_list(chunk.type):
        every = iter(_values(chunk.flatten()))
        values = [None if n is None else list(islice(every, n)) for n in chunk.value_lengths().to_pylist()]
    else:
        values = chunk.to_pylist()
    return values
