"""The results of a full chain for people: one table of every setting, the pseudo-labels, and the course of each training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import get_args

from cache.printable import counted
from pipeline.inference.visual_prompt_weights import TrainingStep, ValidationFigure
from pipeline.metrics.accuracy import AccuracyRow
from pipeline.recipes.results import Column, Results, Setting, TrainedWeights, keyframe_row
from pipeline.text_table import NBSP, Table, aligned, or_dash

Cell = tuple[str, Column]


def results_text(results: Results, with_ids: bool = True, table: Table = aligned) -> str:
    """Return everything that a full chain found, for a terminal: the table, the artifacts behind it, and the trainings."""
    ids = (
        f"metrics of each setting (`sevila compare A B` tests two of them):\n{_indented(table(metric_ids(results), 3))}"
    )
    lines = learned_lines(results) if with_ids else training_lines(results)
    trainings = ["learned:\n" + _indented("\n".join(lines))] if lines else []
    return "\n\n".join([results_table(results, table), *([ids] if with_ids else []), *trainings])


def results_table(results: Results, table: Table = aligned) -> str:
    """Return the table: a row for each choice of keyframes; accuracies with their 95 % intervals, and recall of true moments."""
    settings = results.settings_by_cell()
    cells = {cell: _cell(value, settings.get(cell)) for cell, value in results.values.items()}
    return "\n".join([_heading(results), "", settings_table(results.rows(), cells, table)])


def settings_table(rows: Sequence[str], cells: Mapping[Cell, str], table: Table = aligned) -> str:
    """Return texts by row and column as a table of all columns that have any."""
    columns = [column for column in get_args(Column) if any(column == other for _, other in cells)]
    lines = [[row, *(cells.get((row, column), "-") for column in columns)] for row in rows]
    return table([["keyframes", *columns], *lines])


def metric_ids(results: Results) -> list[list[str]]:
    """Return the cells of a table of every setting and its artifact of metrics, under a head, in the order of the results."""
    cells = results.settings_by_cell()
    order = [(row, column) for row in results.rows() for column in get_args(Column) if (row, column) in cells]
    return [["keyframes", "answered", "metrics"], *([*cell, str(cells[cell].metrics.id)] for cell in order)]


def learned_lines(results: Results) -> list[str]:
    """Return a line for each round's pseudo-labels and for each training."""
    labels = [f"pseudo-labels {labels.id}: {'; '.join(labels.text().splitlines())}" for labels in results.labels]
    return [*labels, *training_lines(results)]


def training_lines(results: Results) -> list[str]:
    """Return the course of each training that has a curve, a line each."""
    return [line for training in results.trainings if (line := training_line(training))]


def training_line(training: TrainedWeights) -> str:
    """Return the course of one training in a line, or "" where its artifact holds no curve.

    Single steps are noisy: a loss is the mean of the first, or last, tenth of them.
    """
    steps = sorted(training.weights.typed_rows("curves", TrainingStep))
    if not steps:
        return ""
    losses = [step.loss for step in steps]
    tenth = max(1, len(losses) // 10)
    first, last = sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
    parts = [f"{training.what}: loss {first:.3f} -> {last:.3f} in {len(losses)} steps"]
    figures: dict[str, list[float]] = {}
    for row in sorted(training.weights.typed_rows("validation", ValidationFigure), key=lambda row: row.step):
        figures.setdefault(row.figure, []).append(row.value)
    parts += [f"{name} on held-out videos {values[0]:.3f} -> {values[-1]:.3f}" for name, values in figures.items()]
    return "; ".join(parts)


def unanswered_text(results: Results) -> str:
    """Return how many questions have no answer: one number, or several by row ("2; oracle 5"); "" where all have one.

    Oracle keyframes leave questions without an answer that others do not: those with no sampled frame in a true moment.
    """
    of_row = {setting.row: setting.metrics.headline().n_unanswered for setting in results.settings}
    least = min(of_row.values())
    others = [f"{row} {of_row[row]}" for row in results.rows() if of_row[row] > least]
    return "; ".join([str(least), *others]) if least or others else ""


def headline_interval(row: AccuracyRow) -> tuple[float, float] | None:
    """Return the 95 % interval by resampling, or Wilson's where too few videos support that."""
    for low, high in (
        (row.bootstrap_low_percent, row.bootstrap_high_percent),
        (row.wilson_low_percent, row.wilson_high_percent),
    ):
        if low is not None and high is not None:
            return low, high
    return None


def spread(values: Sequence[float]) -> str:
    """Return mean and sample standard deviation over seeds, with the smallest and the largest value; one value as it is."""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{mean(values):.1f} ± {stdev(values):.1f} ({min(values):.1f} - {max(values):.1f})"


def _heading(results: Results) -> str:
    config = results.questions.record.config
    split = f", split {config['split']}" if config["split"] else ""
    row = results.settings[0].metrics.headline()
    unanswered = f" ({text} unanswered, which counts as wrong)" if (text := unanswered_text(results)) else ""
    lines = [
        f"{config['dataset']}{split}: {counted(row.n_questions, 'questions')}{unanswered}; "
        "accuracy in percent with its 95 % interval."
    ]
    known = [setting.localization for setting in results.settings if setting.localization is not None]
    if known:
        n_known = keyframe_row(known[0]).n_questions
        lines.append(
            f"moment recall: of the true moments, those with a keyframe inside; hit: of the {n_known} questions with known "
            "moments, those with such a keyframe; in percent."
        )
    return "\n".join(lines)


def _cell(value: float | None, setting: Setting | None) -> str:
    interval = headline_interval(setting.metrics.headline()) if setting is not None else None
    span = f"({interval[0]:.1f} - {interval[1]:.1f})".replace(" ", NBSP) if interval is not None else ""
    return " ".join(filter(None, [or_dash(value, "{:.1f}"), span]))


def _indented(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())
