"""Matrices of the nightly benchmark: TOML files of recipes with named settings, and of what counts as worse."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cache.errors import RecipeError, did_you_mean
from pipeline.engine.recipe import available as recipes
from pipeline.engine.toml_file import read_named, toml_files

MATRICES = Path(__file__).parent


class Tolerance(BaseModel):
    """How far speed and memory may be from the usual before a night counts as worse."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    throughput_percent: float = Field(default=20.0, gt=0, lt=100)  # fewer questions per second
    peak_memory_percent: float = Field(default=10.0, gt=0)  # more bytes, of the host or of the GPU


class Matrix(BaseModel):
    """The settings that a benchmark runs each night; `recipes` maps a recipe's name, or path, to its named settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    description: str = ""
    alpha: float = Field(0.05, gt=0, lt=1)  # of the paired tests, after Holm's correction over the matrix' rows
    keep_nights: int = Field(7, ge=1)  # whose answers are kept, beside those of the best nights
    since: date | None = None  # nights before this day are not compared with: after a change that is meant
    tolerance: Tolerance = Tolerance()
    recipes: dict[str, dict[str, tuple[str, ...]]] = Field(min_length=1)


def available_matrices() -> dict[str, Path]:
    """Return the matrices that come with the package, by name."""
    return toml_files(MATRICES)


def load_matrix(name: str) -> Matrix:
    """Load a matrix by name, or by the path of a `.toml` file, from whose folder the paths of its recipes start.

    Raises:
        RecipeError: names the file, the key at fault, and the nearest valid one.
    """
    path, content = read_named("matrix", name, available_matrices())
    if not re.fullmatch(r"[\w-]+", path.stem):
        raise RecipeError(f"{path}: its name names a folder: expected letters, digits, - and _")
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
