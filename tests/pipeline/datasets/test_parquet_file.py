"""Annotations as Parquet: damaged files, files of another kind, and missing values as pandas writes them."""

import hashlib
import io
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cache.errors import MissingSourceError, SchemaError
from pipeline.datasets import mlvu
from pipeline.datasets.readers.text_file import digests_of_what_is_read
from tests.pipeline.datasets.layouts import Layout, parquet
from tests.pipeline.datasets.long_layouts import LONG_VIDEOS, LONGVIDEOBENCH_JSON, LONGVIDEOBENCH_PARQUET, MLVU_PARQUET

PARQUET = [layout for layout in LONG_VIDEOS if layout.kind == "parquet"]
every_parquet = pytest.mark.parametrize("layout", PARQUET, ids=lambda layout: layout.name)


@every_parquet
def test_a_parquet_file_is_identified_by_its_bytes(layout: Layout, tmp_path: Path) -> None:
    with digests_of_what_is_read() as read:
        layout.read(tmp_path, layout.rows)
    path = tmp_path / layout.file_name
    assert read == {path: hashlib.sha256(path.read_bytes()).hexdigest()}


@every_parquet
def test_a_damaged_parquet_file_is_one_error_or_keeps_its_rows(layout: Layout, tmp_path: Path) -> None:
    content = parquet(layout.rows)
    expected = layout.read(tmp_path, content)
    n_refused = 0
    for position in range(4, len(content), max(len(content) // 100, 1)):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        try:
            annotations = layout.read(tmp_path, bytes(damaged))
        except SchemaError as error:
            assert layout.file_name in str(error)
            n_refused += 1
            continue
        assert len(annotations.questions) + len(annotations.rejected) == len(expected.questions)
    assert n_refused


@pytest.mark.parametrize(
    "content", [b"<!DOCTYPE html>", b"version https://git-lfs.github.com/spec/v1\noid", b"\x1f\x8b"]
)
def test_a_file_of_another_kind_is_named_in_the_error(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(SchemaError, match=r"an HTML page|a Git LFS pointer|packed by gzip"):
        MLVU_PARQUET.read(tmp_path, content)


def test_a_folder_in_place_of_a_parquet_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / MLVU_PARQUET.file_name).mkdir()
    with pytest.raises(MissingSourceError, match="is a folder; expected a file"):
        mlvu.read(tmp_path, "dev")


def test_a_parquet_file_without_rows_or_a_column_is_one_error(tmp_path: Path) -> None:
    stream = io.BytesIO()
    pq.write_table(pa.table({key: pa.array([], "string") for key in MLVU_PARQUET.rows[0]}), stream)
    with pytest.raises(SchemaError, match="no rows; expected one question per row"):
        MLVU_PARQUET.read(tmp_path, stream.getvalue())
    with pytest.raises(SchemaError, match=r"no column candidates; found video_name, .*expected question_id"):
        rows = [{key: value for key, value in row.items() if key != "candidates"} for row in MLVU_PARQUET.rows]
        MLVU_PARQUET.read(tmp_path, rows)


def test_missing_values_of_pandas_in_parquet_are_missing(tmp_path: Path) -> None:
    first, second = LONGVIDEOBENCH_PARQUET.rows
    rows = [first | {"correct_choice": 1.0, "duration_group": 600.0}, second | {"correct_choice": math.nan}]
    annotations = LONGVIDEOBENCH_PARQUET.read(tmp_path, [rows[0], rows[1] | {"duration_group": math.nan}])
    assert annotations.rejected == []
    assert [question.answer_index for question in annotations.questions] == [1, None]
    assert [question.question_type for question in annotations.questions] == ["600 s TOS", "S2E"]


def test_missing_values_of_pandas_in_json_are_missing(tmp_path: Path) -> None:
    first, second = LONGVIDEOBENCH_JSON.rows
    rows = [first | {"correct_choice": math.nan, "position": math.nan}, second | {"correct_choice": 2.0}]
    annotations = LONGVIDEOBENCH_JSON.read(tmp_path, rows)
    assert annotations.rejected == [] and [question.answer_index for question in annotations.questions] == [None, 2]
    assert annotations.questions[0].note == ""


def test_unused_columns_change_nothing(tmp_path: Path) -> None:
    rows = [row | {"image": {"bytes": b"\xff" * 50, "path": "x"}} for row in MLVU_PARQUET.rows]
    assert MLVU_PARQUET.read(tmp_path, rows) == MLVU_PARQUET.read(tmp_path, MLVU_PARQUET.rows)
