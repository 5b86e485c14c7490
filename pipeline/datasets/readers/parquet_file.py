"""Reading of Parquet files, the model hub's format of data sets, as rows like those of JSON."""

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from cache.errors import CorruptArtifactError, SchemaError
from cache.parquet import BoundedParquet, as_rows, as_values, bounded_parquet
from pipeline.datasets.readers.rows import Row, Rows, read_json_list
from pipeline.datasets.readers.text_file import read_bytes
from pipeline.downloads import HEAD_BYTES, no_text

MAGIC = b"PAR1"


def read_annotation_table(path: Path, required: Sequence[str], keep: Collection[str]) -> Rows:
    """Return the rows of a Parquet file or a JSON list, by the file's suffix, with the columns in `keep`.

    The line of a Parquet row is its number from 1. Raises MissingSourceError for a file that cannot be read, SchemaError for
    another format, a truncated or damaged file, no rows, or a missing `required` column.
    """
    read = _read_parquet if path.suffix.lower() == ".parquet" else read_json_list
    table = read(path, required, keep)
    rows = [replace(row, cells={key: _plain(value) for key, value in row.cells.items()}) for row in table.rows]
    return replace(table, rows=rows)


def read_parquet_columns(path: Path) -> tuple[list[str], Iterator[tuple[int, dict[str, Any]]]]:
    """Return the column names of a Parquet file, and its rows with their numbers from 1.

    Raises as `read_annotation_table`.
    """
    with _parquet(path) as file:
        table = file.read()
    columns = [as_values(column) for column in table.columns]
    names = list(table.column_names)
    rows = (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))
    return names, enumerate(rows, start=1)


def _read_parquet(path: Path, required: Sequence[str], keep: Collection[str]) -> Rows:
    with _parquet(path, keep) as file:
        missing = [name for name in required if name not in file.schema.names]
        if missing:
            raise SchemaError(
                f"{path}: no column {', '.join(missing)}; found {', '.join(file.schema.names) or 'none'}; "
                f"expected {', '.join(required)}"
            )
        rows = as_rows(file.read())
    if not rows:
        raise SchemaError(f"{path}: no rows; expected one question per row")
    return Rows(path.name, list(rows[0]), [Row(number, row) for number, row in enumerate(rows, start=1)], [])


@contextmanager
def _parquet(path: Path, keep: Collection[str] | None = None) -> Iterator[BoundedParquet]:
    content = read_bytes(path)
    problem = "" if content.startswith(MAGIC) else no_text(content[:HEAD_BYTES])
    if problem:
        raise SchemaError(f"{path}: {problem}")
    try:
        with bounded_parquet(path, keep, content) as file:
            yield file
    except CorruptArtifactError as error:
        cause = error.__cause__ or "it claims more than its size justifies"
        raise SchemaError(
            f"{path}: not a whole Parquet file, cut short or damaged ({cause}); download it again"
        ) from error


def _plain(value: Any) -> Any:
    """Undo pandas' conversions: nan is a missing value, and a float may be a whole number in a column with missing values."""
    if not isinstance(value, float):
        return value
    if math.isnan(value):
        return None
    return int(value) if value.is_integer() else value
