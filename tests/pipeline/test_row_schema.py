"""Table schemas derived from row classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from cache.tables import Schema
from pipeline.engine.row_schema import schema_of
from pipeline.reasons import Reason


class Things(NamedTuple):
    """A row with every column type."""

    name: str
    kind: Literal["a", "b"]
    reason: Reason
    is_known: bool | None
    count: int
    share: float | None
    bytes: int
    words: Sequence[str] = ()
    places: tuple[int, ...] = ()
    values: Sequence[float] = ()


def test_schema_columns_are_the_fields_of_the_row_class() -> None:
    expected = Schema(
        3,
        **dict.fromkeys(("name", "kind", "reason"), "string"),
        is_known="bool or null",
        count="int32",
        share="float64 or null",
        bytes="int64",
        words="list<string>",
        places="list<int32>",
        values="list<float32>",
    )
    schema = schema_of(3, Things, bytes="int64", values="list<float32>")
    assert list(schema.as_dict()["columns"].items()) == list(expected.as_dict()["columns"].items())
    assert schema.version == 3
