"""Lazy rows of large tables equal a list in every access order, with few row objects at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cache.tables import Schema, read_stored, write_blocks, write_columns
from pipeline.engine import typed_rows
from pipeline.engine.typed_rows import ByKey, Grouped, LazyRows, Mapped, fields_of, rows_as
from pipeline.reasons import Reason

SCHEMA = Schema(1, id="string", text="string", options="list<string>", answer="int8 or null", reason="string")
N_ROWS = 57


class Entry(NamedTuple):
    """A row with every column type."""

    id: str
    text: str
    options: tuple[str, ...]
    answer: int | None
    reason: Reason


ROWS = [
    Entry(
        f"q{n}",
        f"text {n % 5}",
        tuple(f"o{n} {k}" for k in range(n % 4)),
        None if n % 3 else n,
        Reason("a: b" * (n % 2)),
    )
    for n in range(N_ROWS)
]


def columns(rows: list[Entry]) -> dict[str, list[Any]]:
    return {name: [getattr(row, name) for row in rows] for name in Entry._fields}


@pytest.fixture(params=[1, 4, 1000])
def lazy(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> typed_rows.LazyRows[Entry]:
    monkeypatch.setattr(typed_rows, "OBJECTS_AT_ONCE", 10)
    monkeypatch.setattr(typed_rows, "BLOCK_ROWS", request.param)
    for number, part in enumerate((ROWS[:20], ROWS[20:])):
        write_columns(tmp_path / f"{number}.parquet", SCHEMA, columns(part))
    paths = [tmp_path / "0.parquet", tmp_path / "1.parquet"]
    rows = rows_as(Entry, fields_of(Entry, SCHEMA.columns), read_stored(paths, SCHEMA, list(Entry._fields)), "x")
    assert isinstance(rows, LazyRows)
    return rows


def test_lazy_rows_are_equal_in_any_access_order(lazy: LazyRows[Entry]) -> None:
    assert len(lazy) == N_ROWS and list(lazy) == ROWS
    order = [0, 1, 2, 40, 41, 3, 56, 0, 19, 20, -1]
    assert [lazy[number] for number in order] == [ROWS[number] for number in order]
    assert list(lazy[18:23]) == ROWS[18:23] and [type(row.reason) for row in lazy[:2]] == [Reason, Reason]
    with pytest.raises(IndexError):
        lazy[N_ROWS]


def test_rows_of_a_small_table_are_a_list(tmp_path: Path) -> None:
    write_columns(tmp_path / "0.parquet", SCHEMA, columns(ROWS))
    stored = read_stored([tmp_path / "0.parquet"], SCHEMA, list(Entry._fields))
    assert rows_as(Entry, fields_of(Entry, SCHEMA.columns), stored, "x") == ROWS


def test_rows_by_key_and_groups_match_a_dict(lazy: LazyRows[Entry]) -> None:
    assert dict(ByKey([row.id for row in ROWS], lazy)) == {row.id: row for row in ROWS}
    grouped = Grouped([row.text for row in ROWS], lazy)
    assert dict(grouped) == {text: [row for row in ROWS if row.text == text] for text in ("text 0", *grouped)}
    assert "text 9" not in grouped and list(grouped) == [f"text {n}" for n in range(5)]
    mapped = Mapped(lambda row: row.id, lazy)
    assert [mapped[3], *mapped[5:7]] == ["q3", "q5", "q6"] and list(mapped) == [row.id for row in ROWS]


def test_keys_with_equal_hashes_have_different_rows(lazy: LazyRows[Entry]) -> None:
    assert hash(-1) == hash(-2)
    by_key = ByKey([-1, 7, -2], lazy[:3])
    assert [by_key[key] for key in (-2, -1, 7)] == [ROWS[2], ROWS[0], ROWS[1]]
    assert list(by_key) == [-1, 7, -2] and 8 not in by_key and -2 not in ByKey([-1], lazy[:1])


def test_of_rows_with_equal_keys_the_first_counts_in_every_process() -> None:
    keys = ["twice"] * 5000 + ["once"]
    assert ByKey(keys, range(len(keys)))["twice"] == 0


def test_columns_written_in_blocks_give_the_same_bytes(tmp_path: Path) -> None:
    write_columns(tmp_path / "whole.parquet", SCHEMA, columns(ROWS))
    blocks = (columns(ROWS[start : start + 10]) for start in range(0, N_ROWS, 10))
    assert write_blocks(tmp_path / "blocks.parquet", SCHEMA, blocks) == N_ROWS
    assert (tmp_path / "blocks.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    write_columns(tmp_path / "empty.parquet", SCHEMA, columns([]))
    write_blocks(tmp_path / "none.parquet", SCHEMA, [])
    assert (tmp_path / "none.parquet").read_bytes() == (tmp_path / "empty.parquet").read_bytes()
