"""`sevila doctor`: what stands in the way on this machine, and what a recipe would take."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from cache.errors import SevilaError
from cli.options import AsJson, ChainOptions, SeedOption, Where
from cli.terminal import print_json, print_text, terminal_width

if TYPE_CHECKING:
    from cache.store import Store
    from reports.findings import Finding
    from reports.recipe_check import RecipeEstimate


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
    from reports.findings import Finding, findings_text, looked_at
    from reports.machine_check import (
        dataset_findings,
        decoders,
        devices,
        installation,
        store_disk,
        weight_findings,
    )
    from reports.recipe_check import OF_RECIPE, estimate_text
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
            more, estimate = _of_recipe(recipe, chain, seed, where.open())
        except SevilaError as error:
            more = [Finding(OF_RECIPE, "problem", str(error))]
        findings += more
    if as_json:
        print_json({"findings": [each._asdict() for each in findings], "estimate": estimate})
    else:
        print_text(findings_text(findings, terminal_width()))
        print_text("\n" + estimate_text(estimate)) if estimate else None
    return 1 if any(each.state == "problem" for each in findings) else 0


def _of_recipe(
    name: str, chain: ChainOptions, seed: int | None, store: Store
) -> tuple[list[Finding], RecipeEstimate | None]:
    from pipeline.engine.places import KINDS
    from pipeline.engine.recipe import load
    from pipeline.engine.sources import Sources
    from pipeline.shapes.demo import brings_data, has_world
    from reports.recipe_check import findings_without_world, recipe_findings
    from stages.all import STAGES

    places = chain.places.by_kind()
    if brings_data(name) and not has_world(store, name, seed or 0) and not (places["annotations"] or places["videos"]):
        sources = Sources(store.digests, places, remembered=KINDS)
        recipe = load(name, STAGES, chain.all_settings(), seed)
        return findings_without_world(recipe, chain.run_in(store), sources), None
    return recipe_findings(*chain.open(name, seed, store, remembered=KINDS))
