"""The paper's tables as data (`paper.toml`): the published numbers, and the chain settings of each row."""

from __future__ import annotations

import math
import tomllib
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cache.errors import RecipeError, did_you_mean
from pipeline.recipes.results import Column
from reports.rates import measured_rates

PAPER = Path(__file__).with_name("paper.toml")


class _PaperPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PaperColumn(_PaperPart):
    """A column of a table: `dataset` is the name of a recipe, `figure` the number of a row that it shows."""

    name: str
    dataset: str
    figure: str = "accuracy"


class PaperRow(_PaperPart):
    """A row of a table; `paper.toml` explains the keys."""

    name: str
    published: tuple[float, ...] = ()
    keyframes: str = ""
    answered: Column = "zero-shot"
    settings: tuple[str, ...] = ()
    shapes: tuple[str, ...] = ()
    of_paper: tuple[str, ...] = ()
    evaluated: tuple[str, ...] = ()
    tuned_on: str = ""
    unavailable: str = ""

    @property
    def is_forward(self) -> bool:
        """Whether the row is a forward chain with its settings, instead of a setting of a full chain."""
        return self.keyframes == "forward"

    def published_in(self, column: int) -> float | None:
        """Return the published number of a column; None if our sources do not give it."""
        return None if math.isnan(self.published[column]) else self.published[column]


class PaperTable(_PaperPart):
    """A table of the paper."""

    title: str
    columns: tuple[PaperColumn, ...]
    rows: tuple[PaperRow, ...]
    note: str = ""

    @model_validator(mode="after")
    def _each_row_has_every_column(self) -> PaperTable:
        for row in self.rows:
            if row.published and len(row.published) != len(self.columns):
                raise ValueError(f"{row.name}: {len(row.published)} numbers for {len(self.columns)} columns")
            if bool(row.keyframes) == bool(row.unavailable):
                raise ValueError(f"{row.name}: expected either `keyframes` or `unavailable`")
        return self

    @property
    def figures(self) -> list[str]:
        """The distinct figures that every data set has, that is all but groups of questions."""
        return list(dict.fromkeys(column.figure for column in self.columns if column.figure not in GROUPS))


class NeededWeights(_PaperPart):
    """External weights: their size, and where they are published."""

    size_gigabytes: float
    where: str


class Paper(_PaperPart):
    """The content of `paper.toml`; `tables` by name, in the paper's order."""

    source: str
    tables: dict[str, PaperTable]
    scores: dict[str, str] = Field(default_factory=dict)
    weights: dict[str, NeededWeights] = Field(default_factory=dict)
    clips: dict[str, dict[str, int]] = Field(default_factory=dict)
    rates: dict[str, float] = Field(default_factory=dict)


GROUPS = ("Temporal", "Causal", "Descriptive")
EVERY_TABLE = "all"


@cache
def read_paper() -> Paper:
    """Return the paper's tables."""
    content = tomllib.loads(PAPER.read_text(encoding="utf-8"))
    tables = {name: content.pop(name) for name in list(content) if name.startswith("table")}
    rates = {name: rate["per_second"] for name, rate in measured_rates()["stages"].items()}
    return Paper(tables=tables, rates=rates, **content)


def tables_named(names: tuple[str, ...]) -> dict[str, PaperTable]:
    """Return the named tables, `all` for every one, in the paper's order; raises `RecipeError` for an unknown name."""
    known = read_paper().tables
    for name in names:
        if name not in (*known, EVERY_TABLE):
            raise RecipeError(
                f"no table {name!r} to reproduce{did_you_mean(name, known)}; expected one of {', '.join(known)}, {EVERY_TABLE}"
            )
    return {name: table for name, table in known.items() if name in names or EVERY_TABLE in names}
