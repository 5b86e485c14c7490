"""One setting of a benchmark: the stages after the features are run again, all before them is read from the store below.

It runs in a process of its own, so that its peak memory is its own and its death nobody else's.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cache.errors import OF_THE_MACHINE, SevilaError
from cache.fingerprint import fingerprint
from cache.printable import traceback_text
from cache.record import Record
from cache.store import Store
from pipeline.engine.build import build
from pipeline.engine.deferred import Deferred, DeferredStep
from pipeline.engine.recipe import Recipe
from pipeline.engine.stage import RunContext, Stage
from pipeline.engine.steps import stored
from pipeline.recipes.opening import Request, open_recipe
from pipeline.recipes.requirements import SCORER_STAGES
from pipeline.training.launch import run_in_subprocess
from reports.benchmark_history import FAILED, OK, NightRow
from reports.named_runs import pinned
from stages.all import STAGES
from stages.chain import chain_of
from stages.evaluate import Metrics
from stages.evaluate_moments import MomentMetrics

SCORING = tuple(stages[-1] for scorer, stages in SCORER_STAGES.items() if scorer != "imported")
MEASURED = (*SCORING, "select_keyframes", "answer_questions", "retrieve_moments")
EVALUATIONS = ("evaluate", "evaluate_moments")  # run again too; their resampling is no part of the speed


@dataclass(frozen=True)
class SettingJob:
    """One setting of one night; the stores `main` and `below` are read, the one in `folder` is written."""

    night: str
    recipe: str
    setting: str
    changes: tuple[str, ...]
    main: Path
    below: tuple[Path, ...]
    folder: Path
    places: dict[str, list[str]]
    device: str
    batch_tokens: int | None

    @property
    def command(self) -> str:
        """The command that makes everything that the benchmark reads."""
        sets = [word for change in self.changes for word in ("--set", change)]
        places = [word for kind, given in self.places.items() for place in given for word in (f"--{kind}", place)]
        return shlex.join(["sevila", "run", self.recipe, *sets, *places, "--store", str(self.main)])

    def failed(self, reason: str, way: str = "", recipe_fingerprint: str = "") -> NightRow:
        """Return the row that says why there are no numbers."""
        return NightRow(self.night, Path(self.recipe).stem, self.setting, way, recipe_fingerprint, FAILED, reason)


def run_setting_in_subprocess(job: SettingJob) -> list[NightRow]:
    """Return the rows of one setting, measured in a process of its own.

    Raises:
        MachineError: that process died, or the machine refused it something: another try may succeed.
        RuntimeError: it failed otherwise, with its traceback.
    """
    rows: list[NightRow] = run_in_subprocess(measure, job)
    return rows


def measure(job: SettingJob) -> list[NightRow]:
    """Run one setting; return a row for each evaluation of its chain, or one that says why there is none.

    Raises:
        OSError: the machine refused something; a later try may succeed.
    """
    identity = ""
    try:
        main = Store(job.main, job.below)
        request = Request(job.recipe, job.changes, places=job.places, shared=True)
        run = RunContext(main, device=job.device, batch_tokens=job.batch_tokens, processes=1)
        recipe, run, sources = open_recipe(request, STAGES, run, remembered=["videos"])
        run = replace(run, store=Store(job.folder, main.roots))
        sections = {"chain": recipe.chain, **recipe.configs}
        identity = fingerprint({name: config.model_dump(mode="json") for name, config in sections.items()})
        measurement = _Measurement(job, identity, recipe, run)
        walk = Deferred(recipe, run, measurement.read, {})
        with pinned(main, "", recipe, []) as pin:
            chain_of(recipe)(recipe, walk, sources)
            evaluations = [step for step in walk.steps if step.stage.name in EVALUATIONS]
            rows = [measurement.row(walk, evaluation, pin) for evaluation in evaluations]
        return rows or [job.failed("its chain evaluates nothing", recipe_fingerprint=identity)]
    except SevilaError as error:
        return [job.failed(str(error), recipe_fingerprint=identity)]
    except Exception as error:
        if isinstance(error, OSError) and error.errno in OF_THE_MACHINE:
            raise
        print(traceback_text(error), file=sys.stderr)
        return [job.failed(f"{type(error).__name__}: {error}", recipe_fingerprint=identity)]


@dataclass(frozen=True)
class _Measurement:
    """The ways of one setting, each from what the store holds, its stages after the features run again."""

    job: SettingJob
    identity: str
    recipe: Recipe
    run: RunContext  # whose store is the night's

    def read(self, stage: Stage, /, *inputs: Any, setting: str = "", **changes: Any) -> Any:
        """Return the artifact of a step as the store holds it, or a handle that says why it does not."""
        id = stage.artifact_id(self.recipe.config(stage, **changes), inputs)
        return stored(stage, id, inputs, self.run.store)

    def row(self, walk: Deferred, evaluation: DeferredStep, pin: Any) -> NightRow:
        """Return the row of one evaluation, after it and all after the features that it needs were made."""
        needed = walk.needed(evaluation.artifact)
        own = [step for step in needed if step.stage.name in (*MEASURED, *EVALUATIONS)]
        for step in [step for step in needed if step not in own]:
            artifact = stored(step.stage, step.artifact.id, step.inputs, self.run.store)
            if artifact.problem:
                reason = f"{artifact.problem}; a benchmark reads that from the store, this makes it: {self.job.command}"
                return self.job.failed(reason, evaluation.setting, self.identity)
            # Housekeeping leaves for some days what is read every night.
            pin(artifact.id, step.stage.name, self.job.setting)
        store, ids = self.run.store, list(dict.fromkeys(str(step.artifact.id) for step in own))
        try:
            with store.hiding_below(ids):
                for step in own:
                    build(step.stage, step.config, self.run, step.inputs)
                return self._measured(evaluation, [store.record(id) for id in ids])
        except SevilaError as error:
            return self.job.failed(str(error), evaluation.setting, self.identity)

    def _measured(self, evaluation: DeferredStep, own: list[Record]) -> NightRow:
        records = {record.stage: record for record in own}
        working = [records[name] for name in MEASURED if name in records]
        last, id = working[-1], str(evaluation.artifact.id)
        seconds = {name: record.seconds for name, record in records.items()}
        spent = sum(seconds[record.stage] for record in working)
        n_questions = last.rows["answers" if last.stage == "answer_questions" else "queries"]
        return NightRow(
            self.job.night,
            self.recipe.name,
            self.job.setting,
            evaluation.setting,
            self.identity,
            OK,
            answers=last.id,
            metrics=id,
            **_figures(self.run.store, id),
            stages=list(seconds),
            stage_seconds=list(seconds.values()),
            questions_per_second=n_questions / spent if spent else None,
            peak_memory_bytes=max(record.peak_memory_bytes for record in working),
            peak_gpu_memory_bytes=max(record.peak_gpu_memory_bytes for record in working) or None,
            device=next((record.device for record in working if record.device != "cpu"), "cpu"),
            host=last.host,
            libraries=[f"{name} {version}" for name, version in last.libraries.items()],
            git_revision=last.git_revision or "",
        )


def _figures(store: Store, id: str) -> dict[str, Any]:
    """Return the headline of an evaluation."""
    if store.record(id).stage == "evaluate":
        accuracy = Metrics(store, id).headline()
        return {
            "metric": "accuracy",
            "metric_percent": accuracy.accuracy_percent,
            "n_questions": accuracy.n_questions,
            "unanswered_percent": accuracy.unanswered_percent,
        }
    row = MomentMetrics(store, id).headline()
    return {"metric": "R1@0.5", "metric_percent": row.recall_at_one_percent, "n_questions": row.n_queries}
