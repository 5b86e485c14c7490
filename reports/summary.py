"""The summary of a finished chain: the artifact of every step, failures with their reasons, and the accuracy."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from cache.printable import counted, cut_in_the_middle, printable
from pipeline.datasets.question import Rejected
from pipeline.engine.stage import Artifact
from pipeline.recipes.results import Results, TrainedWeights
from pipeline.text_table import Markup, Table, aligned, code, escaped, markdown
from reports.answer_table import answers_in_words
from reports.results import learned_lines, metric_ids, results_table, results_text, training_line
from stages.answer_questions import Answers
from stages.evaluate import Metrics
from stages.evaluate_localization import LocalizationMetrics
from stages.evaluate_moments import MomentMetrics
from stages.label_frames import PseudoLabels
from stages.list_questions import Questions
from stages.sample_frames import Frames

FAILURES_SHOWN = 10
ANSWERS_SHOWN = 3
SETTINGS_SHOWN = 3
MAX_CHARACTERS, MAX_NAME_CHARACTERS = 400, 120  # of one answer or failure, and of the name of its video


def summary(
    artifacts: Sequence[Artifact], results: Artifact | Results, with_ids: bool = True, table: Table = aligned
) -> str:
    """Return the text printed after a run; `results` is the return value of its chain, `with_ids` lists every artifact."""
    ids = [f"  {artifact.record.stage:21} {artifact.id}" for artifact in artifacts]
    parts = ["artifacts:", *ids] if with_ids else []
    for artifact in artifacts:
        heading, lines = _failures(artifact)
        parts += ["", f"{heading}:", *(f"  {line}" for line in lines)] if lines else []
        if isinstance(results, Results):
            continue  # one table covers dozens of answers and metrics
        if isinstance(artifact, Answers) and (lines := _first_answers(artifact)):
            parts += ["", f"first answers (all: `sevila answers {artifact.id}`):", *(f"  {line}" for line in lines)]
        if isinstance(artifact, LocalizationMetrics):
            parts += ["", artifact.text(table)]
        if isinstance(artifact, (Metrics, MomentMetrics)):
            parts += ["", artifact.text(table), "", f"metrics: {artifact.path / 'metrics.json'}"]
    if isinstance(results, Results):
        parts += ["", results_text(results, with_ids, table)]
    return "\n".join(parts if with_ids else parts[1:])


def summary_content(
    artifacts: Sequence[Artifact], settings: Sequence[str], results: Artifact | Results
) -> dict[str, Any]:
    """Return every step with its artifact, and the chain's results, as JSON values; `settings` as in `summary_markdown`."""
    steps = [
        {"stage": artifact.record.stage, "which": setting, "id": artifact.id, "failed": dict(artifact.record.dropped)}
        for artifact, setting in zip(artifacts, settings, strict=True)
    ]
    return {"steps": steps, "results": _results_content(results)}


def _results_content(results: Artifact | Results) -> Any:
    if not isinstance(results, Results):
        return json.loads(results.checked_file("metrics.json").read_text())
    return [
        {
            "keyframes": setting.row,
            "answered": setting.column,
            "accuracy_percent": results.values.get((setting.row, setting.column)),
            "metrics": setting.metrics.id,
        }
        for setting in results.settings
    ]


def summary_markdown(
    steps: Sequence[Artifact], settings: Sequence[str], results: Artifact | Results | None = None, examples: str = ""
) -> str:
    """Return the summary as Markdown without a title.

    Args:
        steps: The artifacts of the steps, in their order.
        settings: The name of the setting of each of `steps`.
        results: The return value of the chain; None if a single stage was run, whose artifacts are then the results.
        examples: Markdown to insert below the figures.
    """
    artifacts = {artifact.record.id: artifact for artifact in steps}.values()
    settings_of = _settings_by_artifact(steps, settings)
    if isinstance(results, Results):
        parts = _results(results)
    else:  # a forward chain, or one stage in all its occurrences
        metrics_first = sorted(artifacts, key=lambda artifact: not isinstance(artifact, (Metrics, MomentMetrics)))
        parts = [text for artifact in metrics_first for text in _figures(artifact, settings_of[artifact.record.id])]
    parts += [examples] if examples else []
    failures = [f"{escaped(heading)}:\n\n{_code(lines)}" for heading, lines in map(_failures, artifacts) if lines]
    parts += ["## Failures", *failures] if failures else []
    parts += ["## All steps", _steps(list(artifacts), settings_of), "## Next commands", _next(list(artifacts), results)]
    return "\n\n".join(parts)


def _results(results: Results) -> list[str]:
    lines = learned_lines(results)
    return [
        "## Metrics",
        results_table(results, markdown),
        *(["## Training", "\n".join(f"- {escaped(line)}" for line in lines)] if lines else []),
        "## Metrics of each setting",
        markdown(metric_ids(results), n_left=3),
    ]


def _figures(artifact: Artifact, setting: str) -> list[str]:
    """Return the figures of one artifact as paragraphs; none for most stages."""
    parts: list[str] = []
    if isinstance(artifact, (Metrics, MomentMetrics, LocalizationMetrics)):
        title = "Keyframes and true moments" if isinstance(artifact, LocalizationMetrics) else "Metrics"
        parts = [title, artifact.text(markdown)]
    elif isinstance(artifact, Answers) and (lines := _first_answers(artifact)):
        parts = ["First answers", _code(lines)]
    elif isinstance(artifact, PseudoLabels):
        parts = ["Pseudo-labels", "\n".join(f"- {escaped(line)}" for line in artifact.text().splitlines())]
    elif "curves" in artifact.tables and (line := training_line(TrainedWeights("Training", artifact))):
        parts = ["Training", escaped(line)]
    heading = [f"## {title}{f': {escaped(setting)}' if setting else ''}" for title in parts[:1]]
    return [*heading, *parts[1:], code(str(artifact.id))] if parts else []


def _settings_by_artifact(steps: Sequence[Artifact], settings: Sequence[str]) -> dict[str, str]:
    """Return the settings of each artifact as text; an artifact may have several."""
    settings_of: dict[str, dict[str, None]] = {}  # a dict as an ordered set
    for artifact, setting in zip(steps, settings, strict=True):
        settings_of.setdefault(artifact.record.id, {}).update({setting: None} if setting else {})
    texts = {}
    for id, names in settings_of.items():
        more = [f"{len(names) - SETTINGS_SHOWN} more"] if len(names) > SETTINGS_SHOWN else []
        texts[id] = "; ".join([*list(names)[:SETTINGS_SHOWN], *more])
    return texts


def _steps(artifacts: Sequence[Artifact], settings_of: Mapping[str, str]) -> str:
    lines = []
    for record in [artifact.record for artifact in artifacts]:
        counts = [escaped(f"{count} {name.replace('_', ' ')}") for name, count in list(record.rows.items())[:1]]
        counts += [f"**{count} {escaped(reason)}**" for reason, count in record.dropped.items()]
        finished = record.finished[:16].replace("T", " ")
        lines.append([code(record.id), settings_of[record.id], Markup(", ".join(counts)), finished])
    return markdown([["artifact", "setting", "content", "finished (UTC)"], *lines], n_left=4)


def _next(artifacts: Sequence[Artifact], results: Artifact | Results | None) -> str:
    """Return commands for a closer look, ready to paste."""
    lines = [f"export SEVILA_STORE={artifacts[0].store.root.absolute()}"]
    if isinstance(results, Results) and len(results.settings) > 1:
        a, b = results.settings[0].metrics.id, results.settings[-1].metrics.id
        lines.append(f"sevila compare {a} {b}   # tests the difference of any two settings")
    answers = [artifact.id for artifact in artifacts if isinstance(artifact, Answers)]
    lines += (
        [f"sevila answers {answers[-1]} > answers.csv   # all questions with the texts of answers"] if answers else []
    )
    lines.append(f"sevila cache show {artifacts[-1].id}   # config, inputs, files and first rows of any artifact")
    return _code(lines, "bash")


def _code(lines: Sequence[str], language: str = "") -> str:
    """Return lines as a Markdown code block, so that texts of data sets are not read as Markdown."""
    fence = "`" * max(3, *(1 + line.count("`") for line in lines))
    return "\n".join([fence + language, *lines, fence])


def _first_answers(answers: Answers) -> list[str]:
    answered = (row for row in answers_in_words(answers.store, answers.record.id) if not row.reason)
    return [_line(f"{row.question_id}: {row.question} -> {row.answer}") for row in islice(answered, ANSWERS_SHOWN)]


def _failures(artifact: Artifact) -> tuple[str, list[str]]:
    """Return a heading with the number of failed rows, and lines with the first of them and their reasons; no lines without."""
    heading, lines = "", []
    if isinstance(artifact, Questions):
        lines = [f"{row.file} line {row.line}: {row.reason}" for row in artifact.typed_rows("rejected", Rejected)]
        heading = f"{counted(len(lines), 'annotation rows')} rejected"
    if isinstance(artifact, Frames):
        videos = artifact.videos()
        failed = [video for video in videos if video.status != "ok"]
        lines = [f"{cut_in_the_middle(video.video_id, MAX_NAME_CHARACTERS)}: {video.reason}" for video in failed]
        reasons = Counter(video.reason.code for video in failed)
        counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        heading = f"{len(lines):,} of {counted(len(videos), 'videos')} failed ({counts})"
    more = [f"... and {len(lines) - FAILURES_SHOWN} more"] if len(lines) > FAILURES_SHOWN else []
    return printable(heading), [*map(_line, lines[:FAILURES_SHOWN]), *more]


def _line(text: str) -> str:
    return cut_in_the_middle(printable(text), MAX_CHARACTERS)
