"""`sevila reproduce`: reproduce the paper's tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from cache.errors import RecipeError
from cli.options import AsJson, ChainOptions, CommandLine, OutputFile, Seeds, Text, Texts, Where, refuse_overwriting
from cli.terminal import write_output

if TYPE_CHECKING:
    from pipeline.engine.recipe import Recipe
    from reports.paper import PaperTable
    from reports.reproduce import Subject

DEFAULT_SEEDS = (3, 4, 5)  # for data sets that are not in the paper


def reproduce(
    *names: Annotated[Text, Parameter(metavar="TABLE")],
    dataset: Texts = (),
    seeds: Seeds = (),
    plan: bool = False,
    chain: ChainOptions = ChainOptions(),
    output: OutputFile = None,
    as_json: AsJson = False,
    where: Where,
    command_line: CommandLine,
) -> None:
    """Run the paper's tables with the data on this machine, print measured beside published numbers, and list missing data.

    Args:
        names: table1 to table9, table12 to table16, or all
        dataset: only these: a data set of the paper, shapes (the demo's videos), or your own recipe (repeatable)
        seeds: random seeds; default: 3 4 5 for shapes and own recipes, none for data sets of the paper
        plan: only list missing data, without running
        output: the report, in Markdown; default: standard output, unless --json is given
    """
    from pipeline.loaded_models import keeping_models
    from reports.paper import EVERY_TABLE, read_paper, tables_named
    from reports.reproduce import Reproduction
    from reports.reproduce_text import reproduction_content, reproduction_text

    refuse_overwriting(output, *map(Path, dataset), *chain.places.paths())
    seeds = list(dict.fromkeys(seeds))
    tables = tables_named(names or (EVERY_TABLE,))
    subjects = {name: _subjects(table, dataset, seeds) for name, table in tables.items()}
    _check([subject for table_subjects in subjects.values() for subject in table_subjects], chain.all_settings())
    store = where.open()
    rows = Reproduction(chain.request("", None), chain.run_in(store), plan)
    with store.in_use(), keeping_models():
        runs = {name: rows.row_runs(table, subjects[name]) for name, table in tables.items()}
        page = reproduction_text(read_paper(), tables, runs, command_line)
        numbers = {"tables": reproduction_content(tables, runs)}
    write_output(page, output, numbers if as_json else None)


def _check(subjects: Sequence[Subject], settings: Sequence[str]) -> None:
    """Raise `RecipeError` for errors that would fail every row: unknown recipes, settings or data sets."""
    if not subjects:
        raise RecipeError(
            f"none of these tables has a column for these data sets; expected one of {', '.join(_published())}"
        )
    by_name: dict[str, str] = {}
    for subject in subjects:  # else their numbers would be reported as seeds of one data set
        if (other := by_name.setdefault(subject.name, subject.recipe)) != subject.recipe:
            raise RecipeError(f"--dataset {subject.recipe}: {other} has the same name, {subject.name!r}; rename one")
    for recipe in dict.fromkeys(subject.recipe for subject in subjects):
        _loaded(recipe, settings)


def _subjects(table: PaperTable, datasets: Sequence[str], seeds: Sequence[int]) -> list[Subject]:
    from reports.reproduce import Subject

    in_paper = list(dict.fromkeys(column.dataset for column in table.columns))
    paper_seeds: Sequence[int | None] = seeds or [None]
    subjects = [Subject(name, seed) for name in in_paper if name in datasets or not datasets for seed in paper_seeds]
    others = [name for name in datasets if name not in _published()]
    return subjects + [_own_subject(name, seed) for name in others for seed in seeds or DEFAULT_SEEDS]


def _own_subject(name: str, seed: int) -> Subject:
    from pipeline.shapes.demo import DEMO
    from reports.reproduce import Subject

    is_demo = name == _loaded(DEMO).config_of("list_questions").dataset
    return Subject(DEMO if is_demo else name, seed, is_own=True)


def _published() -> list[str]:
    from reports.paper import read_paper

    return list(dict.fromkeys(column.dataset for table in read_paper().tables.values() for column in table.columns))


def _loaded(recipe: str, settings: Sequence[str] = ()) -> Recipe:
    from pipeline.engine.recipe import load
    from stages.all import STAGES

    return load(recipe, STAGES, settings)
