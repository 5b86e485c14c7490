"""One module per data set: its annotation files as downloaded -> Annotations. No data set is named anywhere else."""

import difflib
from pathlib import Path
from typing import Protocol

from cache.errors import RecipeError
from pipeline.datasets import nextqa, plain
from pipeline.question import Annotations


class Adapter(Protocol):
    """What a data set's module offers. `path` is the data set's folder (or, if it says so, its file)."""

    name: str

    def files(self, path: Path, split: str) -> list[Path]:
        """Every annotation file that `read` reads, so that its digest can enter an identity."""

    def read(self, path: Path, split: str) -> Annotations:
        """The split's questions, their videos, and the rows that could not be used."""

    def group(self, question_type: str) -> str:
        """The group under which results of this question type are reported; "" for none."""


ADAPTERS: dict[str, Adapter] = {"nextqa": nextqa, "plain": plain}


def adapter_named(name: str) -> Adapter:
    """The adapter called `name`. Raises RecipeError that names the nearest one there is."""
    if name in ADAPTERS:
        return ADAPTERS[name]
    nearest = difflib.get_close_matches(name, ADAPTERS, n=1)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise RecipeError(f"no data set is called {name!r}; {hint}There are: {', '.join(sorted(ADAPTERS))}")
