"""`sevila doctor`: what stands in the way on this machine, and what a recipe would take."""

from __future__ import annotations

from functools import partial

from cache.errors import SevilaError
from cli.context import open_recipe
from cli.options import AsJson, ChainOptions, SeedOption, Where
from cli.terminal import print_json, print_text, terminal_width


def doctor(
    recipe: str = "",
    /,
    *,
    chain: ChainOptions = ChainOptions(),
    seed: SeedOption = None,
    as_json: AsJson = False,
    where: Where,
) -> int:
    """Say what stands in the way on this machine, and what a recipe would take; exit status 1 if something does.

    Args:
        recipe: name of a recipe (`sevila recipes`) or path of a .toml file; without one, the machine alone
    """
    from pipeline.engine.places import KINDS
    from reports.findings import Finding, findings_text, looked_at
    from reports.machine_check import decoders, devices, installation, store_disk
    from reports.recipe_check import OF_RECIPE, RecipeEstimate, estimate_text, recipe_findings
    from reports.source_check import dataset_findings, weight_findings
    from workers.prefect_check import prefect_findings

    looks = {"installation": installation, "devices": devices, "decoders": decoders}
    given = chain.places.by_kind()
    looks |= {"store": partial(store_disk, where.root)}
    looks |= {"weights": partial(weight_findings, given), "data sets": partial(dataset_findings, given)}
    looks |= {"Prefect": prefect_findings}
    findings = [finding for subject, look in looks.items() for finding in looked_at(subject, look)]
    estimate: RecipeEstimate | None = None
    if recipe:
        try:
            to_run = open_recipe(recipe, chain, seed, where.open(), remembered=KINDS)
            more, estimate = recipe_findings(*to_run)
        except SevilaError as error:
            more = [Finding(OF_RECIPE, "problem", str(error))]
        findings += more
    if as_json:
        print_json({"findings": [each._asdict() for each in findings], "estimate": estimate})
    else:
        print_text(findings_text(findings, terminal_width()))
        print_text("\n" + estimate_text(estimate)) if estimate else None
    return 1 if any(each.state == "problem" for each in findings) else 0
