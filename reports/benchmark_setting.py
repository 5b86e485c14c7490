"""One setting of a benchmark: rerun the stages after the features, and read everything before them from the lower store.

It runs in a subprocess, so that its peak memory is measured alone and a crash does not end the night.
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
EVALUATIONS = ("evaluate", "evaluate_moments")  # rerun too, but their time does not count towards the speed


@dataclass(frozen=True)
class SettingJob:
    """One setting of one night; reads the stores `main` and `below`, and writes the one in `folder`."""

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
        """The command that builds everything that the benchmark reads."""
        sets = [argument for change in self.changes for argument in ("--set", change)]
        places = [argument for kind, paths in self.places.items() for path in paths for argument in (f"--{kind}", path)]
        return shlex.join(["sevila", "run", self.recipe, *sets, *places, "--store", str(self.main)])

    def failed(self, reason: str, way: str = "", recipe_fingerprint: str = "") -> NightRow:
        """Return a failed row with this reason."""
        return NightRow(self.night, Path(self.recipe).stem, self.setting, way, recipe_fingerprint, FAILED, reason)


def run_setting_in_subprocess(job: SettingJob) -> list[NightRow]:
    """Return the rows of one setting, measured in a subprocess.

    Raises:
        MachineError: The process died, or met a machine error: a retry may succeed.
        RuntimeError: The process failed otherwise; holds its traceback.
    """
    rows: list[NightRow] = run_in_subprocess(measure, job)
    return rows


def measure(job: SettingJob) -> list[NightRow]:
    """Run one setting; return one row per evaluation of its chain, or a single failed row.

    Raises:
        OSError: A machine error; a retry may succeed.
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
        return rows or [job.failed("its chain has no evaluation", recipe_fingerprint=identity)]
    except SevilaError as error:
        return [job.failed(str(error), recipe_fingerprint=identity)]
    except Exception as error:
        if isinstance(error, OSError) and error.errno in OF_THE_MACHINE:
            raise
        print(traceback_text(error), file=sys.stderr)
        return [job.failed(f"{type(error).__name__}: {error}", recipe_fingerprint=identity)]


@dataclass(frozen=True)
class _Measurement:
    """Measures the evaluations of one setting."""

    job: SettingJob
    identity: str
    recipe: Recipe
    run: RunContext  # with the store of the night

    def read(self, stage: Stage, /, *inputs: Any, setting: str = "", **changes: Any) -> Any:
        """Return the stored artifact of a step, or a handle with the reason why it is not stored."""
        id = stage.artifact_id(self.recipe.config(stage, **changes), inputs)
        return stored(stage, id, inputs, self.run.store)

    def row(self, walk: Deferred, evaluation: DeferredStep, pin: Any) -> NightRow:
        """Rebuild one evaluation and the measured stages that it needs, and return its row."""
        needed = walk.needed(evaluation.artifact)
        rebuilt = [step for step in needed if step.stage.name in (*MEASURED, *EVALUATIONS)]
        for step in [step for step in needed if step not in rebuilt]:
            artifact = stored(step.stage, step.artifact.id, step.inputs, self.run.store)
            if artifact.problem:
                reason = f"{artifact.problem}; a benchmark reads it from the store, this command builds it: {self.job.command}"
                return self.job.failed(reason, evaluation.setting, self.identity)
            # Pinned for some days, so that `cache gc` keeps artifacts that every night reads.
            pin(artifact.id, step.stage.name, self.job.setting)
        store, ids = self.run.store, list(dict.fromkeys(str(step.artifact.id) for step in rebuilt))
        try:
            with store.hiding_below(ids):
                for step in rebuilt:
                    build(step.stage, step.config, self.run, step.inputs)
                return self._measured(evaluation, [store.record(id) for id in ids])
        except SevilaError as error:
            return self.job.failed(str(error), evaluation.setting, self.identity)

    def _measured(self, evaluation: DeferredStep, rebuilt: list[Record]) -> NightRow:
        records = {record.stage: record for record in rebuilt}
        measured = [records[name] for name in MEASURED if name in records]
        last, id = measured[-1], str(evaluation.artifact.id)
        seconds = {name: record.seconds for name, record in records.items()}
        measured_seconds = sum(seconds[record.stage] for record in measured)
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
            **_headline(self.run.store, id),
            stages=list(seconds),
            stage_seconds=list(seconds.values()),
            questions_per_second=n_questions / measured_seconds if measured_seconds else None,
            peak_memory_bytes=max(record.peak_memory_bytes for record in measured),
            peak_gpu_memory_bytes=max(record.peak_gpu_memory_bytes for record in measured) or None,
            device=next((record.device for record in measured if record.device != "cpu"), "cpu"),
            host=last.host,
            libraries=[f"{name} {version}" for name, version in last.libraries.items()],
            git_revision=last.git_revision or "",
        )


def _headline(store: Store, id: str) -> dict[str, Any]:
    """Return the headline of an evaluation, by the fields of `NightRow`."""
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
