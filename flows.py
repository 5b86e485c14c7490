"""The chain as Prefect flows, for deployments, schedules and workers. Only this file and workers/ import prefect.

Prefect starts, places, retries and shows runs; the store alone records which artifacts exist. No task is cached or persisted, and
flows and tasks exchange only ids and recipe names. Without a server, use `sevila run`.

    sevila            runs a whole chain, with GPU stages dispatched in pieces to the workers of pool `gpu`
    sevila-stage      builds one stage from artifacts in the store, in the same way
    sevila-piece      builds missing shards of an artifact on the worker that takes it
    sevila-benchmark  measures a matrix of settings, and compares it with earlier nights
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pipeline  # noqa: F401 - first: sets the variables that BLAS libraries read on load, and prefect may load numpy

# isort: split
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed, Failed, State

from cache.printable import printable
from cache.store import Store, stores_below
from pipeline.benchmarks.matrix import load_matrix
from pipeline.engine.branches import branching
from pipeline.engine.steps import Run, RunOnly
from pipeline.recipes.results import Results
from pipeline.text_table import code
from reports.benchmark import run_night
from reports.benchmark_history import NightRow
from reports.benchmark_setting import SettingJob, run_setting_in_subprocess
from reports.benchmark_text import night_markdown
from reports.named_runs import pinned
from reports.page.at_end import is_report_wanted, report_at_end, strips_at_end
from reports.page.runs import title_of
from stages.chain import chain_of
from workers.as_tasks import RETRIED, AsTasks, make_as_tasks
from workers.dispatch import Dispatch
from workers.flow_runs import cancel_pieces
from workers.forms import (
    Device,
    Execution,
    MatrixName,
    Places,
    RecipeName,
    RunName,
    Seed,
    Settings,
    StageName,
    TokenCount,
)
from workers.idle_runs import make_pieces_and_stay
from workers.pages import key_of, name_run, row_shower, run_title, show_summary, whose_page
from workers.piece import final_state, open_request, split


@flow(name="sevila", on_cancellation=[cancel_pieces])
def sevila(
    recipe: RecipeName = "demo",
    settings: Settings = (),
    seed: Seed = None,
    chain: Literal["as the recipe says", "forward", "full"] = "as the recipe says",
    name: RunName = "",
    places: Places = Places(),  # noqa: B008 - never changed
    execution: Execution = Execution(),  # noqa: B008
) -> State[str]:
    """Run the chain of a recipe, from questions to metrics, reusing artifacts in the store.

    The final state is Completed with the id of the (last) metrics, or Failed with the reason as its message. Relative paths
    start at the deployment's pull step. Recipe demo generates its own small data set if no places are given.

    Args:
        recipe: name of a recipe (`sevila recipes`), or path of a .toml file on the workers
        settings: changes to it, each `stage.key=value`, as in `select_keyframes.k=8` (`sevila stages` lists all)
        seed: seed of all that is random in the stages, and of the demo's world; None: as the recipe says
        chain: `forward` for inference only, `full` for training as well
        name: name of the run, which keeps its artifacts from garbage collection (`sevila runs`); empty: none
        places: locations of data, weights and artifacts on the workers
        execution: how and where to run
    """
    settings = (*settings, *([] if chain == "as the recipe says" else [f"chain.kind={chain}"]))
    request, started = _request(recipe, settings, seed, places, execution), datetime.now(UTC)

    def work() -> State[str]:
        chosen, run, sources = open_request(**request)
        name_run(run_title(f"{chosen.name} {chosen.chain.kind}", settings, seed))
        with run.store.in_use(), pinned(run.store, name, chosen, [] if seed is None else [seed]) as pin:
            with Dispatch(request) as dispatch, branching(dispatch.n_at_once) as branches:
                steps = Run(chosen, run, pin, dispatch.make, chain_of(chosen), dispatch.look_ahead)
                results = chain_of(chosen)(chosen, AsTasks(chosen, steps, branches), sources)
            steps.pin_in_order()
            report_title = name or title_of(chosen.name, [] if seed is None else [seed])
            page = report_at_end(report_title, chosen, steps, sources, started, pin) if is_report_wanted() else None
            report = (page, strips_at_end(chosen, steps, sources)) if page else None
        title, key = f"Recipe {code(chosen.name)}", key_of(f"sevila-{chosen.name}")
        show_summary(title, key, steps.artifacts, steps.settings, results, report)
        metrics = results.settings[-1].metrics if isinstance(results, Results) else results
        return Completed(message=f"metrics {metrics.id}", data=metrics.id)

    return final_state(work)


@flow(name="sevila-stage", on_cancellation=[cancel_pieces])
def sevila_stage(
    stage: StageName,
    recipe: RecipeName = "demo",
    settings: Settings = (),
    seed: Seed = None,
    again: bool = False,
    places: Places = Places(),  # noqa: B008
    execution: Execution = Execution(),  # noqa: B008
) -> State[str]:
    """Build one stage of a recipe's chain, in every place where the chain has it, from artifacts in the store.

    Args:
        stage: the stage to build
        recipe: name of a recipe (`sevila recipes`), or path of a .toml file on the workers
        settings: changes to it, each `stage.key=value`, as in `select_keyframes.k=8` (`sevila stages` lists all)
        seed: seed of all that is random in the stages, and of the demo's world; None: as the recipe says
        again: rebuild it even if the store has it; if its content changes, the next run rebuilds what depends on it
        places: locations of data, weights and artifacts on the workers
        execution: how and where to run
    """
    request = _request(recipe, settings, seed, places, execution)

    def work() -> State[str]:
        chosen, run, sources = open_request(**request, remembered=["videos"])
        name_run(run_title(f"{chosen.name}: {stage}", settings, seed))
        seeds = [] if seed is None else [seed]
        with run.store.in_use(), pinned(run.store, "", chosen, seeds) as pin, Dispatch(request) as dispatch:
            steps = RunOnly(stage, chosen, run, again, pin, make_as_tasks(dispatch.make))
            artifacts = steps.walk(chain_of(chosen), sources)
        title = f"Stage {code(stage)} of recipe {code(chosen.name)}"
        show_summary(title, key_of(f"sevila-{chosen.name}-{stage}"), artifacts, steps.settings)
        ids = " ".join(str(artifact.id) for artifact in artifacts)
        return Completed(message=ids, data=ids)

    return final_state(work)


@flow(name="sevila-piece")
def sevila_piece(
    artifact: str,
    recipe: RecipeName,
    settings: Settings = (),
    seed: Seed = None,
    places: Places = Places(),  # noqa: B008
    execution: Execution = Execution(),  # noqa: B008
) -> State[None]:
    """Build missing pieces of an artifact, one after the other; submitted by the other flows.

    On pool gpu it then stays idle for up to 30 s, for the next step of its parent run.

    Args:
        artifact: id of the artifact
        recipe: the recipe whose chain has the artifact; this and the other parameters as in the parent run
        settings: changes to the recipe
        seed: seed of all that is random in the stages
        places: locations of data, weights and artifacts on the workers
        execution: how and where to run
    """
    return make_pieces_and_stay(artifact, _request(recipe, settings, seed, places, execution))


def _request(
    recipe: str, settings: Sequence[str], seed: int | None, places: Places, execution: Execution
) -> dict[str, Any]:
    """Return the parameters that a run and its pieces share, as JSON values."""
    common = {"recipe": recipe, "settings": list(settings), "seed": seed}
    return common | {"places": places.model_dump(), "execution": execution.model_dump()}


@flow(name="sevila-benchmark")
def sevila_benchmark(
    matrix: MatrixName = "demo",
    device: Device = "auto",
    batch_tokens: TokenCount | None = None,
    places: Places = Places(),  # noqa: B008
) -> State[str]:
    """Run a matrix of settings from cached features, and fail if accuracy, throughput or peak memory has regressed.

    It measures speed, and therefore runs on one worker that has its GPU to itself. A paired test detects regressions of
    accuracy, tolerances those of throughput and peak memory.

    Args:
        matrix: the matrix: demo, nextqa, or path of a .toml file on the worker (docs/benchmark.md)
        device: auto: the first GPU of the worker, else its CPU; or cpu, cuda, cuda:1, ...
        batch_tokens: tokens in a forward pass, padding included; changes speed; empty: what suits the device
        places: locations of data, weights and artifacts on the worker
    """

    def work() -> State[str]:
        chosen = load_matrix(matrix)
        name_run(f"benchmark {chosen.name}")
        sources = {kind: split(getattr(places, kind)) for kind in ("annotations", "videos", "weights")}
        main = Store(Path(places.store or os.environ.get("SEVILA_STORE", ".sevila")), stores_below())
        night = run_night(chosen, main, sources, device, batch_tokens, row_shower(chosen), _setting_as_a_task)
        page = f"{night_markdown(night)}\n\n{whose_page(main)}"
        create_markdown_artifact(
            page, key_of(f"benchmark-{chosen.name}"), f"Benchmark {code(chosen.name)}, night by night"
        )
        if night.problems:
            return Failed(
                message=printable("; ".join(night.problems)), name="Regression" if night.regressions else None
            )
        return Completed(message=f"{chosen.name}: no regression in {len(night.rows)} rows", data=night.night)

    return final_state(work)


def _setting_as_a_task(job: SettingJob) -> list[NightRow]:
    """Run one setting of a benchmark as a task, retried after a killed process or a machine error."""

    @task(name="setting", task_run_name=f"{Path(job.recipe).stem} {job.setting}", **RETRIED)
    def run_setting() -> list[NightRow]:
        return run_setting_in_subprocess(job)

    return run_setting()
