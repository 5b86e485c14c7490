"""`sevila sweep`: compare keyframe selectors on one recipe's questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from cli.options import (
    AsJson,
    ChainOptions,
    CommandLine,
    Names,
    Naming,
    OutputFile,
    Positive,
    SeedOption,
    Text,
    Where,
    refuse_overwriting,
)
from cli.terminal import fitted, print_text, write_output

Numbers = Annotated[Sequence[Positive], Parameter(metavar="N...", consume_multiple=(1, None))]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class GridOptions:
    """The grid of compared settings.

    Attributes:
        selectors: frame selectors (docs/selection.md); uniform is always included
        k: numbers of keyframes
        scorers: frame scorers: localizer, imported, clip, itm, each optionally with weights: clip=WEIGHTS; default: the recipe's
        answerers: answering models: sevila, vlm, vlm=WEIGHTS, served=MODEL; default: the recipe's
        points: show the test's power to detect a difference of this many percentage points
    """

    selectors: Names
    k: Numbers
    scorers: Names = ()
    answerers: Names = ()
    points: Annotated[float, Parameter(validator=Number(gt=0, lt=100))] = 5.0


def sweep(
    recipe: Text,
    /,
    *,
    grid: GridOptions,
    chain: ChainOptions = ChainOptions(),
    seed: SeedOption = None,
    naming: Naming = Naming(),
    output: OutputFile = None,
    as_json: AsJson = False,
    where: Where,
    command_line: CommandLine,
) -> int:
    """Compare selectors, scorers and numbers of keyframes with uniform frames on a recipe's questions, by paired tests.

    sevila sweep videomme --selectors top_k aks bolt --k 8 16 32 --scorers localizer clip=google/siglip-base-patch16-224

    Artifacts that cells share, or that are in the store, are reused. Exit status 1 if a cell has no numbers.

    Args:
        recipe: name of a recipe (`sevila recipes`) or path of a .toml file
        output: write the tables to this file, in Markdown
    """
    from pipeline.engine.recipe import load
    from pipeline.loaded_models import keeping_models
    from reports.named_runs import pinned
    from reports.sweep import requests_of, run_sweep
    from reports.sweep_grid import ANY, Grid
    from reports.sweep_text import sweep_content, sweep_report, sweep_text
    from stages.all import STAGES

    refuse_overwriting(output, Path(recipe), *chain.places.paths())
    loaded = load(recipe, STAGES, chain.all_settings())
    cells = requests_of(
        chain.request(recipe, seed),
        Grid(grid.selectors, grid.k, grid.scorers or (loaded.chain.scorer,), grid.answerers or (ANY,)),
    )
    store = where.open()
    seeds = [] if seed is None else [seed]
    pinning = pinned(store, naming.name or "", loaded, seeds, naming.replace)
    with store.in_use(), keeping_models(), pinning as pin:
        runs = list(run_sweep(cells, chain.run_in(store), pin))
    content = sweep_content(runs) if as_json else None
    if content is None:
        print_text(sweep_text(runs, grid.points, fitted))
    if output is not None or content is not None:
        write_output(sweep_report(runs, command_line, grid.points), output, content)
    return int(any(run.problem for run in runs))
