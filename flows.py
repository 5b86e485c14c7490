"""The chain as Prefect flows, for deployments, schedules and workers. Only this and workers/ import prefect.

Prefect starts, places, retries and shows; what is already made only the store knows. No task is cached or persisted, and nothing
larger than ids and recipe names passes through Prefect. Without a server, use `sevila run`.

    sevila         walks a whole chain; what needs a GPU it hands to the workers of pool `gpu`, piece by piece
    sevila-stage   makes one stage from what the store holds, in the same way
    sevila-piece   one shard, or all that is left of an artifact, on whatever worker took it
    sevila-benchmark   measures a matrix of settings, and compares the night with those before
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import pipeline  # noqa: F401 - clears what BLAS libraries read when they are loaded, as prefect and cache may load numpy

# isort: split
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed, Failed, State
from pydantic import Field

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
from workers.dispatch import Dispatch, cancel_pieces
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
from workers.pages import key_of, name_run, row_shower, run_title, show_summary, whose_page
from workers.piece import final_state, make_piece, open_request, split


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
    """Run the chain of a recipe, from questions to metrics; what the store holds is not made again.

    Ends Completed, with the id of the (last) metrics, or Failed, with the reason as its message. Relative paths start where
    the deployment's pull step leads. The recipe demo, when no place is given, brings its own small world.

    Args:
        recipe: name of a recipe (`sevila recipes`), or path of a .toml file on the workers
        settings: changes to it, each `stage.key=value`, as in `select_keyframes.k=8` (`sevila stages` lists all)
        seed: seed of all that is random in the stages, and of the demo's world; None: as the recipe says
        chain: which chain to walk: `forward` is inference, `full` the trainings too
        name: name under which everything the run makes is kept (`sevila runs`); empty: none
        places: where data, weights and artifacts lie on the workers
        execution: speed and place
    """
    settings = (*settings, *([] if chain == "as the recipe says" else [f"chain.kind={chain}"]))
    request, started = _request(recipe, settings, seed, places, execution), datetime.now(UTC)

    def work() -> State[str]:
        chosen, run, sources = open_request(**request)
        name_run(run_title(f"{chosen.name} {chosen.chain.kind}", settings, seed))
        with run.store.in_use(), pinned(run.store, name, chosen, [] if seed is None else [seed]) as pin:
            dispatch = Dispatch(request)
            steps = Run(chosen, run, pin, dispatch.make, chain_of(chosen))
            with branching(dispatch.n_at_once) as branches:
                results = chain_of(chosen)(chosen, AsTasks(chosen, steps, branches), sources)
            steps.pin_in_order()
            called = name or title_of(chosen.name, [] if seed is None else [seed])
            page = report_at_end(called, chosen, steps, sources, started, pin) if is_report_wanted() else None
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
    """Make one stage of a recipe's chain from what the store holds, wherever the chain has it.

    Args:
        stage: the stage to make
        recipe: name of a recipe (`sevila recipes`), or path of a .toml file on the workers
        settings: changes to it, each `stage.key=value`, as in `select_keyframes.k=8` (`sevila stages` lists all)
        seed: seed of all that is random in the stages, and of the demo's world; None: as the recipe says
        again: rebuild it even if the store holds it; if its content changes, the next run rebuilds what was made from it
        places: where data, weights and artifacts lie on the workers
        execution: speed and place
    """
    request = _request(recipe, settings, seed, places, execution)

    def work() -> State[str]:
        chosen, run, sources = open_request(**request, remembered=["videos"])
        name_run(run_title(f"{chosen.name}: {stage}", settings, seed))
        with run.store.in_use(), pinned(run.store, "", chosen, [] if seed is None else [seed]) as pin:
            steps = RunOnly(stage, chosen, run, again, pin, make_as_tasks(Dispatch(request).make))
            artifacts = steps.walk(chain_of(chosen), sources)
        title = f"Stage {code(stage)} of recipe {code(chosen.name)}"
        show_summary(title, key_of(f"sevila-{chosen.name}-{stage}"), artifacts, steps.settings)
        ids = " ".join(str(artifact.id) for artifact in artifacts)
        return Completed(message=ids, data=ids)

    return final_state(work)


@flow(name="sevila-piece")
def sevila_piece(
    artifact: str,
    piece: Annotated[int, Field(ge=0)] | None,
    recipe: RecipeName,
    settings: Settings = (),
    seed: Seed = None,
    places: Places = Places(),  # noqa: B008
    execution: Execution = Execution(),  # noqa: B008
) -> State[None]:
    """Make one piece of an artifact. Started by the other flows, which know which pieces are missing.

    Args:
        artifact: id of the artifact
        piece: number of its shard; none for all that is left of it
        recipe: the recipe in whose chain it is; this and the rest as in the run that asks
        settings: changes to the recipe
        seed: seed of all that is random in the stages
        places: where data, weights and artifacts lie on the workers
        execution: speed and place
    """

    return make_piece(artifact, piece, _request(recipe, settings, seed, places, execution))


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
    """Run a matrix of settings from cached features, and fail with a named regression if one is real.

    It runs on one worker, alone on its GPU, since it measures speed: nothing is handed to others. Whether a night is worse is
    said by a paired test for accuracy, and by tolerances for throughput and peak memory.

    Args:
        matrix: what to run: demo, nextqa, or path of a .toml file on the worker (docs/benchmark.md)
        device: auto: the first GPU of the worker, else its CPU; or cpu, cuda, cuda:1, ...
        batch_tokens: tokens in a forward pass, padding included; empty: what suits the device; another number makes another speed
        places: where data, weights and artifacts lie on the worker
    """

    def work() -> State[str]:
        chosen = load_matrix(matrix)
        name_run(f"benchmark {chosen.name}")
        given = {kind: split(getattr(places, kind)) for kind in ("annotations", "videos", "weights")}
        main = Store(Path(places.store or os.environ.get("SEVILA_STORE", ".sevila")), stores_below())
        night = run_night(chosen, main, given, device, batch_tokens, row_shower(chosen), _setting_as_a_task)
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
    """Run one setting of a benchmark as a task, again where its process died or the machine failed it."""

    @task(name="setting", task_run_name=f"{Path(job.recipe).stem} {job.setting}", **RETRIED)
    def run_setting() -> list[NightRow]:
        return run_setting_in_subprocess(job)

    return run_setting()
