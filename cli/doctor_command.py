"""`sevila doctor`: check this machine, and estimate what a recipe needs."""

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
    """Check this machine, and estimate what a recipe needs; exit status 1 if there are problems.

    Args:
        recipe: name of a recipe (`sevila recipes`) or path of a .toml file; without one, only the machine is checked
    """
    from reports.findings import Finding, findings_of, findings_text
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

    places = chain.places.by_kind()
    checks = {"installation": installation, "devices": devices, "decoders": decoders}
    checks |= {"store": partial(store_disk, where.root)}
    checks |= {"weights": partial(weight_findings, places), "data sets": partial(dataset_findings, places)}
    checks |= {"Prefect": prefect_findings}
    findings = [finding for subject, check in checks.items() for finding in findings_of(subject, check)]
    estimate: RecipeEstimate | None = None
    if recipe:
        try:
            more, estimate = _recipe_findings(recipe, chain, seed, where.open())
        except SevilaError as error:
            more = [Finding(OF_RECIPE, "problem", str(error))]
        findings += more
    if as_json:
        print_json({"findings": [finding._asdict() for finding in findings], "estimate": estimate})
    else:
        print_text(findings_text(findings, terminal_width()))
        print_text("\n" + estimate_text(estimate)) if estimate else None
    return 1 if any(finding.state == "problem" for finding in findings) else 0


def _recipe_findings(
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
