"""What each command of `sevila` does with its options; `cli/__init__.py` says which options there are.

Stages and models are imported by the commands that need them: decoder processes import this module again when they start, and
`sevila cache ls` should not wait for torch.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING, get_args

from cache.errors import RecipeError
from cache.printable import printable
from cli.options import store_of
from cli.terminal import print_data, print_json, print_text, printable_json

if TYPE_CHECKING:
    from pipeline.engine.recipe import Recipe
    from pipeline.engine.sources import Sources
    from pipeline.engine.stage import RunContext


def run(options: argparse.Namespace) -> None:
    """Run a recipe's chain and print what it found."""
    from pipeline.engine.steps import Run
    from reports.named_runs import pinned
    from reports.summary import summary
    from stages.chain import chain_of

    recipe, run, sources = context(options)
    with run.store.in_use(), pinned(run.store, options.name or "", recipe, _seeds(options), options.replace) as pin:
        steps = Run(recipe, run, pin)
        found = chain_of(recipe)(recipe, steps, sources)
    print_text(summary(steps.made, found))


def stage(options: argparse.Namespace) -> None:
    """Run one stage and print the paths of its artifacts."""
    from pipeline.engine.steps import RunOnly
    from reports.named_runs import pinned
    from stages.chain import chain_of

    # Scoring needs no videos: what was sampled from them is in the store.
    recipe, run, sources = context(options, remembered=["videos"])
    recipe.config_of(options.name)  # an unknown stage is told before anything is walked
    with run.store.in_use(), pinned(run.store, "", recipe, _seeds(options)) as pin:
        for artifact in RunOnly(options.name, recipe, run, options.again, pin).walk(chain_of(recipe), sources):
            print_text(str(artifact.path))


def plan(options: argparse.Namespace) -> None:
    """Print what a run would build, and why."""
    from pipeline.engine.places import KINDS
    from pipeline.engine.steps import Plan
    from stages.chain import chain_of

    recipe, run, sources = context(options, download=False, remembered=KINDS)
    steps = Plan(recipe, run).walk(chain_of(recipe), sources)
    for step in steps:
        setting = f" ({step.setting})" if step.setting else ""
        print(printable(f"{step.status:8} {step.stage:21} {step.id or '-':45} {step.why}{setting}".rstrip()))
    counts = {status: sum(step.status == status for step in steps) for status in ("exists", "build", "blocked")}
    print(", ".join(f"{count} {status}" for status, count in counts.items()))


def demo(options: argparse.Namespace) -> None:
    """Run the recipe demo on its own world."""
    from pipeline.shapes.demo import DEMO

    options.recipe, options.annotations, options.videos, options.weights = DEMO, [], [], []
    run(options)


def results(options: argparse.Namespace) -> None:
    """Run a recipe's full chain for several seeds and write the report."""
    from pipeline.engine.recipe import load
    from pipeline.engine.steps import Run
    from reports.named_runs import pinned
    from reports.seed_report import SeedRun, report
    from stages.chain import STAGES, chain_of, full

    if len(set(options.seeds)) < len(options.seeds):
        raise RecipeError(f"--seeds {' '.join(map(str, options.seeds))}: a seed twice adds nothing; wanted each once")
    recipe, runs = load(options.recipe, STAGES, options.set), []
    if chain_of(recipe) is not full:
        raise RecipeError(
            f"recipe {recipe.name!r} does not evaluate several settings: --set chain.kind=full, on questions with options"
        )
    store = store_of(options)
    with store.in_use(), pinned(store, options.name or "", recipe, options.seeds, options.replace) as pin:
        for seed in options.seeds:
            options.seed = seed
            recipe, run, sources = context(options)
            steps = Run(recipe, run, partial(pin, of=f"seed {seed}"))
            started = time.perf_counter()
            runs.append(SeedRun(seed, full(recipe, steps, sources), steps.made, time.perf_counter() - started))
    text = report(recipe, runs, options.told_as)
    if options.output is None:
        print_text(text)
    else:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text, encoding="utf-8")
        print_text(str(options.output))


def recipes(options: argparse.Namespace) -> None:
    """List the recipes."""
    from pipeline.engine.recipe import available, load
    from stages.chain import STAGES

    for name in available():
        print(f"{name:12} {load(name, STAGES).description}")


def list_stages(options: argparse.Namespace) -> None:
    """List every section of a recipe with its keys."""
    from pipeline.engine.recipe import section_configs
    from stages.chain import STAGES

    for section, config in section_configs(STAGES).items():
        print(f"{section}: {STAGES[section].summary if section in STAGES else (config.__doc__ or '').splitlines()[0]}")
        for key, field in config.model_fields.items():
            choices = [repr(choice) for choice in get_args(field.annotation) if isinstance(choice, str)]
            told = f"{' | '.join(choices)}: " if choices else ""
            print(f"    {key} = {field.default!r}  {told}{field.description or ''}")


def answers(options: argparse.Namespace) -> None:
    """Print answers in words, as CSV."""
    from reports.answer_table import answers_in_words, as_csv, newest_answers

    store = store_of(options)
    newest = newest_answers(store, options.id)
    print(newest, file=sys.stderr)
    print_data(as_csv(answers_in_words(store, newest)))


def datasets(options: argparse.Namespace) -> None:
    """List the data sets, or look into some."""
    from pipeline.datasets import ADAPTERS
    from pipeline.datasets.listing import details, overview
    from pipeline.engine.places import refuse_unused
    from pipeline.engine.sources import Sources

    places = {"annotations": options.annotations, "videos": options.videos}
    refuse_unused(places, dict.fromkeys(places, ADAPTERS))
    sources = Sources(store_of(options).digests, places, download=False)
    place = sources.places.configured
    print_text(details(options.names, place, sources.missing_videos) if options.names else overview(place))


def compare(options: argparse.Namespace) -> None:
    """Print how two runs differ."""
    from pipeline.metrics.resampling import Resampling
    from reports.compare import CHANGED_SHOWN, compare, comparison_text

    found = compare(store_of(options), options.a, options.b, Resampling(options.bootstrap))
    if options.json:
        content = found.as_dict()
        content["changed"] = content["changed"][: options.changed]
        print_json(content)
    else:
        print_text(comparison_text(found, CHANGED_SHOWN if options.changed is None else options.changed))


def moments_evaluate(options: argparse.Namespace) -> None:
    """Judge a submission file."""
    from pipeline.metrics.moment_metrics import format_report
    from reports.moment_submissions import evaluate_files

    report = evaluate_files(options.predictions, options.annotations, options.allow_outside)
    if options.json:
        print_data(json.dumps(report, indent=4) + "\n")
    else:
        print_text(format_report(report))


def moments_export(options: argparse.Namespace) -> None:
    """Write a submission file."""
    from reports.moment_submissions import submission_text

    text = submission_text(store_of(options), options.id)
    if options.output is None:
        print_data(printable_json(text))
    else:
        options.output.write_text(text, encoding="utf-8")


def up(options: argparse.Namespace) -> int:
    """Start Prefect's server and the workers of this machine."""
    from workers.up import Server, up

    return up(Server(options.port, options.store, options.below, options.gpu_workers, options.runs))


def _seeds(options: argparse.Namespace) -> list[int]:
    return [] if options.seed is None else [options.seed]


def context(
    options: argparse.Namespace, download: bool = True, remembered: Collection[str] = ()
) -> tuple[Recipe, RunContext, Sources]:
    """Return the recipe, how and where to run it, and its sources; `remembered` is as for `Sources`."""
    from pipeline.engine.stage import RunContext
    from pipeline.recipes.opening import Request, open_recipe
    from stages.chain import STAGES

    places = {"annotations": options.annotations, "videos": options.videos, "weights": options.weights}
    run = RunContext(
        store_of(options),
        device=options.device,
        batch_tokens=options.batch_tokens,
        decode_workers=options.decode_workers,
        shard_bytes=int(options.shard_megabytes * 2**20),
        processes=options.processes,
        tensorboard=options.tensorboard,
    )
    request = Request(options.recipe, options.set, options.seed, places)
    return open_recipe(request, STAGES, run, download, remembered)
