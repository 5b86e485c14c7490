"""A full chain's results over several seeds as a Markdown report: means and spreads, claims, and the artifacts behind them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from statistics import mean

from cache.printable import counted, printable
from pipeline.engine.hardware import processor_name
from pipeline.engine.recipe import Recipe
from pipeline.engine.stage import Artifact
from pipeline.recipes.results import Column, Results
from pipeline.text_table import code, escaped, markdown
from reports.estimates import Estimate, paired_difference, span, tally
from reports.results import Cell, learned_lines, metric_ids, settings_table, spread, unanswered_text


@dataclass(frozen=True)
class SeedRun:
    """One run of the chain; `wall_seconds` is the time of this call, which reuses stored artifacts."""

    seed: int
    results: Results
    artifacts: Sequence[Artifact]
    wall_seconds: float


def seed_report(recipe: Recipe, runs: Sequence[SeedRun], command: str) -> str:
    """Return the report of one recipe's runs; `command` is the command line that wrote it."""
    seeds = ", ".join(str(run.seed) for run in runs)
    values = [run.results.values for run in runs]
    rows = _rows(runs)
    unit = "In percent"
    if len(runs) > 1:
        unit += ": mean ± sample standard deviation (smallest - largest) over seeds"
    parts = [
        f"# Results of recipe {code(recipe.name)}, seed{'s' if len(runs) > 1 else ''} {seeds}",
        _provenance(runs, command),
        f"## All settings\n\n{_questions_text(runs)} {unit}.",
        settings_table(rows, {cell: spread(numbers) for cell, numbers in _by_cell(values).items()}, markdown),
        _seed_tables(rows, runs),
        f"## The paper's claims\n\n{HOW_TO_READ_CLAIMS}",
        "\n".join(f"- {claim}" for claim in claims(runs)),
        f"## By type of question\n\nZero-shot accuracy in percent, mean over seeds.\n\n{_types(rows, runs)}",
        f"## Pseudo-labels and trainings\n\n{_learned(runs)}",
        f"## Artifacts\n\n{_by_seed(runs, [markdown(metric_ids(run.results), n_left=3) for run in runs])}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


HOW_TO_READ_CLAIMS = (
    "Counted from the numbers above; a difference is the mean over seeds (smallest to largest), in points. A claim holds "
    "significantly in a seed whose paired 95 % interval, by resampling the videos of the evaluated split, lies above 0."
)


def claims(runs: Sequence[SeedRun]) -> list[str]:
    """Return a sentence for each ordering of the paper: in how many seeds it holds here."""
    sentences = []
    for column in ("zero-shot", "fine-tuned", "moment recall"):
        quantity = {"moment recall": "True moments with a keyframe inside"}.get(
            column, f"{column.capitalize()} accuracy"
        )
        for worse, better in pairwise(_ordered(runs, column)):
            sentences.append(_claim(runs, quantity, f"{better} above {worse}", (worse, column), (better, column)))
    for row in _rows(runs):
        sentences.append(
            _claim(
                runs, "Zero-shot", f"{row}, concatenation above voting", (row, "zero-shot, voting"), (row, "zero-shot")
            )
        )
        sentences.append(
            _claim(runs, "Accuracy", f"{row}, fine-tuned above zero-shot", (row, "zero-shot"), (row, "fine-tuned"))
        )
    return [claim for claim in sentences if claim]


def _rows(runs: Sequence[SeedRun]) -> list[str]:
    return list(dict.fromkeys(row for run in runs for row in run.results.rows()))


def _ordered(runs: Sequence[SeedRun], column: Column) -> list[str]:
    """Return the rows with a number in this column, in the paper's order from worst to best."""
    rows = [row for row in _rows(runs) if row != "random"]  # the paper orders uniform, not random, frames
    return [row for row in rows if all((row, column) in run.results.values for run in runs)]


def _claim(runs: Sequence[SeedRun], quantity: str, order: str, worse: Cell, better: Cell) -> str:
    values = [run.results.values for run in runs]
    if not all(worse in seed_values and better in seed_values for seed_values in values):
        return ""
    settings = [run.results.settings_by_cell() for run in runs]
    are_accuracies = all(worse in by_cell and better in by_cell for by_cell in settings)
    if are_accuracies:
        differences = [paired_difference(by_cell[worse].metrics, by_cell[better].metrics) for by_cell in settings]
    else:
        differences = [Estimate(seed_values[better] - seed_values[worse]) for seed_values in values]
    n_held, n_significant = tally(differences)
    verdict = "holds" if n_held == len(runs) else "does not hold" if n_held == 0 else "holds in some seeds only"
    seeds = f"{n_held} of {counted(len(runs), 'seeds')}"
    significant = f", significantly in {n_significant}" if are_accuracies else ""
    return f"{quantity}: {order}: **{verdict}**, in {seeds}{significant}; {span(differences)}"


def _by_cell(values: Iterable[Mapping[Cell, float]]) -> dict[Cell, list[float]]:
    numbers: dict[Cell, list[float]] = {}
    for seed_values in values:
        for cell, value in seed_values.items():
            numbers.setdefault(cell, []).append(value)
    return numbers


def _seed_tables(rows: Sequence[str], runs: Sequence[SeedRun]) -> str:
    if len(runs) == 1:
        return ""
    tables = [
        settings_table(rows, {cell: f"{value:.1f}" for cell, value in run.results.values.items()}, markdown)
        for run in runs
    ]
    return f"### Each seed\n\n{_by_seed(runs, tables)}"


def _by_seed(runs: Sequence[SeedRun], texts: Sequence[str]) -> str:
    return "\n\n".join(f"Seed {run.seed}:\n\n{text}" for run, text in zip(runs, texts, strict=True) if text)


def _questions_text(runs: Sequence[SeedRun]) -> str:
    config = runs[0].results.questions.record.config
    rows = [run.results.settings[0].metrics.headline() for run in runs]
    split = f", split {code(config['split'])}" if config["split"] else ""
    n_questions = _by_seed_or_common(row.n_questions for row in rows)
    message = f"{code(config['dataset'])}{split}: {n_questions} questions with a known answer"
    unanswered = [unanswered_text(run.results) for run in runs]
    if any(unanswered):
        n_unanswered = _by_seed_or_common(text or "0" for text in unanswered)
        message += f", {n_unanswered} of them unanswered, which counts as wrong"
    return f"{message}."


def _by_seed_or_common(counts: Iterable[int | str]) -> str:
    """Return a count per seed, or a single one if they are equal."""
    texts = [str(count) for count in counts]
    return texts[0] if len(set(texts)) == 1 else ", ".join(texts)


def _types(rows: Sequence[str], runs: Sequence[SeedRun]) -> str:
    accuracies: dict[tuple[str, str], list[float]] = {}
    for run in runs:
        for (row, column), setting in run.results.settings_by_cell().items():
            if column not in ("zero-shot", "zero-shot, voting"):
                continue
            name = row if column == "zero-shot" else f"{row}, voting"
            for line in setting.metrics.accuracies():
                if line.scope == "type" and line.accuracy_percent is not None:
                    accuracies.setdefault((name, line.name), []).append(line.accuracy_percent)
    types = sorted({type for _, type in accuracies})
    if not types:
        return "The questions have no types."
    names = [name for row in rows for name in (row, f"{row}, voting")]
    lines = [
        [name, *(f"{mean(accuracies[name, type]):.1f}" if (name, type) in accuracies else "-" for type in types)]
        for name in names
        if any(name == other for other, _ in accuracies)
    ]
    return markdown([["keyframes", *types], *lines])


def _learned(runs: Sequence[SeedRun]) -> str:
    texts = ["\n".join(f"- {escaped(line)}" for line in learned_lines(run.results)) for run in runs]
    return _by_seed(runs, texts) or "Nothing was trained."


def _provenance(runs: Sequence[SeedRun], command: str) -> str:
    """Return the command, date, machine, libraries and code revision of a report, and the seconds of its stages."""
    records = {artifact.record.id: artifact.record for run in runs for artifact in run.artifacts}.values()
    versions = sorted({f"{name} {version}" for record in records for name, version in record.libraries.items()})
    devices = sorted({record.device for record in records})
    revisions = sorted({record.git_revision for record in records if record.git_revision})
    lines = [f"- written on {datetime.now(UTC):%Y-%m-%d}"]
    for run in runs:
        own_records = {artifact.record.id: artifact.record for artifact in run.artifacts}.values()
        seconds = sum(record.seconds for record in own_records)
        lines.append(
            f"- seed {run.seed}: {seconds:.0f} s of stages, by their records; {run.wall_seconds:.0f} s in this call, "
            "which reuses stored artifacts"
        )
    lines += [f"- on {processor_name()}, {os.cpu_count()} cores; stages ran on {escaped(', '.join(devices))}"]
    lines += [f"- {escaped(', '.join(versions))}"]
    lines += [f"- code: {escaped(', '.join(revisions))}"] if revisions else []
    return f"```bash\n{printable(command)}\n```\n\n" + "\n".join(lines)
