"""The chain as a Prefect flow, for deployments, schedules and workers. The only file that imports prefect.

Prefect starts, places and shows the steps. What is already made only the store knows: no task is cached, retried or
persisted, and between tasks go handles of a few bytes. Without a server, use `sevila run`.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging.handlers import APILogHandler
from prefect.states import Completed, Failed, State
from pydantic import Field

from cache.errors import SevilaError
from cache.store import Store, stores_below
from pipeline.recipe import Recipe, load
from pipeline.sources import Sources
from pipeline.stage import Artifact, RunContext, Stage
from stages.chain import Step, chain_of
from stages.demo import DEMO, places_in
from stages.named_runs import pinned
from stages.results import Results
from stages.steps import Run, setting
from stages.summary import summary


@flow(name="sevila")
def sevila(
    recipe: str = "demo",
    settings: tuple[str, ...] = (),
    seed: Annotated[int | None, Field(ge=0)] = None,
    annotations: str = "",
    videos: str = "",
    weights: str = "",
    store: str = "",
    name: str = "",
    device: Annotated[str, Field(pattern="^(auto|cpu|cuda(:[0-9]+)?)$")] = "auto",
    batch_tokens: Annotated[int, Field(ge=1, le=1 << 22)] = 16384,
    decode_workers: Annotated[int, Field(ge=1, le=256)] = 2,
    shard_megabytes: Annotated[float, Field(gt=0, le=65536)] = 1024.0,
    processes: Annotated[int, Field(ge=0, le=64)] = 0,
) -> State[str]:
    """Run the chain of a recipe, from questions to metrics; what the store holds is not made again.

    Returns a state: Completed, with the id of the (last) metrics, or Failed, with the reason as its message, when recipe, places
    or data are at fault. Relative paths start where the deployment's pull step leads.

    Args:
        recipe: Name of a recipe (`sevila recipes`), or path of a .toml file. The recipe demo, when no place is given, brings
            its own small world.
        settings: Changes to the recipe, each `stage.key=value`.
        seed: Seed of everything that is random in the stages, and of the demo's world. When empty, as the recipe says.
        annotations: Annotation file or folder, `PATH` or `NAME=PATH`, several separated by `:`. When empty, what
            SEVILA_ANNOTATIONS or sevila.toml say on the worker.
        videos: Folder of the videos; likewise, with SEVILA_VIDEOS.
        weights: Folder or file of the weights; likewise, with SEVILA_WEIGHTS.
        store: Folder of the artifacts. When empty, SEVILA_STORE on the worker, or .sevila.
        name: Name under which everything that the run makes or reuses is kept; `sevila runs` lists them. When empty, none.
        device: auto (the first GPU, else the CPU), cpu, cuda, or one GPU as in cuda:1.
        batch_tokens: Tokens in a forward pass, padding included.
        decode_workers: Processes that decode videos.
        shard_megabytes: Size at which a shard of frames or features is cut.
        processes: Processes of a training. When 0, one for each GPU; one without GPU, or where `device` names one.
    """
    with _log_of_stages_in_run_log():
        try:
            chosen = load(recipe, settings, seed)
            artifacts = Store(Path(store or os.environ.get("SEVILA_STORE", ".sevila")), stores_below())
            places = {"annotations": _split(annotations), "videos": _split(videos), "weights": _split(weights)}
            if recipe == DEMO and not any(places.values()):
                places = places_in(artifacts, seed or 0)
            sources = Sources(artifacts.digests, places)
            run = RunContext(
                artifacts,
                device=device,
                batch_tokens=batch_tokens,
                decode_workers=decode_workers,
                shard_bytes=int(shard_megabytes * 2**20),
                sources=sources,
                processes=processes,
            )
            with artifacts.in_use(), pinned(artifacts, name, chosen, [] if seed is None else [seed]) as pin:
                steps = Run(chosen, run, pin)
                found = chain_of(chosen)(chosen, _as_tasks(chosen, steps), sources)
        except SevilaError as error:
            return Failed(message=str(error))  # not raised: this way the message is the reason and nothing else
        _show_summary(chosen.name, summary(steps.made, found))
        metrics = found.settings[-1].metrics if isinstance(found, Results) else found
        return Completed(message=f"metrics {metrics.id}", data=metrics.id)


def _as_tasks(recipe: Recipe, run_step: Step) -> Step:
    """Return a step that runs every stage as a Prefect task.

    The task has the stage's name; its run has the artifact's id, followed by which of the chain's steps it is.
    """

    def step(stage: Stage, /, *inputs: Any, tell: str = "", **changes: Any) -> Artifact:
        name = stage.artifact_id(recipe.config(stage, **changes), inputs) or stage.name

        # Prefect walks through whatever a task is given. It gets the artifacts, from which it draws who reads what; the list
        # of thousands of videos is none of its business.
        @task(
            name=stage.name,
            description=stage.summary,
            task_run_name=f"{name} {setting(changes, tell)}".rstrip(),
            cache_policy=NO_CACHE,
            persist_result=False,
        )
        def build(reads: list[Artifact]) -> Artifact:
            return run_step(stage, *inputs, tell=tell, **changes)

        return build([value for value in inputs if isinstance(value, Artifact)])

    return step


def _split(places: str) -> list[str]:
    return [place for place in places.split(os.pathsep) if place]


def _show_summary(recipe: str, text: str) -> None:
    """Keep the text as an artifact in Prefect; one key per recipe, so that its page is the recipe's history."""
    key = re.sub("[^a-z0-9]+", "-", f"sevila-{recipe}".lower())  # all that Prefect allows in a key
    create_markdown_artifact(f"```\n{text}\n```", key=key, description=f"Artifacts and metrics of recipe {recipe}")


@contextmanager
def _log_of_stages_in_run_log() -> Iterator[None]:
    log = logging.getLogger("sevila")
    handler = APILogHandler()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
