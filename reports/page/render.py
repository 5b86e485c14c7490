"""Render the page of a report: the content of its template from runs, and the HTML."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cache.errors import ComparisonError
from cache.lineage import differences
from cache.printable import counted, printable_value
from pipeline.metrics.accuracy import AccuracyRow
from pipeline.metrics.calibration import expected_calibration_error
from pipeline.metrics.comparison import ALPHA, PairedRow
from pipeline.text_table import duration
from reports.compare import Comparison, compare
from reports.page import figures
from reports.page.curves import calibration_of, keyframes_over_clips, scores_over_clips
from reports.page.facts import cache_savings, costs_of, failures_of, steps_of, trainings_of, what_ran
from reports.page.numbers import POINTS, RunNumbers, result_sentence
from reports.page.runs import EvaluatedSetting, ReportedRun
from stages.evaluate_moments import MomentMetrics, MomentMetricsRow
from stages.list_questions import Questions

HERE = Path(__file__).parent
ASSETS = ("page.html.j2", "style.css", "theme.js", "browser.js")
TYPE_SCOPES = ("group", "type", "pooled")


def page(runs: Sequence[ReportedRun], meta: dict[str, Any], n_coded: int) -> str:
    """Return the HTML; `n_coded` is the number of videos that are shown in their coded aspect ratio."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=printable_value,
    )
    environment.filters |= {"duration": duration, "enumerate": enumerate}
    css, theme_js, browser_js = (Markup((HERE / name).read_text(encoding="utf-8")) for name in ASSETS[1:])
    coded = f" (of {n_coded:,} videos only the coded one is known)" if n_coded else ""
    now = datetime.now(UTC)
    return environment.get_template(ASSETS[0]).render(
        title=" against ".join(run.title for run in runs[::-1]) if runs[1:] else runs[0].title,
        runs=[_run_content(run) for run in runs],
        comparison=compared(*runs) if runs[1:] else None,
        meta=meta,
        css=css,
        theme_js=theme_js,
        browser_js=browser_js,
        policy=_policy([theme_js, browser_js]),
        coded=coded,
        alpha=ALPHA,
        footer=f"Written on {now:%Y-%m-%d at %H:%M} UTC by sevila. The page needs no network and sends nothing.",
    )


@dataclass(frozen=True)
class ComparedRuns:
    """The comparison of run B with run A; `rows` are paired tests by setting."""

    differences: list[str]
    rows: list[tuple[str, PairedRow]]
    notes: list[str]


def compared(a: ReportedRun, b: ReportedRun) -> ComparedRuns:
    """Return the comparison of two runs by setting, or of their headlines if they have no common setting."""
    by_name = {setting.name: setting for setting in b.settings}
    common = [(setting, by_name[setting.name]) for setting in a.settings if setting.name in by_name]
    rows, notes = [], list[str]()
    for setting_a, setting_b in common or [(a.headline, b.headline)]:
        try:
            comparison = _compared(a, setting_a, setting_b)
        except ComparisonError as error:
            notes.append(str(error))
            continue
        name = setting_a.name if common else f"{setting_a.name} → {setting_b.name}"
        rows.append((name, replace(comparison.headline, name=name)))
        if comparison.left_out:
            notes.append(f"Left out: {', '.join(comparison.left_out)}. The examples below are A’s questions.")
    changes = differences(a.store, a.headline.metrics, b.headline.metrics)
    return ComparedRuns(changes, rows, list(dict.fromkeys(notes)))


def _compared(run: ReportedRun, a: EvaluatedSetting, b: EvaluatedSetting) -> Comparison:
    if a.answers is None or b.answers is None:
        raise ComparisonError("There is no paired test for moment queries, which have no options.")
    return compare(run.store, a.answers, b.answers)


def _policy(scripts: Sequence[str]) -> str:
    """Return the content security policy, which allows only the page's two scripts and the data files beside it."""
    hashes = " ".join(f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" for text in scripts)
    allowed = {"script-src": f"'self' file: {hashes}", "style-src": "'unsafe-inline'", "img-src": "data:"}
    denied = dict.fromkeys(("default-src", "base-uri", "form-action"), "'none'")
    return "; ".join(f"{directive} {source}" for directive, source in (denied | allowed).items())


def _run_content(run: ReportedRun) -> dict[str, Any]:
    scores = scores_over_clips(run)
    score_label = "yes, %" if all("Localizer" in name for name in scores) else "score × 100"
    content: dict[str, Any] = {
        "title": run.title,
        "facts": what_ran(run),
        "steps": steps_of(run),
        "failures": failures_of(run),
        "costs": (costs := costs_of(run)),
        "savings": cache_savings(run, costs),
        "training_figures": list(map(figures.training_figure, trainings_of(run))),
        "position_figure": figures.position_figure(scores, keyframes_over_clips(run), score_label),
        "moment_rows": [],
        "columns": [],
        "rows": {},
        "types": {},
        "gains": [],
        "group_names": [],
        "is_swept": any(setting.is_swept for setting in run.settings),
        "calibration_figure": None,
    }
    return content | (_answers_content(run) if run.headline.answers else _moments_content(run))


def _answers_content(run: ReportedRun) -> dict[str, Any]:
    numbers = RunNumbers(run)
    columns, rows = numbers.table()
    shown = [run.headline, *([run.baseline] if run.baseline else [])]
    types = {setting.name: _types(numbers, setting) for setting in shown}
    types = {name: rows_by_type for name, rows_by_type in types.items() if len(rows_by_type) > 1}
    bins = {setting.name: calibration_of(numbers, setting) for setting in shown}
    gains = numbers.gains()
    is_known = numbers.headline(run.headline).accuracy_percent is not None
    return {
        "sentence": result_sentence(numbers),
        "columns": columns if is_known else [],
        "rows": rows,
        "notes": _notes(numbers, rows) if is_known else [],
        "types": types if is_known else {},
        "type_names": list(dict.fromkeys(type for rows_by_type in types.values() for type in rows_by_type)),
        "types_figure": figures.types_figure({name: list(row.values()) for name, row in types.items()}),
        "gains": gains,
        "gains_figure": figures.gains_figure(gains),
        "group_names": list(dict.fromkeys(row.name for gain in gains for row in gain.groups)),
        "points": POINTS,
        "calibration_figure": figures.calibration_figure(bins),
        "calibration_error": expected_calibration_error(bins[run.headline.name]),
    }


def _moments_content(run: ReportedRun) -> dict[str, Any]:
    metrics = MomentMetrics(run.store, run.headline.metrics)
    config, headline = Questions(run.store, run.headline.questions).record.config, metrics.headline()
    dataset = config["dataset"] + (f" ({config['split']})" if config["split"] else "")
    parts = [(f"On {dataset}, the true moments of the queries are not known.", False)]
    if headline.recall_at_one_percent is not None:
        value = (f"{headline.recall_at_one_percent:.1f} %", True)
        parts = [(f"On {dataset}, the first moment retrieved is right (IoU 0.5) for ", False), value]
        parts.append((f" of {headline.n_queries:,} queries.", False))
    rows = [row for row in metrics.typed_rows("moment_metrics", MomentMetricsRow) if row.iou_threshold in (0.5, 0.7)]
    return {"sentence": parts, "moment_rows": rows, "notes": []}


def _types(numbers: RunNumbers, setting: EvaluatedSetting) -> dict[str, AccuracyRow]:
    return {row.name: row for row in numbers.metrics(setting) if row.scope in TYPE_SCOPES}


def _notes(numbers: RunNumbers, rows: dict[str, dict[str, Any]]) -> list[str]:
    asked_row, *other_rows = numbers.coverage()
    n_questions = sum(row.n_questions for row in (asked_row, *other_rows))
    notes = ["Right answers in percent, with 95 % intervals by resampling whole videos."]
    notes[0] += (
        f" {asked_row.n_questions:,} of {counted(n_questions, 'questions')} ({asked_row.questions_percent:.1f} %) could be asked"
    )
    lost = ", ".join(f"{row.n_questions:,} {row.reason.replace('_', ' ')}" for row in other_rows)
    notes[0] += f"; the others count as wrong ({lost})." if other_rows else "."
    if any("moment recall" in cells for cells in rows.values()):
        notes.append(
            "Moment recall: share of true moments that contain a keyframe. Hit: share of questions with such a keyframe."
        )
    if any(cell.paper is not None for cells in rows.values() for cell in cells.values()):
        notes.append("Paper: SeViLA, arXiv 2305.06988, on the same split with 4 of 32 frames.")
    else:
        notes.append("The paper has no number for this data set, split or number of frames.")
    return notes
