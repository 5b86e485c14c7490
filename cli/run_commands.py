"""The commands that run chains: `run`, `stage`, `plan`, `demo`, `results`, `benchmark` and `up`.

The commands import stages and models inside their functions, as decoder processes import this module when they start, and
`sevila cache ls` should not wait for torch.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import partial

from cache.errors import RecipeError
from cli.options import (
    AsJson,
    ChainOptions,
    CommandLine,
    Count,
    ExecutionOptions,
    Inference,
    LimitOption,
    Naming,
    OutputFile,
    PlaceOptions,
    Port,
    Positive,
    PrecisionOption,
    ReportOption,
    SeedOption,
    Seeds,
    SettingsOption,
    Text,
    Where,
)
from cli.terminal import fitted, is_terminal, is_verbose, print_json, print_table, print_text, write_output


def run(
    recipe: Text,
    /,
    *,
    chain: ChainOptions = ChainOptions(),
    seed: SeedOption = None,
    naming: Naming = Naming(),
    report: ReportOption = True,
    as_json: AsJson = False,
    where: Where,
) -> None:
    """Run a recipe's chain, reusing artifacts in the store. The last line printed is the path of the report, an HTML page.

    Args:
        recipe: name of a recipe (`sevila recipes`) or path of a .toml file
    """
    from pipeline.engine.steps import Run
    from reports.named_runs import pinned
    from reports.page.at_end import report_at_end
    from reports.page.runs import title_of
    from reports.summary import summary, summary_content
    from stages.chain import chain_of

    loaded, context, sources = chain.open(recipe, seed, where.open())
    seeds, started = [] if seed is None else [seed], datetime.now(UTC)
    title = naming.name or title_of(loaded.name, seeds)
    with context.store.in_use(), pinned(context.store, naming.name or "", loaded, list(seeds), naming.replace) as pin:
        steps = Run(loaded, context, pin, chain=chain_of(loaded))
        results = chain_of(loaded)(loaded, steps, sources)
        page = report_at_end(title, loaded, steps, sources, started, pin) if report else None
    if as_json:
        print_json({**summary_content(steps.artifacts, steps.settings, results), "report": page and str(page)})
        return
    print_text(summary(steps.artifacts, results, with_ids=is_verbose(), table=fitted))
    if page is not None:
        print_text(f"\nreport:\n{page}")


def demo(
    *,
    settings: SettingsOption = (),
    precision: PrecisionOption = None,
    limit: LimitOption = None,
    seed: SeedOption = None,
    execution: ExecutionOptions = ExecutionOptions(),
    naming: Naming = Naming(),
    report: ReportOption = True,
    as_json: AsJson = False,
    where: Where,
) -> None:
    """Run the whole chain, trainings included, on small synthetic videos."""
    from pipeline.shapes.demo import DEMO

    chain = ChainOptions(settings=settings, precision=precision, limit=limit, execution=execution)
    run(DEMO, chain=chain, seed=seed, naming=naming, report=report, as_json=as_json, where=where)


def init(*, where: Where) -> None:
    """Write a template of `sevila.toml`, the places of data and weights on this machine."""
    from pipeline.engine.places import write_first
    from pipeline.engine.recipe import available, load
    from pipeline.recipes.places_file import places_text
    from stages.all import STAGES

    path = write_first(places_text(load(name, STAGES) for name in available()))
    print_text(f"{path}: uncomment the entries that you have, and fill in your paths")


def stage(
    name: Text,
    recipe: Text,
    /,
    *,
    chain: ChainOptions = ChainOptions(),
    seed: SeedOption = None,
    again: bool = False,
    as_json: AsJson = False,
    where: Where,
) -> None:
    """Run the steps of one stage from inputs in the store, and print the paths of their artifacts.

    Args:
        name: a stage (`sevila stages`)
        recipe: name of a recipe (`sevila recipes`) or path of a .toml file
        again: rebuild artifacts that exist
    """
    from pipeline.engine.steps import RunOnly
    from reports.named_runs import pinned
    from stages.chain import chain_of

    # Scoring needs no videos, as their frames are in the store.
    loaded, context, sources = chain.open(recipe, seed, where.open(), remembered=["videos"])
    loaded.config_of(name)  # raises for an unknown stage
    seeds = [] if seed is None else [seed]
    with context.store.in_use(), pinned(context.store, "", loaded, seeds) as pin:
        steps = RunOnly(name, loaded, context, again, pin)
        artifacts = steps.walk(chain_of(loaded), sources)
    if as_json:
        pairs = zip(artifacts, steps.settings, strict=True)
        print_json([{"id": artifact.id, "which": setting, "path": str(artifact.path)} for artifact, setting in pairs])
    else:
        print_text("\n".join(str(artifact.path) for artifact in artifacts))


def plan(
    recipe: Text,
    /,
    *,
    chain: ChainOptions = ChainOptions(),
    seed: SeedOption = None,
    as_json: AsJson = False,
    where: Where,
) -> None:
    """Show what a run would build, and why, without running.

    Args:
        recipe: name of a recipe (`sevila recipes`) or path of a .toml file
    """
    from pipeline.engine.dry_run import DryRun
    from pipeline.engine.places import KINDS
    from stages.chain import chain_of

    loaded, context, sources = chain.open(recipe, seed, where.open(), remembered=KINDS)
    steps = DryRun(loaded, context).walk(chain_of(loaded), sources)
    if as_json:
        print_json(steps)
        return
    if is_terminal() and not is_verbose():
        rows = [[step.status, f"{step.setting}: {step.stage}".removeprefix(": "), step.why] for step in steps]
        print_table(["status", "step", "why"], rows)
    else:
        why = [f"{step.why} ({step.setting})" if step.setting else step.why for step in steps]
        rows = [[step.status, step.stage, step.id or "-", reason] for step, reason in zip(steps, why, strict=True)]
        print_table(["status", "stage", "id", "why"], rows)
    counts = {status: sum(step.status == status for step in steps) for status in ("exists", "build", "blocked")}
    print(", ".join(f"{count} {status}" for status, count in counts.items()))


def results(
    recipe: Text,
    /,
    *,
    chain: ChainOptions = ChainOptions(),
    naming: Naming = Naming(),
    seeds: Seeds = (0, 1, 2),
    output: OutputFile = None,
    as_json: AsJson = False,
    where: Where,
    command_line: CommandLine,
) -> None:
    """Run a recipe's full chain for several seeds, and write a report with mean and spread of every setting.

    Args:
        recipe: name of a recipe (`sevila recipes`) or path of a .toml file
        seeds: random seeds
        output: the report, in Markdown; default: standard output, unless --json is given
    """
    from pipeline.engine.recipe import load
    from pipeline.engine.steps import Run
    from pipeline.loaded_models import keeping_models
    from pipeline.recipes.requirements import evaluates_settings
    from reports.named_runs import pinned
    from reports.seed_report import SeedRun, seed_report
    from reports.summary import summary_content
    from stages.all import STAGES
    from stages.chain import full

    if len(set(seeds)) < len(seeds):
        raise RecipeError(f"--seeds {' '.join(map(str, seeds))}: expected each seed once")
    loaded, runs, contents = load(recipe, STAGES, chain.all_settings()), [], []
    if not evaluates_settings(loaded):
        raise RecipeError(
            f"recipe {loaded.name!r} does not evaluate several settings; add --set chain.kind=full, for questions with options"
        )
    store = where.open()
    pinning = pinned(store, naming.name or "", loaded, list(seeds), naming.replace)
    with store.in_use(), keeping_models(), pinning as pin:
        for seed in seeds:
            loaded, context, sources = chain.open(recipe, seed, store)
            steps = Run(loaded, context, partial(pin, of=f"seed {seed}"), chain=full)
            started = time.perf_counter()
            metrics = full(loaded, steps, sources)
            runs.append(SeedRun(seed, metrics, steps.artifacts, time.perf_counter() - started))
            contents.append({"seed": seed, **summary_content(steps.artifacts, steps.settings, metrics)})
    write_output(seed_report(loaded, runs, command_line), output, contents if as_json else None)


def benchmark(
    matrix: str,
    /,
    *,
    history: bool = False,
    nights: Positive = 14,
    places: PlaceOptions = PlaceOptions(),
    inference: Inference = Inference(),
    as_json: AsJson = False,
    where: Where,
) -> int:
    """Run a matrix of settings from cached features, and report regressions against the previous nights.

    A matrix is a TOML file: `[recipes.NAME]` with lines `setting = ["stage.key=value", ...]`; alpha, keep_nights, since = DATE
    (earlier nights are not compared), `[tolerance]` throughput_percent and peak_memory_percent.

    Scores, keyframes and answers are rebuilt in a separate store for the night; their inputs must be in the store. Exit status
    1: there are regressions, or a setting failed.

    Args:
        matrix: demo, nextqa, or path of a .toml file, whose name is that of the history
        history: only print the trend of the last nights, without running
        nights: number of nights that --history shows
    """
    from pipeline.benchmarks.matrix import load_matrix
    from reports.benchmark import folder_of, run_night
    from reports.benchmark_history import History
    from reports.benchmark_text import night_text, trend_text

    loaded, store = load_matrix(matrix), where.open()
    if history:
        rows = History(folder_of(store, loaded)).read()
        print_json(rows) if as_json else print_text(trend_text(loaded, rows, nights))
        return 0
    night = run_night(loaded, store, places.by_kind(), inference.device, inference.as_options()["batch_tokens"])
    print_json([judged.row for judged in night.rows]) if as_json else print_text(night_text(night))
    return 1 if night.problems else 0


def up(*, port: Port = 4200, gpu_workers: Count = 0, runs: Positive = 4, where: Where) -> int:
    """Run Prefect's server and workers on this machine until Ctrl-C.

    Args:
        port: port of the server on 127.0.0.1
        gpu_workers: workers of pool gpu; 0: one per GPU, at least one
        runs: concurrent runs in pool cpu
    """
    from workers.up import Server, up

    return up(Server(port, where.root, where.below, gpu_workers, runs))
