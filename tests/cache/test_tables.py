from pathlib import Path

import numpy as np
import pytest

from cache.errors import CorruptArtifactError, SchemaError
from cache.tables import (
    Schema,
    read_columns,
    read_head,
    read_rows,
    write_blocks,
    write_columns,
    write_rows,
)

SCHEMA = Schema(1, question_id="string", answer="int8 or null", logits="list<float32>")
ROWS = [
    {"question_id": "q/1:é", "answer": None, "logits": [0.5, -1.0]},
    {"question_id": "q2", "answer": 3, "logits": []},
]


def test_rows_with_nulls_round_trip(tmp_path: Path) -> None:
    assert write_rows(tmp_path / "a.parquet", SCHEMA, ROWS) == 2
    assert read_rows([tmp_path / "a.parquet"], SCHEMA) == ROWS


def test_files_are_read_in_the_given_order(tmp_path: Path) -> None:
    for number, row in enumerate(ROWS):
        write_rows(tmp_path / f"{number}.parquet", SCHEMA, [row])
    assert read_rows([tmp_path / "1.parquet", tmp_path / "0.parquet"], SCHEMA) == ROWS[::-1]


def test_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_rows(tmp_path / f"{name}.parquet", SCHEMA, ROWS)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_an_empty_table_keeps_its_schema(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.parquet", SCHEMA, [])
    assert read_rows([tmp_path / "a.parquet"], SCHEMA) == []
    assert read_columns([], SCHEMA, ["question_id"])["question_id"].shape == (0,)


def test_columns_are_read_as_numpy_arrays(tmp_path: Path) -> None:
    schema = Schema(1, row="int32", score="float32")
    write_columns(tmp_path / "a.parquet", schema, {"row": np.arange(3), "score": np.array([1.0, 2.0, 3.0])})
    columns = read_columns([tmp_path / "a.parquet"], schema, ["score"])
    assert columns["score"].dtype == np.float32 and columns["score"].tolist() == [1.0, 2.0, 3.0]


def test_missing_and_unexpected_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"row 1: missing columns \['answer'\], unexpected \['anwser'\]"):
        write_rows(tmp_path / "a.parquet", SCHEMA, [ROWS[0], {"question_id": "q", "anwser": 1, "logits": []}])


@pytest.mark.parametrize("value", ["three", 300, 1.5])
def test_a_value_of_the_wrong_type_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(SchemaError, match="'answer'"):
        write_rows(tmp_path / "a.parquet", SCHEMA, [{**ROWS[0], "answer": value}])
    assert list(tmp_path.iterdir()) == []


def test_a_table_of_another_version_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.parquet", SCHEMA, ROWS)
    with pytest.raises(SchemaError, match="run its stage again"):
        read_rows([tmp_path / "a.parquet"], Schema(2, **SCHEMA.columns))


def test_a_truncated_table_is_corrupt(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.parquet", SCHEMA, ROWS)
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    with pytest.raises(CorruptArtifactError, match=r"a\.parquet"):
        read_rows([tmp_path / "a.parquet"], SCHEMA)


def test_a_flipped_bit_never_changes_rows_silently(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_rows(path, SCHEMA, ROWS)
    intact, n_refused = path.read_bytes(), 0
    for place in range(len(intact)):
        damaged = bytearray(intact)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            assert read_rows([path], SCHEMA) == ROWS, place
        except (CorruptArtifactError, SchemaError):
            n_refused += 1
    assert n_refused > len(intact) // 10


def test_the_head_is_read_across_files_without_a_schema(tmp_path: Path) -> None:
    for number, row in enumerate(ROWS):
        write_rows(tmp_path / f"{number}.parquet", SCHEMA, [row])
    assert read_head([tmp_path / "0.parquet", tmp_path / "1.parquet"], 5) == ROWS


def test_a_table_with_too_many_rows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "numbers.parquet"
    schema = Schema(1, number="int32")
    write_columns(path, schema, {"number": [1] * 20})
    monkeypatch.setattr("cache.tables.MOST_ROWS", 19)
    with pytest.raises(CorruptArtifactError, match="claims 20 rows"):
        read_rows([path], schema)


@pytest.mark.parametrize("n_rows", [1, 3])
def test_a_row_count_that_differs_from_the_record_is_refused(tmp_path: Path, n_rows: int) -> None:
    schema = Schema(1, number="int32")
    write_rows(tmp_path / "x.parquet", schema, [{"number": 1}, {"number": 2}])
    with pytest.raises(CorruptArtifactError, match=f"2 rows, expected {n_rows}"):
        read_rows([tmp_path / "x.parquet"], schema, n_rows)


@pytest.mark.slow
def test_blocks_may_hold_more_than_2_gib_of_text(tmp_path: Path) -> None:
    text = "x" * (256 << 20)  # one Arrow array of strings holds up to 2 GiB
    noise = np.random.default_rng(0).bytes(10 << 20).hex()  # a file of equal texts alone is written uncompressed
    blocks = [{"reply": [noise]}, *[{"reply": [text]}] * 9]
    assert write_blocks(tmp_path / "a.parquet", Schema(1, reply="string"), blocks) == 10
