"""The view of a run in Prefect beside its states: progress that moves, the log, and a page at the end."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from coolname.data import config as drawn_words
from prefect import get_client
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.context import TaskRunContext
from prefect.exceptions import FailedRun
from prefect.logging.handlers import APILogHandler
from prefect.runtime import flow_run as this_run
from prefect.runtime import task_run as this_task
from prefect.utilities.urls import url_for

from cache.errors import OF_THE_MACHINE, SevilaError
from cache.printable import PrintableRecord, printable
from cache.store import Store
from pipeline.benchmarks.matrix import Matrix
from pipeline.engine.progress import Show
from pipeline.engine.stage import Artifact
from pipeline.recipes.results import Results
from pipeline.text_table import code, escaped
from reports.benchmark_history import NightRow
from reports.summary import summary_markdown
from stages.sample_frames import Frames

log = logging.getLogger("sevila")

SILENT_SECONDS = 60.0  # without progress, after it could not be shown


def progress_artifacts() -> Show:
    """Return what shows the progress of a loop as an artifact of the step, or else the flow run, that it belongs to."""
    shown: dict[str, Any] = {}
    process, silent_until = os.getpid(), 0.0

    def show(what: str, percent: float, words: str) -> None:
        nonlocal silent_until
        key = key_of(f"{what}-{str(this_task.id or this_run.id)[-8:]}")
        is_over_at_once = percent >= 100 and key not in shown
        if os.getpid() != process or is_over_at_once or time.monotonic() < silent_until:
            return
        try:
            if key in shown:
                update_progress_artifact(shown[key], percent, f"{what}: {words}")
            else:
                shown[key] = create_progress_artifact(percent, key, f"{what}: {words}")
        except Exception as error:  # a server that is gone for a while is no reason to fail a step
            log.warning("progress is not shown: %s", error)
            silent_until = time.monotonic() + SILENT_SECONDS

    return show


def run_title(what: str, settings: Sequence[str], seed: int | None) -> str:
    """Return what a run is to be called: `nextqa full, select_keyframes.k=8, seed 0`."""
    own = [setting for setting in settings if not setting.startswith("chain.kind=")]
    return printable(", ".join([what, *own, *([] if seed is None else [f"seed {seed}"])]))


def _is_drawn(name: str) -> bool:
    """Whether a name is two words of the lists that Prefect draws from."""
    lists: dict[str, Any] = drawn_words
    words = {word for entry in lists.values() if entry.get("type") == "words" for word in entry["words"]}
    return any(name[:at] in words and name[at + 1 :] in words for at, sign in enumerate(name) if sign == "-")


def name_run(name: str) -> None:
    """Call the present run so, unless somebody has given it a name; the two words that Prefect draws say nothing."""
    if this_run.id is None or not _is_drawn(str(this_run.name)):
        return
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run(UUID(str(this_run.id)), name=name)
    except Exception as error:  # which is no reason to fail
        log.warning("this run could not be called %r: %s", name, error)


class _RunLogRecord(PrintableRecord):
    def getMessage(self) -> str:
        """Return the message as `--watch` can print it, which takes "[/..." for the end of a colour, and stops."""
        return super().getMessage().replace("[/", "\\[/")


def _without_traceback(record: logging.LogRecord) -> bool:
    """Leave out where in the code a reason arose that a user can fix; a `FailedRun` says only what the state has said."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, SevilaError) or (isinstance(error, OSError) and error.errno in OF_THE_MACHINE):
        record.exc_info = record.exc_text = None
    return not isinstance(error, FailedRun)


@contextmanager
def logs_in_run_log(show: Show) -> Iterator[None]:
    """Have what the stages log, and the warnings of all libraries, in the run's log in Prefect too.

    What processes started from here log arrives as well; progress among it is shown.
    """
    run_id, process, seen = this_run.id, os.getpid(), "is_in_run_log"

    def is_new(record: logging.LogRecord) -> bool:
        """Prefect's own lines are there already; others may come by two loggers, or from a thread that knows of no run."""
        if record.name.split(".")[0] == "prefect" or hasattr(record, seen) or run_id is None:
            return False
        setattr(record, seen, True)
        # Also where a setting's own run does the step: people, and `--watch`, look at this one.
        step = TaskRunContext.get()
        record.flow_run_id, record.task_run_id = run_id, step.task_run.id if step else None
        if record.process != process and hasattr(record, "progress"):
            show(*record.progress)
        return True

    logging.setLogRecordFactory(_RunLogRecord)
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
        logging.getLogger(name).addFilter(_without_traceback)  # for good: the end comes after this
    handler = APILogHandler()
    handler.addFilter(is_new)
    # The root, and those who keep their lines from it.
    loggers = [logging.getLogger(name) for name in (None, "transformers", "huggingface_hub")]
    for logger in loggers:
        logger.addHandler(handler)
    log.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger in loggers:
            logger.removeHandler(handler)


def show_summary(
    title: str,
    key: str,
    artifacts: Sequence[Artifact],
    settings: Sequence[str],
    results: Artifact | Results | None = None,
    report: tuple[Path, str] | None = None,
) -> None:
    """Keep a page of what was made, with the same key in every run, so that Prefect shows them in a row; and what failed.

    Args:
        report: where the run's own page lies, with plots and every question, and some of these in Markdown.
    """
    own, strips = report or (None, "")
    # A browser follows no link from a server's page to a file, and Prefect's newer pages show none: hence the path, too.
    plots = "Plots, and every question with its frames"
    link = f"{plots}: the [report]({own.as_uri()}); if nothing opens, open {code(str(own))}." if own else ""
    summary = summary_markdown(artifacts, settings, results, strips)
    page = f"# {title}\n\n{whose_page(artifacts[0].store)} {link}\n\n{summary}"
    create_markdown_artifact(page, key, f"{title}: what was made")
    videos = [video for artifact in artifacts if isinstance(artifact, Frames) for video in artifact.videos()]
    failed = dict.fromkeys(
        (printable(video.video_id), printable(video.reason)) for video in videos if video.status != "ok"
    )
    if failed:
        table = [{"video": video_id, "reason": reason} for video_id, reason in failed]
        create_table_artifact(table, f"{key}-failed-videos", "Videos that could not be read, and why")


def row_shower(matrix: Matrix) -> Callable[[NightRow], None]:
    """Return what logs each row of a benchmark as it comes, and shows how many of the settings are done."""
    show = progress_artifacts()
    left = {(Path(recipe).stem, setting) for recipe, settings in matrix.recipes.items() for setting in settings}
    n_settings = len(left)

    def show_done() -> None:
        n_done = n_settings - len(left)
        show(f"benchmark {matrix.name}", 100 * n_done / n_settings, f"{n_done} of {n_settings} settings")

    def show_row(row: NightRow) -> None:
        percent = "unknown" if row.metric_percent is None else f"{row.metric_percent:.1f} %"
        log.info("%s: %s", row.name, row.reason or f"{row.metric} {percent}")
        left.discard((row.recipe, row.setting))
        show_done()

    show_done()
    return show_row


def whose_page(store: Store) -> str:
    """Return which run made a page, and where, as Markdown."""
    return (
        f"Made by run [{escaped(str(this_run.name))}]({url_for('flow-run', obj_id=this_run.id)}), in store "
        f"{code(str(store.root.absolute()))}."
    )


def key_of(text: str) -> str:
    """Return the text as a key of a Prefect artifact: lower case, digits and dashes are all that is allowed."""
    return re.sub("[^a-z0-9]+", "-", text.lower())
