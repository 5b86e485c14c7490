"""The report that a run writes at its end; whatever goes wrong with it, the run's results stand."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from cache.errors import SevilaError, sentence
from pipeline.engine.recipe import Recipe
from pipeline.engine.sources import Sources
from pipeline.engine.steps import Run
from reports.page.runs import run_of_steps
from reports.page.write import write_report

log = logging.getLogger("sevila")


def is_report_wanted() -> bool:
    """Whether SEVILA_REPORT leaves it to us to write reports, where no command line says it."""
    return os.environ.get("SEVILA_REPORT", "").lower() not in ("0", "n", "no", "f", "false")


def report_at_end(
    title: str, recipe: Recipe, steps: Run, sources: Sources, started: datetime, pin: Callable[..., None]
) -> Path | None:
    """Return the page of a run that has just been walked; None, with a warning, where it cannot be written."""
    try:
        artifacts = steps.artifacts
        since = started.isoformat(timespec="milliseconds")
        run = run_of_steps(title, recipe.name, since, artifacts[0].store, artifacts, steps.settings)
        return write_report([run], sources, pin=pin)
    except SevilaError as error:
        log.warning("no report: %s", error)
    except OSError as error:
        log.warning("no report: %s", sentence(error))
    except Exception:  # a slip of ours must not cost the days that the run took
        log.warning("no report, though the run is whole; please tell us:", exc_info=True)
    return None
