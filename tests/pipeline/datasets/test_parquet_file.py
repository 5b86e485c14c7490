"""Annotations as Parquet: what is damaged, something else, or as pandas writes it."""

import hashlib
import io
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cache.errors import MissingSourceError, SchemaError
from pipeline.datasets import mlvu
from pipeline.datasets.text_file import digests_of_what_is_read
from tests.pipeline.datasets.layouts import Layout, parquet
from tests.pipeline.datasets.long_layouts import LONG_VIDEOS, LONGVIDEOBENCH_JSON, LONGVIDEOBENCH_PARQUET, MLVU_PARQUET

PARQUET = [layout for layout in LONG_VIDEOS if layout.kind == "parquet"]
every_parquet = pytest.mark.parametrize("layout", PARQUET, ids=lambda layout: layout.name)


@every_parquet
def test_what_is_read_of_parquet_is_identified_by_its_bytes(layout: Layout, tmp_path: Path) -> None:
    with digests_of_what_is_read() as read:
        layout.read(tmp_path, layout.rows)
    path = tmp_path / layout.file_name
    assert read == {path: hashlib.sha256(path.read_bytes()).hexdigest()}


@every_parquet
def test_a_damaged_page_of_parquet_is_one_clear_error_or_changes_nothing(layout: Layout, tmp_path: Path) -> None:
    whole = parquet(layout.rows)
    expected = layout.read(tmp_path, whole)
    n_refused = 0
    for position in range(4, len(whole), max(len(whole) // 100, 1)):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        try:
            found = layout.read(tmp_path, bytes(damaged))
        except SchemaError as error:
            assert layout.file_name in str(error)
            n_refused += 1
            continue
        assert len(found.questions) + len(found.rejected) == len(expected.questions)
    assert n_refused


@pytest.mark.parametrize(
    "content", [b"<!DOCTYPE html>", b"version https://git-lfs.github.com/spec/v1\noid", b"\x1f\x8b"]
)
def test_a_file_in_the_place_of_parquet_is_named_for_what_it_is(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(SchemaError, match=r"an HTML page|a Git LFS pointer|packed by gzip"):
        MLVU_PARQUET.read(tmp_path, content)


def test_a_folder_in_the_place_of_parquet_is_said(tmp_path: Path) -> None:
    (tmp_path / MLVU_PARQUET.file_name).mkdir()
    with pytest.raises(MissingSourceError, match="is a folder; expected a file"):
        mlvu.read(tmp_path, "dev")


def test_parquet_without_rows_or_without_a_column_is_one_clear_error(tmp_path: Path) -> None:
    stream = io.BytesIO()
    pq.write_table(pa.table({key: pa.array([], "string") for key in MLVU_PARQUET.rows[0]}), stream)
    with pytest.raises(SchemaError, match="no rows; expected one question per row"):
        MLVU_PARQUET.read(tmp_path, stream.getvalue())
    with pytest.raises(SchemaError, match=r"no column candidates; found video_name, .*expected question_id"):
        rows = [{key: value for key, value in row.items() if key != "candidates"} for row in MLVU_PARQUET.rows]
        MLVU_PARQUET.read(tmp_path, rows)


def test_missing_values_as_pandas_writes_them_are_missing(tmp_path: Path) -> None:
    first, second = LONGVIDEOBENCH_PARQUET.rows
    rows = [first | {"correct_choice": 1.0, "duration_group": 600.0}, second | {"correct_choice": math.nan}]
    found = LONGVIDEOBENCH_PARQUET.read(tmp_path, [rows[0], rows[1] | {"duration_group": math.nan}])
    assert found.rejected == []
    assert [(each.answer_index, each.question_type) for each in found.questions] == [(1, "600 s TOS"), (None, "S2E")]


def test_missing_values_as_pandas_writes_them_are_missing_in_json_too(tmp_path: Path) -> None:
    first, second = LONGVIDEOBENCH_JSON.rows
    rows = [first | {"correct_choice": math.nan, "position": math.nan}, second | {"correct_choice": 2.0}]
    found = LONGVIDEOBENCH_JSON.read(tmp_path, rows)
    assert found.rejected == [] and [each.answer_index for each in found.questions] == [None, 2]
    assert found.questions[0].note == ""


def test_a_column_that_nobody_asks_for_is_not_read(tmp_path: Path) -> None:
    rows = [row | {"image": {"bytes": b"\xff" * 50, "path": "x"}} for row in MLVU_PARQUET.rows]
    assert MLVU_PARQUET.read(tmp_path, rows) == MLVU_PARQUET.read(tmp_path, MLVU_PARQUET.rows)
