"""Small Parquet files that decode to very large tables are refused before the memory is allocated."""

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cache.errors import CorruptArtifactError
from cache.tables import Schema, read_columns, read_head, read_rows, write_columns, write_rows

ROOT = Path(__file__).parents[2]
SCHEMA = Schema(1, name="string or null", names="list<string> or null", numbers="list<int64>", number="int64")
MAX_GROWTH_BYTES = 64 << 20


def row(**values: object) -> dict[str, list[object]]:
    return {"name": ["a"], "names": [["b"]], "numbers": [[1]], "number": [1]} | {
        name: [value] for name, value in values.items()
    }


def one_text_in_every_row(path: Path) -> None:
    write(path, {name: values * 8_000 for name, values in row(name="x" * 17_000).items()})


def one_text_in_every_list_item(path: Path) -> None:
    write(path, row(names=["x" * 100_000] * 4_000))


def one_repeated_number(path: Path) -> None:
    write(path, row(numbers=pa.array([7] * 3_000_000)))


def one_long_text(path: Path) -> None:
    write(path, row(name="x" * 100_000_000))


def very_many_rows(path: Path) -> None:
    write(path, {name: values * 2_000_000 for name, values in row().items()})


BOMBS = [
    one_text_in_every_row,
    one_text_in_every_list_item,
    one_repeated_number,
    one_long_text,
    very_many_rows,
]


def write(path: Path, columns: dict[str, list[object]]) -> None:
    arrays = [pa.array(columns[field.name], field.type) for field in SCHEMA.arrow()]
    pq.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA.arrow()), path, compression="zstd")


def refuse(path: Path) -> None:
    """Check that every way to read a file refuses it with little memory."""
    write_rows(path.with_name("small.parquet"), SCHEMA, [{"name": "a", "names": [], "numbers": [], "number": 1}])
    read_rows([path.with_name("small.parquet")], SCHEMA)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reads: list[Callable[[], object]] = [
        lambda: read_rows([path], SCHEMA),
        lambda: read_columns([path], SCHEMA, list(SCHEMA.columns)),
    ]
    if "every_row" not in path.name and "many_rows" not in path.name:  # their first rows are small
        reads.append(lambda: read_head([path], 3))
    for read in reads:
        with pytest.raises(CorruptArtifactError, match="bytes that claim"):
            read()
    assert 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < MAX_GROWTH_BYTES


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb.__name__)
def test_a_parquet_bomb_is_refused_with_little_memory(bomb: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / f"{bomb.__name__}.parquet"
    bomb(path)
    code = "import sys; from pathlib import Path; from tests.cache.test_parquet_bombs import refuse; refuse(Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_table_with_few_distinct_texts_round_trips(tmp_path: Path) -> None:
    rows = [
        {"name": name, "names": names, "numbers": [number] * 3, "number": number}
        for number in range(2_000)
        for name, names in (("ja", ["a", None, "ü"]), (None, None), ("", []))
    ]
    path = tmp_path / "x.parquet"
    write_rows(path, SCHEMA, rows)
    assert read_rows([path, path], SCHEMA) == rows + rows
    assert read_head([path], 4) == rows[:4]
    columns = read_columns([path], SCHEMA, ["number", "numbers"])
    assert list(columns) == ["number", "numbers"] and columns["number"].tolist() == [row["number"] for row in rows]


def equal_rows(**values: object) -> list[dict[str, object]]:
    return [{"name": "a", "names": ["b"], "numbers": [1], "number": 1} | values] * 300_000


@pytest.mark.parametrize(
    "rows",
    [
        equal_rows(numbers=[7] * 9),
        equal_rows(name="x" * 13_000)[:2_000],
        equal_rows(names=[None, "x" * 13_000] * 3)[:800],
    ],
    ids=["numbers", "long texts", "lists of texts"],
)
def test_a_highly_compressible_table_round_trips(rows: list[dict[str, object]], tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write_rows(path, SCHEMA, rows)
    assert read_rows([path], SCHEMA) == rows
    assert read_columns([path], SCHEMA, ["name"])["name"].tolist() == [row["name"] for row in rows]
    assert read_head([path], 2) == rows[:2]


@pytest.mark.parametrize("n_videos", [60, 500_000])
def test_a_table_of_half_a_million_frames_with_long_video_names_is_read(n_videos: int, tmp_path: Path) -> None:
    schema = Schema(1, video_id="string", clip_id="string", frame_index="int64", seconds="float64", row="int32")
    numbers = np.arange(500_000)
    ids = np.array([f"{number:0250d}" for number in range(n_videos)], object)[numbers * n_videos // len(numbers)]
    columns = {
        "video_id": ids,
        "clip_id": [""] * len(ids),
        "frame_index": numbers % 3600,
        "seconds": numbers % 3600 / 3,
        "row": numbers % 32,
    }
    path = tmp_path / "frames.parquet"
    # As all released versions wrote it.
    table = pa.Table.from_arrays([pa.array(column) for column in columns.values()], names=list(columns))
    pq.write_table(table.cast(schema.arrow()), path, compression="zstd")
    read = read_columns([path, path], schema, list(columns), 1_000_000)
    assert (read["video_id"] == np.concatenate([ids, ids])).all() and read["row"][-1] == 499_999 % 32
    write_columns(path, schema, columns)
    assert (read_columns([path], schema, ["video_id"])["video_id"] == ids).all()
