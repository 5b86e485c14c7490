"""What a run shows in Prefect's UI besides states: progress artifacts, its log, and a summary page at the end."""

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

from coolname.data import config as random_words
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

PAUSE_SECONDS = 60.0  # before the next progress update after a failed one


def progress_artifacts() -> Show:
    """Return a function that shows the progress of a loop as a progress artifact of the task run, or else the flow run."""
    shown: dict[str, Any] = {}
    process, paused_until = os.getpid(), 0.0

    def show(title: str, percent: float, words: str) -> None:
        nonlocal paused_until
        key = key_of(f"{title}-{str(this_task.id or this_run.id)[-8:]}")
        is_over_at_once = percent >= 100 and key not in shown
        if os.getpid() != process or is_over_at_once or time.monotonic() < paused_until:
            return
        try:
            if key in shown:
                update_progress_artifact(shown[key], percent, f"{title}: {words}")
            else:
                shown[key] = create_progress_artifact(percent, key, f"{title}: {words}")
        except Exception as error:  # an unreachable server must not fail the step
            log.warning("progress is not shown: %s", error)
            paused_until = time.monotonic() + PAUSE_SECONDS

    return show


def run_title(title: str, settings: Sequence[str], seed: int | None) -> str:
    """Return a run's name, such as `nextqa full, select_keyframes.k=8, seed 0`."""
    overrides = [setting for setting in settings if not setting.startswith("chain.kind=")]
    return printable(", ".join([title, *overrides, *([] if seed is None else [f"seed {seed}"])]))


def _is_random_name(name: str) -> bool:
    """Return whether a name is one of Prefect's random two-word names."""
    lists: dict[str, Any] = random_words
    words = {word for entry in lists.values() if entry.get("type") == "words" for word in entry["words"]}
    return any(name[:at] in words and name[at + 1 :] in words for at, sign in enumerate(name) if sign == "-")


def name_run(name: str) -> None:
    """Rename the present flow run, unless the user has named it."""
    if this_run.id is None or not _is_random_name(str(this_run.name)):
        return
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run(UUID(str(this_run.id)), name=name)
    except Exception as error:  # an unreachable server must not fail the run
        log.warning("this run could not be called %r: %s", name, error)


class _RunLogRecord(PrintableRecord):
    def getMessage(self) -> str:
        """Return the message with "[/" escaped: `--watch` parses it as the end of rich markup, and crashes."""
        return super().getMessage().replace("[/", "\\[/")


def _without_traceback(record: logging.LogRecord) -> bool:
    """Remove the traceback of errors a user can fix; drop records of `FailedRun`, which repeat the state's message."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, SevilaError) or (isinstance(error, OSError) and error.errno in OF_THE_MACHINE):
        record.exc_info = record.exc_text = None
    return not isinstance(error, FailedRun)


@contextmanager
def logs_in_run_log(show: Show) -> Iterator[None]:
    """Send the logs of stages, and warnings of all libraries, to the run's log in Prefect as well.

    This includes records forwarded from child processes; progress records among them go to `show`.
    """
    run_id, process, seen = this_run.id, os.getpid(), "is_in_run_log"

    def is_new(record: logging.LogRecord) -> bool:
        """Return whether a record is new, and set its run ids: threads may lack a run context, and two loggers may pass it."""
        if record.name.split(".")[0] == "prefect" or hasattr(record, seen) or run_id is None:
            return False
        setattr(record, seen, True)
        # The root run's id even within a subflow run of a setting: users and `--watch` follow the root run.
        step = TaskRunContext.get()
        record.flow_run_id, record.task_run_id = run_id, step.task_run.id if step else None
        if record.process != process and hasattr(record, "progress"):
            show(*record.progress)
        return True

    logging.setLogRecordFactory(_RunLogRecord)
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
        logging.getLogger(name).addFilter(_without_traceback)  # permanently: Prefect logs failures after this block
    handler = APILogHandler()
    handler.addFilter(is_new)
    # The root logger, and libraries whose loggers do not propagate to it.
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
    """Create the run's summary as a Markdown artifact, and a table of unreadable videos, if any.

    Args:
        key: key of the artifact; runs with the same key form one history in Prefect.
        report: path of the run's HTML report, and a few of its questions in Markdown.
    """
    path, strips = report or (None, "")
    # The path as well as the link: browsers block links from http pages to files, and Prefect's newer pages omit them.
    plots = "Plots, and every question with its frames"
    link = f"{plots}: the [report]({path.as_uri()}); if nothing opens, open {code(str(path))}." if path else ""
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
    """Return a function that logs each row of a benchmark, and shows how many of the settings are done."""
    show = progress_artifacts()
    remaining = {(Path(recipe).stem, setting) for recipe, settings in matrix.recipes.items() for setting in settings}
    n_settings = len(remaining)

    def show_done() -> None:
        n_done = n_settings - len(remaining)
        show(f"benchmark {matrix.name}", 100 * n_done / n_settings, f"{n_done} of {n_settings} settings")

    def show_row(row: NightRow) -> None:
        percent = "unknown" if row.metric_percent is None else f"{row.metric_percent:.1f} %"
        log.info("%s: %s", row.name, row.reason or f"{row.metric} {percent}")
        remaining.discard((row.recipe, row.setting))
        show_done()

    show_done()
    return show_row


def whose_page(store: Store) -> str:
    """Return a Markdown sentence that names the run and the store of a page."""
    return (
        f"Made by run [{escaped(str(this_run.name))}]({url_for('flow-run', obj_id=this_run.id)}), in store "
        f"{code(str(store.root.absolute()))}."
    )


def key_of(text: str) -> str:
    """Return the text as a valid key of a Prefect artifact: lower-case letters, digits and dashes."""
    return re.sub("[^a-z0-9]+", "-", text.lower())
