"""The nightly benchmark as numbers: which settings a matrix has, and when a night is worse than the nights before it.

A matrix is a TOML file: `[recipes.NAME]` lists named settings, each the changes to that recipe; tolerances and `alpha` say
what counts as worse. Nothing here runs or stores anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from statistics import median

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cache.errors import RecipeError, did_you_mean
from pipeline.engine.recipe import available as recipes
from pipeline.engine.toml_file import read_named, toml_files

MATRICES = Path(__file__).parent
USUAL_NIGHTS = 7  # whose median is the usual speed
ENOUGH_NIGHTS = 3  # to know what is usual: fewer are shown, but nothing is called worse than them
OK, FAILED = "ok", "failed"


class Tolerance(BaseModel):
    """How far speed and memory may be from the usual before a night counts as worse."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    throughput_percent: float = Field(default=20.0, gt=0, lt=100)  # fewer questions per second
    peak_memory_percent: float = Field(default=10.0, gt=0)  # more bytes, of the host or of the GPU


class Matrix(BaseModel):
    """What a benchmark runs each night; `recipes` maps a recipe's name, or path, to its named settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    description: str = ""
    alpha: float = Field(0.05, gt=0, lt=1)  # of the paired tests, after Holm's correction over the matrix' rows
    keep_nights: int = Field(7, ge=1)  # whose answers are kept, beside those of the best nights
    since: date | None = None  # nights before this day are not compared with: after a change that is meant
    tolerance: Tolerance = Tolerance()
    recipes: dict[str, dict[str, tuple[str, ...]]] = Field(min_length=1)


def available() -> dict[str, Path]:
    """Return the matrices that come with the package, by name."""
    return toml_files(MATRICES)


def load_matrix(name: str) -> Matrix:
    """Load a matrix by name, or by the path of a `.toml` file, from whose folder the paths of its recipes start.

    Raises:
        RecipeError: names the file, the key at fault, and the nearest valid one.
    """
    path, content = read_named("matrix", name, available())
    if not re.fullmatch(r"[\w-]+", path.stem):
        raise RecipeError(f"{path}: its name names a folder: wanted letters, digits, - and _")
    if "name" in content:
        raise RecipeError(f"{path}: has a key 'name'; a matrix is named by its file")
    try:
        matrix = Matrix(name=path.stem, **content)
    except ValidationError as error:
        raise RecipeError(f"{path}: " + "; ".join(_explain(problem) for problem in error.errors())) from error
    empty = [recipe for recipe, settings in matrix.recipes.items() if not settings]
    if empty:
        raise RecipeError(f"{path}: [recipes.{empty[0]}] has no setting: `as-it-is = []` runs the recipe as it is")
    beside = {recipe: str(path.parent / recipe) for recipe in matrix.recipes if recipe not in recipes()}
    return matrix.model_copy(
        update={"recipes": {beside.get(recipe, recipe): settings for recipe, settings in matrix.recipes.items()}}
    )


def _explain(problem: Mapping[str, object]) -> str:
    location = [str(part) for part in problem["loc"]]  # type: ignore[attr-defined]
    if problem["type"] == "extra_forbidden":
        known = Tolerance.model_fields if location[0] == "tolerance" else Matrix.model_fields
        keys = [key for key in known if key != "name"]
        return f"no key {'.'.join(location)!r}{did_you_mean(location[-1], keys)}; keys: {', '.join(keys)}"
    return f"{'.'.join(location)} = {problem['input']!r}: {problem['msg']}"


@dataclass(frozen=True)
class NightRow:
    """One evaluated way of one setting in one night, as the history keeps it; None and "" where it failed before.

    Attributes:
        night: when it began, in UTC: `2026-11-21T03-00-07.123Z`.
        recipe: its name, of a path the file's.
        way: which of a full chain's evaluations it is (`uniform, zero-shot`); empty where the chain has one.
        recipe_fingerprint: of the recipe with the setting's changes; another one begins a new line of comparison.
        metric: accuracy, or R1@0.5 of moments.
        stages: what was made anew for it, with the seconds of each.
        questions_per_second: over those of `stages` that are not evaluation.
        peak_memory_bytes: of the process that made it.
    """

    night: str
    recipe: str
    setting: str
    way: str
    recipe_fingerprint: str
    status: str
    reason: str = ""
    answers: str = ""
    metrics: str = ""
    metric: str = ""
    metric_percent: float | None = None
    n_questions: int | None = None
    unanswered_percent: float | None = None
    stages: Sequence[str] = ()
    stage_seconds: Sequence[float] = ()
    questions_per_second: float | None = None
    peak_memory_bytes: int | None = None
    peak_gpu_memory_bytes: int | None = None
    device: str = ""
    host: str = ""
    libraries: Sequence[str] = ()
    git_revision: str = ""

    @property
    def name(self) -> str:
        """The row's name for people, and the same every night."""
        name = f"{self.recipe} {self.setting}"
        return f"{name}: {self.way}" if self.way else name


def shown(night: str) -> str:
    """Return a night as people write it: `2026-11-21 03:00`."""
    return f"{night[:10]} {night[11:16].replace('-', ':')}"


def earlier(history: Iterable[NightRow], row: NightRow, since: date | None = None) -> list[NightRow]:
    """Return the nights before this row's that it can be compared with, oldest first: the same way of the same recipe."""
    wanted = (row.recipe, row.setting, row.way, row.recipe_fingerprint, row.metric)
    rows = [
        other
        for other in history
        if (other.recipe, other.setting, other.way, other.recipe_fingerprint, other.metric) == wanted
        and other.status == OK
        and (str(since) if since else "") <= other.night < row.night
    ]
    return sorted(rows, key=lambda other: other.night)


def best(rows: Sequence[NightRow]) -> NightRow | None:
    """Return the best of these nights, of equals the last; None where none has a number."""
    known = [row for row in rows if row.metric_percent is not None]
    return max(known, key=lambda row: (row.metric_percent, row.night), default=None)


@dataclass(frozen=True)
class Paired:
    """Tonight's answers against those of another night, over the questions that both were asked.

    `p_corrected` is after Holm's correction. `problem` says why there is no test; then only `night` is known.
    """

    night: str
    then_percent: float = 0.0
    now_percent: float = 0.0
    n_questions: int = 0
    p_value: float = 1.0
    p_corrected: float = 1.0
    problem: str = ""

    @property
    def points(self) -> float:
        """Tonight's accuracy minus the other's, in percentage points."""
        return self.now_percent - self.then_percent

    def is_worse(self, alpha: float) -> bool:
        """Whether tonight is worse by more than chance explains."""
        return self.points < 0 and self.p_corrected < alpha


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values after Holm's correction for their number, in the same order."""
    corrected, so_far = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        so_far = max(so_far, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = so_far
    return corrected


def corrected(tests: Sequence[Paired | None]) -> list[Paired | None]:
    """Return the tests of one night against the same other one with Holm's correction over those that were made."""
    done = [test for test in tests if test is not None and not test.problem]
    values = iter(holm([test.p_value for test in done]))
    return [
        replace(test, p_corrected=next(values)) if test is not None and not test.problem else test for test in tests
    ]


@dataclass(frozen=True)
class Measured:
    """A speed or a peak of memory tonight, and the median of the last nights on the same host and device."""

    what: str  # questions/s, peak memory, peak GPU memory
    now: float
    usual: float
    n_nights: int
    tolerance_percent: float
    more_is_better: bool

    @property
    def change_percent(self) -> float:
        """How much more than usual."""
        return 100 * (self.now / self.usual - 1)

    @property
    def is_worse(self) -> bool:
        """Whether it is worse than usual by more than is tolerated; never before enough nights say what is usual."""
        loss = -self.change_percent if self.more_is_better else self.change_percent
        return self.n_nights >= ENOUGH_NIGHTS and loss > self.tolerance_percent


def measured(before: Sequence[NightRow], row: NightRow, tolerance: Tolerance) -> list[Measured]:
    """Return speed and memory against the last nights on this host and device; what either side lacks is left out."""
    same = [other for other in before if (other.host, other.device) == (row.host, row.device)][-USUAL_NIGHTS:]
    figures = []
    for what, key, percent, more_is_better in (
        ("questions/s", "questions_per_second", tolerance.throughput_percent, True),
        ("peak memory", "peak_memory_bytes", tolerance.peak_memory_percent, False),
        ("peak GPU memory", "peak_gpu_memory_bytes", tolerance.peak_memory_percent, False),
    ):
        now, usual = getattr(row, key), [value for other in same if (value := getattr(other, key))]
        if now and usual:
            figures.append(Measured(what, now, median(usual), len(usual), percent, more_is_better))
    return figures
