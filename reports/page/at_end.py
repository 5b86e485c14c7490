"""The report that a run writes at its end; whatever goes wrong with it, the run's results stand."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from cache.errors import SevilaError, sentence
from pipeline.engine.recipe import Recipe
from pipeline.engine.sources import Sources
from pipeline.engine.steps import Run
from reports.page.pictures import thumbnails_of
from reports.page.runs import run_of_steps
from reports.page.strips import keyframe_strips
from reports.page.write import no_pin, write_report

log = logging.getLogger("sevila")
Shown = TypeVar("Shown")


def is_report_wanted() -> bool:
    """Whether SEVILA_REPORT leaves it to us to write reports, where no command line says it."""
    return os.environ.get("SEVILA_REPORT", "").lower() not in ("0", "n", "no", "f", "false")


def report_at_end(
    title: str, recipe: Recipe, steps: Run, sources: Sources, started: datetime, pin: Callable[..., None]
) -> Path | None:
    """Return the page of a run that has just been walked; None, with a warning, where it cannot be written."""

    def write() -> Path:
        since = started.isoformat(timespec="milliseconds")
        run = run_of_steps(title, recipe.name, since, steps.artifacts[0].store, steps.artifacts, steps.settings)
        return write_report([run], sources, pin=pin)

    return _unless_it_fails(write)


def strips_at_end(recipe: Recipe, steps: Run, sources: Sources) -> str:
    """Return some questions of a run whose report is written, with pictures; "" where there are none, or that fails."""

    def show() -> str:
        run = run_of_steps("", recipe.name, "", steps.artifacts[0].store, steps.artifacts, steps.settings)
        return keyframe_strips(
            run, thumbnails_of(run.store, run.headline.frames, run.headline.questions, sources, no_pin)
        )

    return _unless_it_fails(show) or ""


def _unless_it_fails(work: Callable[[], Shown]) -> Shown | None:
    try:
        return work()
    except SevilaError as error:
        log.warning("no report: %s", error)
    except OSError as error:
        log.warning("no report: %s", sentence(error))
    except Exception:  # a fault of ours must not cost the days that the run took
        log.warning("no report, though the run is complete; please report this error:", exc_info=True)
    return None
