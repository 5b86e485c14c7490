"""`sevila reproduce`: the paper's tables, as one command."""

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

SEEDS_OF_OWN = (3, 4, 5)


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
    """Run the paper's tables on what is here, and print measured beside published; say what is missing.

    Args:
        names: table1 to table9, table12 to table16, or all
        dataset: only on these: a data set of the paper, shapes (the demo's world), or a recipe of yours (repeatable)
        seeds: seeds of all that is random; of shapes 3 4 5, else none
        plan: run nothing: say what is missing here
        output: the report, in Markdown; else standard output, unless JSON is printed there
    """
    from reports.paper import EVERY_TABLE, read_paper, tables_named
    from reports.reproduce import Reproduction
    from reports.reproduce_text import reproduction_content, reproduction_text

    refuse_overwriting(output, *map(Path, dataset), *chain.places.paths())
    seeds = list(dict.fromkeys(seeds))
    tables = tables_named(names or (EVERY_TABLE,))
    subjects = {name: _subjects(table, dataset, seeds) for name, table in tables.items()}
    _check([subject for of_table in subjects.values() for subject in of_table], chain.all_settings())
    store = where.open()
    rows = Reproduction(chain.request("", None), chain.run_in(store), plan)
    with store.in_use():
        runs = {name: rows.row_runs(table, subjects[name]) for name, table in tables.items()}
        page = reproduction_text(read_paper(), tables, runs, command_line)
        numbers = {"tables": reproduction_content(tables, runs)}
    write_output(page, output, numbers if as_json else None)


def _check(subjects: Sequence[Subject], settings: Sequence[str]) -> None:
    """Refuse at once what every row would fail for: a recipe or a setting that is none, tables of other data sets only."""
    if not subjects:
        raise RecipeError(
            f"none of these tables has a column of these data sets; wanted one of {', '.join(_published())}"
        )
    by_name: dict[str, str] = {}
    for subject in subjects:  # else their numbers would stand as seeds of one
        if (other := by_name.setdefault(subject.name, subject.recipe)) != subject.recipe:
            raise RecipeError(f"--dataset {subject.recipe}: the tables have {other} as {subject.name!r}; rename one")
    for recipe in dict.fromkeys(subject.recipe for subject in subjects):
        _loaded(recipe, settings)


def _subjects(table: PaperTable, datasets: Sequence[str], seeds: Sequence[int]) -> list[Subject]:
    from reports.reproduce import Subject

    of_paper = list(dict.fromkeys(column.dataset for column in table.columns))
    of_each: Sequence[int | None] = seeds or [None]
    subjects = [Subject(name, seed) for name in of_paper if name in datasets or not datasets for seed in of_each]
    own = [name for name in datasets if name not in _published()]
    return subjects + [_subject(name, seed) for name in own for seed in seeds or SEEDS_OF_OWN]


def _subject(name: str, seed: int | None) -> Subject:
    from reports.reproduce import Subject

    is_demos = name == _loaded(_demo()).config_of("list_questions").dataset
    return Subject(_demo() if is_demos else name, seed, is_own=name not in _published())


def _published() -> list[str]:
    from reports.paper import read_paper

    return list(dict.fromkeys(column.dataset for table in read_paper().tables.values() for column in table.columns))


def _demo() -> str:
    from pipeline.shapes.demo import DEMO

    return DEMO


def _loaded(recipe: str, settings: Sequence[str] = ()) -> Recipe:
    from pipeline.engine.recipe import load
    from stages.all import STAGES

    return load(recipe, STAGES, settings)
