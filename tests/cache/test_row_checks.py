"""Tables that no stage wrote, though files and records agree, are refused with the row, its key, and what is wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from cache.errors import CorruptArtifactError, SchemaError
from cache.tables import Schema, read_columns, read_rows, read_stored, read_table, write_rows

SCHEMA = Schema(
    1,
    "id",
    id="string",
    text="string or null",
    count="int32",
    share="float32",
    logit="float32 or not finite",
    scores="list<float64>",
)
FRAMES = Schema(1, "video", "clip", "position", video="string", clip="string", position="int32", row="int32")


def rows(**changes: Any) -> list[dict[str, Any]]:
    """Return four rows, of which the third has other values in some columns."""
    good = [
        {"id": f"q{n}", "text": None, "count": n, "share": 0.5, "logit": float("nan"), "scores": [0.5] * n}
        for n in range(4)
    ]
    good[2] |= changes
    return good


def write_as_another_program(path: Path, schema: Schema, rows: list[dict[str, Any]]) -> None:
    """Write rows of the declared types with any values."""
    path.parent.mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema.arrow()), path)


READERS: list[Callable[[list[Path]], Any]] = [
    lambda paths: read_rows(paths, SCHEMA),
    lambda paths: read_table(paths, SCHEMA),
    lambda paths: read_stored(paths, SCHEMA, list(SCHEMA.columns)),
    lambda paths: read_columns(paths, SCHEMA, [name for name in SCHEMA.columns if name != "text"]),
]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": None}, r"row 2 \(id 'q2'\): column 'count' is null; expected 0 or more"),
        ({"id": None}, r"row 2 \(id None\): column 'id' is null; expected a value"),
        ({"scores": None}, r"row 2 \(id 'q2'\): column 'scores' is null"),
        ({"scores": [0.5, None]}, r"row 2 \(id 'q2'\): column 'scores' holds \[0.5, None\]; expected a finite number"),
        ({"scores": [0.5, float("inf")]}, r"row 2 .*'scores' holds \[0.5, inf\]; expected a finite number"),
        ({"share": float("nan")}, r"row 2 .*'share' holds nan; expected a finite number"),
        ({"count": -1}, r"row 2 .*'count' holds -1; expected 0 or more"),
        ({"id": "q0"}, r"row 2 \(id 'q0'\): its key is that of row 0; expected each once"),
    ],
)
def test_a_row_that_no_stage_writes_is_refused_by_every_reader(
    tmp_path: Path, read: Callable[[list[Path]], Any], changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "artifacts" / "count_words-v1-ab" / "words.parquet"
    write_as_another_program(path, SCHEMA, rows(**changes))
    with pytest.raises(CorruptArtifactError, match=message) as error:
        read([path])
    assert str(error.value).startswith(f"{path}: row 2 (id ")
    assert str(error.value).endswith("; `sevila stage count_words RECIPE --again` rebuilds it")


@pytest.mark.parametrize("changes", [{"count": None}, {"share": float("inf")}, {"scores": [None]}])
def test_what_is_refused_when_read_is_not_written(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(SchemaError, match=r"words\.parquet, row 2: column"):
        write_rows(tmp_path / "words.parquet", SCHEMA, rows(**changes))
    assert not any(tmp_path.iterdir())


def test_nulls_and_numbers_that_are_not_finite_are_read_where_they_are_declared(tmp_path: Path) -> None:
    write_rows(tmp_path / "words.parquet", SCHEMA, rows(text="known"))
    assert [row["text"] for row in read_rows([tmp_path / "words.parquet"], SCHEMA)] == [None, None, "known", None]


def test_a_key_repeated_in_another_file_is_refused(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.parquet" for number in range(2)]
    write_rows(paths[0], SCHEMA, rows())
    write_rows(paths[1], SCHEMA, [row | {"id": f"r{row['count']}"} for row in rows()])
    assert len(read_rows(paths, SCHEMA)) == 8
    write_rows(paths[1], SCHEMA, [row | {"id": "r0" if row["count"] == 0 else row["id"]} for row in rows()])
    with pytest.raises(CorruptArtifactError, match=r"1\.parquet: row 1 \(id 'q1'\): its key is that of row 1; exp"):
        read_rows(paths, SCHEMA)
    assert len(read_columns(paths, SCHEMA, ["count"])["count"]) == 8  # a column alone, without the key


def numbered(*clips: tuple[str, str, int]) -> list[dict[str, Any]]:
    return [
        {"video": video, "clip": clip, "position": position, "row": position}
        for video, clip, n_frames in clips
        for position in range(n_frames)
    ]


@pytest.mark.parametrize("names", [["row", "video"], ["clip"], ["row", "position"]])
def test_numbered_rows_are_held_against_their_order_whichever_column_of_the_key_is_read(
    tmp_path: Path, names: list[str]
) -> None:
    path, good = tmp_path / "frames.parquet", numbered(("a", "1", 3), ("a", "2", 2), ("b", "1", 3))
    write_rows(path, FRAMES, good)
    assert len(read_columns([path], FRAMES, names)[names[0]]) == 8
    for wrong, message in {
        "exchanged": r"row 6 \(video 'b', clip '1', position 2\): column 'position' holds 2; expected 1",
        "repeated": r"row 7 \(video 'b', clip '1', position 1\): column 'position' holds 1; expected 2",
        "missing": r"row 5 \(video 'b', clip '1', position 1\): column 'position' holds 1; expected 0",
        "apart": r"row 5 \(video 'a', clip '1', position 0\): its key is that of row 0; expected each once",
    }.items():
        moved = {
            "exchanged": [*good[:6], good[7], good[6]],
            "repeated": [*good[:7], good[6], good[7]],
            "missing": [*good[:5], *good[6:]],
            "apart": [*good[:5], *good[:3]],
        }[wrong]
        write_rows(path, FRAMES, moved)
        with pytest.raises(CorruptArtifactError, match=message):
            read_columns([path], FRAMES, names)


def test_rows_are_numbered_from_the_declared_number(tmp_path: Path) -> None:
    path, ranks = tmp_path / "x.parquet", Schema(1, "id", "rank", first=1, id="string", rank="int32")
    write_rows(path, ranks, [{"id": "a", "rank": 1}, {"id": "a", "rank": 2}, {"id": "b", "rank": 1}])
    assert len(read_rows([path], ranks)) == 3
    write_rows(path, ranks, [{"id": "a", "rank": 0}, {"id": "a", "rank": 1}])
    with pytest.raises(CorruptArtifactError, match="'rank' holds 0; expected 1"):
        read_rows([path], ranks)
