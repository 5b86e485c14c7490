"""Reading Parquet that may come from anybody: what it says of itself may take no more memory than its size justifies.

A few kilobytes may hold one long text and say that it stands in every row, or that one number is repeated without end. So texts
are read as indices into the distinct ones, and written out only after it was counted what they take then.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cache.errors import CorruptArtifactError, mend
from cache.files import open_file

# In memory, of what the file takes on disk. Tables of ours reach some 50: their ids differ from row to row.
MOST_TIMES, ALWAYS_BYTES = 256, 16 << 20
VALUE_BYTES = 8  # at most; of a text, its index


@dataclass(frozen=True)
class BoundedParquet:
    """An open file, whose claims were checked; `schema` is that of all its columns."""

    path: Path
    schema: pa.Schema
    n_rows: int
    file: pq.ParquetFile
    names: list[str]

    def read(self) -> pa.Table:
        """Return all rows of the columns it was opened for, texts as dictionaries; raises `CorruptArtifactError`."""
        return _checked(self.path, self.file.read(columns=self.names))

    def head(self, n_rows: int) -> list[dict[str, Any]]:
        """Return the first rows as Python values; raises `CorruptArtifactError`."""
        batch = next(self.file.iter_batches(batch_size=n_rows, columns=self.names), None)
        rows: list[dict[str, Any]] = [] if batch is None else _checked(self.path, batch).to_pylist()
        return rows


@contextmanager
def bounded_parquet(path: Path, names: Collection[str] | None = None) -> Iterator[BoundedParquet]:
    """Open a file to read these columns of it, or all.

    Raises:
        CorruptArtifactError: it is not readable, here or in the block, or claims more than its size justifies.
    """
    try:
        open_file(path).close()  # pyarrow would wait for a pipe
        with pq.ParquetFile(path) as plain:
            schema, metadata = plain.schema_arrow, plain.metadata
        wanted = [name for name in schema.names if names is None or name in names]
        leaves = [metadata.schema.column(number) for number in range(metadata.num_columns)]
        texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
        with pq.ParquetFile(path, metadata=metadata, read_dictionary=texts, page_checksum_verification=True) as file:
            claimed = _claimed_bytes(file, schema, wanted)
            if claimed > _limit(path):
                raise _claims_too_much(path, claimed)
            yield BoundedParquet(path, schema, metadata.num_rows, file, wanted)
    except (pa.ArrowException, UnicodeDecodeError, OSError, MemoryError) as error:
        raise CorruptArtifactError(f"{path}: not readable as Parquet: {error}; {mend(path)}") from error


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


def _checked(path: Path, table: pa.Table | pa.RecordBatch) -> pa.Table | pa.RecordBatch:
    """Return a table if what its texts take when they are written out is within bounds."""
    total = table.nbytes + sum(_text_bytes(column) for column in table.columns)
    if total > _limit(path):
        raise _claims_too_much(path, total)
    return table


def _text_bytes(column: pa.ChunkedArray | pa.Array) -> int:
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    total = 0
    for chunk in chunks:
        while pa.types.is_list(chunk.type):
            chunk = chunk.flatten()
        if pa.types.is_dictionary(chunk.type):
            chunk.dictionary.validate(full=True)  # that it is text
            lengths = pc.binary_length(chunk.dictionary).take(chunk.indices)
            total += pc.sum(lengths).as_py() or 0
    return total


def _limit(path: Path) -> int:
    return max(ALWAYS_BYTES, MOST_TIMES * path.stat().st_size)


def _claims_too_much(path: Path, n_bytes: int) -> CorruptArtifactError:
    size_bytes = path.stat().st_size
    return CorruptArtifactError(
        f"{path}: {size_bytes} bytes that claim {n_bytes} in memory, more than any table of a stage does; {mend(path)}"
    )
