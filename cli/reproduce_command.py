"""`sevila reproduce`: the paper's tables, and the experiments beside them, as commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from cli.options import ChainOptions, CommandLine, OutputFile, Seeds, Text, Texts, Where
from cli.terminal import print_text

if TYPE_CHECKING:
    from reports.paper import PaperTable
    from reports.reproduce import Subject

RANKING = "ranking"
SEEDS_OF_OWN = (3, 4, 5)
SEEDS_OF_RANKING = tuple(range(11, 21))  # that nothing was chosen on


def reproduce(
    *names: Annotated[Text, Parameter(metavar="TABLE")],
    dataset: Texts = (),
    seeds: Seeds = (),
    plan: bool = False,
    chain: ChainOptions = ChainOptions(),
    output: OutputFile = None,
    where: Where,
    command_line: CommandLine,
) -> None:
    """Run the paper's tables on what is here, and print measured beside published; say what is missing.

    Args:
        names: table1 to table9, table12 to table16, all; ranking: by which of a Localizer's scores frames are ranked
        dataset: only on these: a data set of the paper, shapes (the demo's world), or a recipe of yours (repeatable)
        seeds: seeds of all that is random; of shapes 3 4 5, for the ranking 11 to 20, else none
        plan: run nothing: say what is missing here
        output: the report, in Markdown; else standard output
    """
    from pipeline.engine.stage import RunContext
    from pipeline.recipes.opening import Request
    from reports.paper import read_paper, tables_named
    from reports.ranking import rank_seeds, ranking_text
    from reports.reproduce import Reproduction
    from reports.reproduce_text import reproduction_text

    ranks = RANKING in names
    tables = tables_named(tuple(name for name in names if name != RANKING) or (() if ranks else ("all",)))
    store = where.open()
    run = RunContext.of(store, vars(chain.execution))
    rows = Reproduction(Request("", chain.settings, None, chain.places.by_kind()), run, plan)
    pages = []
    with store.in_use():
        if tables:
            runs = {name: rows.row_runs(table, _subjects(table, dataset, seeds)) for name, table in tables.items()}
            pages.append(reproduction_text(read_paper(), tables, runs, command_line))
        if ranks:
            subjects = [_subject(name, seed) for name in dataset or [_demo()] for seed in seeds or SEEDS_OF_RANKING]
            pages.append(ranking_text(list(rank_seeds(rows, subjects)), command_line))
    _write("\n".join(pages), output)


def _subjects(table: PaperTable, datasets: Sequence[str], seeds: Sequence[int]) -> list[Subject]:
    from reports.reproduce import Subject

    of_paper = list(dict.fromkeys(column.dataset for column in table.columns))
    or_none: Sequence[int | None] = seeds or [None]
    subjects = [Subject(name, seed) for name in of_paper if name in datasets or not datasets for seed in or_none]
    return subjects + [
        _subject(name, seed) for name in datasets if not _is_published(name) for seed in seeds or SEEDS_OF_OWN
    ]


def _subject(name: str, seed: int) -> Subject:
    from reports.reproduce import Subject

    return Subject(_demo() if name == _dataset_of(_demo()) else name, seed, is_own=not _is_published(name))


def _is_published(name: str) -> bool:
    from reports.paper import read_paper

    return any(name == column.dataset for table in read_paper().tables.values() for column in table.columns)


def _demo() -> str:
    from pipeline.shapes.demo import DEMO

    return DEMO


def _dataset_of(recipe: str) -> str:
    from pipeline.engine.recipe import load
    from stages.all import STAGES

    return str(load(recipe, STAGES).config_of("list_questions").dataset)


def _write(text: str, output: Path | None) -> None:
    if output is None:
        print_text(text)
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    print_text(str(output))
