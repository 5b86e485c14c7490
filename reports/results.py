"""The results of a full chain as text: a table of all settings, the pseudo-labels, and the course of each training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import get_args

from cache.printable import counted
from pipeline.inference.visual_prompt_weights import TrainingStep, ValidationFigure
from pipeline.recipes.results import Column, Results, Setting, TrainedWeights, keyframe_row
from pipeline.text_table import NBSP, Table, aligned, or_dash

Cell = tuple[str, Column]


def results_text(results: Results, with_ids: bool = True, table: Table = aligned) -> str:
    """Return the results of a full chain for a terminal: the table, the artifacts of metrics, and the trainings."""
    ids = (
        f"metrics of each setting (`sevila compare A B` tests two of them):\n{_indented(table(metric_ids(results), 3))}"
    )
    lines = learned_lines(results) if with_ids else training_lines(results)
    trainings = ["training:\n" + _indented("\n".join(lines))] if lines else []
    return "\n\n".join([results_table(results, table), *([ids] if with_ids else []), *trainings])


def results_table(results: Results, table: Table = aligned) -> str:
    """Return the table: a row for each choice of keyframes; accuracies with 95 % intervals, and recall of true moments."""
    settings = results.settings_by_cell()
    cells = {cell: _cell(value, settings.get(cell)) for cell, value in results.values.items()}
    return "\n".join([_heading(results), "", settings_table(results.rows(), cells, table)])


def settings_table(rows: Sequence[str], cells: Mapping[Cell, str], table: Table = aligned) -> str:
    """Return a table of texts by row and column, without empty columns."""
    columns = [column for column in get_args(Column) if any(column == other for _, other in cells)]
    lines = [[row, *(cells.get((row, column), "-") for column in columns)] for row in rows]
    return table([["keyframes", *columns], *lines])


def metric_ids(results: Results) -> list[list[str]]:
    """Return the cells of a table, with header, of all settings and the ids of their metrics, in the order of the results."""
    cells = results.settings_by_cell()
    order = [(row, column) for row in results.rows() for column in get_args(Column) if (row, column) in cells]
    return [["keyframes", "answered", "metrics"], *([*cell, str(cells[cell].metrics.id)] for cell in order)]


def learned_lines(results: Results) -> list[str]:
    """Return a line for the pseudo-labels of each round and for each training."""
    labels = [f"pseudo-labels {labels.id}: {'; '.join(labels.text().splitlines())}" for labels in results.labels]
    return [*labels, *training_lines(results)]


def training_lines(results: Results) -> list[str]:
    """Return a line for each training that has a curve."""
    return [line for training in results.trainings if (line := training_line(training))]


def training_line(training: TrainedWeights) -> str:
    """Return the course of one training in a line, or "" if its artifact holds no curve.

    As single steps are noisy, a loss is the mean over the first, or last, tenth of the steps.
    """
    steps = sorted(training.weights.typed_rows("curves", TrainingStep))
    if not steps:
        return ""
    losses = [step.loss for step in steps]
    tenth = max(1, len(losses) // 10)
    first, last = sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
    parts = [f"{training.title}: loss {first:.3f} -> {last:.3f} in {len(losses)} steps"]
    figures: dict[str, list[float]] = {}
    for row in sorted(training.weights.typed_rows("validation", ValidationFigure), key=lambda row: row.step):
        figures.setdefault(row.figure, []).append(row.value)
    parts += [f"{name} on held-out videos {values[0]:.3f} -> {values[-1]:.3f}" for name, values in figures.items()]
    return "; ".join(parts)


def unanswered_text(results: Results) -> str:
    """Return the number of unanswered questions, with differing rows apart ("2; oracle 5"); "" if all are answered.

    Oracle keyframes leave more questions unanswered: those without a sampled frame in a true moment.
    """
    n_by_row = {setting.row: setting.metrics.headline().n_unanswered for setting in results.settings}
    least = min(n_by_row.values())
    others = [f"{row} {n_by_row[row]}" for row in results.rows() if n_by_row[row] > least]
    return "; ".join([str(least), *others]) if least or others else ""


def spread(values: Sequence[float]) -> str:
    """Return the text of mean ± sample standard deviation over seeds (smallest - largest), or of a single value."""
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
    localizations = [setting.localization for setting in results.settings if setting.localization is not None]
    if localizations:
        n_known = keyframe_row(localizations[0]).n_questions
        lines.append(
            "moment recall: percentage of true moments that contain a keyframe; hit: percentage of the "
            f"{n_known} questions with known moments that have such a keyframe."
        )
    return "\n".join(lines)


def _cell(value: float | None, setting: Setting | None) -> str:
    interval = setting.metrics.headline().interval() if setting is not None else None
    span = f"({interval[0]:.1f} - {interval[1]:.1f})".replace(" ", NBSP) if interval is not None else ""
    return " ".join(filter(None, [or_dash(value, "{:.1f}"), span]))


def _indented(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())
