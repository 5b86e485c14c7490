"""The numbers of a report's upper part: measured results beside the paper's, and the gain of each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

from cache.printable import counted
from pipeline.datasets.question import Question
from pipeline.engine.recipe import LOCALIZERS, available, load
from pipeline.metrics.accuracy import AccuracyRow, Answered, Outcome
from pipeline.metrics.comparison import PairedRow, comparison_table, group_rows, holm, power
from pipeline.metrics.coverage import CoverageRow
from pipeline.reasons import Reason
from pipeline.recipes.results import Choice, keyframe_row
from reports.page.runs import ANSWERED_COLUMNS, OTHER_SCORES, SWEPT, EvaluatedSetting, ReportedRun, stored_as
from reports.paper import read_paper
from stages.all import STAGES
from stages.answer_questions import Answers
from stages.evaluate import Metrics, outcomes, reporting
from stages.evaluate_localization import LocalizationMetrics
from stages.list_questions import Questions
from stages.sample_frames import Frames
from stages.select_keyframes import Keyframes

PAPER_SAMPLING = {"frames": 32, "k": 4}
POINTS = 5.0  # the true difference for which power is shown
_NOT_ASKED = Reason("not_asked")
FIRST, LAST = ("random", "uniform"), ("oracle",)  # rows at the top and bottom of the table


@dataclass(frozen=True)
class MeasuredCell:
    """One number of the table of results, in percent, with its 95 % `interval` and the `paper`'s number."""

    percent: float | None
    interval: tuple[float, float] | None = None
    paper: float | None = None
    is_headline: bool = False


@dataclass(frozen=True)
class Gain:
    """The gain of one step of the chain: the paired difference of two settings over the same questions."""

    step: str
    paired: PairedRow
    p_corrected: float | None = None  # with Holm's correction, for cells of a sweep
    groups: Sequence[PairedRow] = ()  # for cells of a sweep

    @property
    def power_percent(self) -> float:
        """Probability that the test detects a true difference of `POINTS`."""
        return 100 * power(self.paired, POINTS)

    def of_group(self, name: str) -> PairedRow | None:
        """Return the row of a group; None if the group has no question."""
        return next((row for row in self.groups if row.name == name), None)


class RunNumbers:
    """The numbers of one run whose questions have options; each table is read once."""

    def __init__(self, run: ReportedRun) -> None:
        self.run = run
        self.questions = Questions(run.store, run.headline.questions)
        self._outcomes: dict[str, list[Outcome]] = {}

    @cached_property
    def question_rows(self) -> Sequence[Question]:
        """The questions, in the order of their file."""
        return self.questions.questions()

    @cached_property
    def settings(self) -> list[EvaluatedSetting]:
        """The settings that answered the headline's questions, in the order of the table."""
        questions = self.run.headline.questions
        settings = [setting for setting in self.run.settings if setting.questions == questions and setting.answers]
        if any(setting.is_swept for setting in settings):
            return settings
        return sorted(settings, key=lambda setting: (_sort_key(setting.row), ANSWERED_COLUMNS.index(_column(setting))))

    def metrics(self, setting: EvaluatedSetting) -> Sequence[AccuracyRow]:
        """Return the rows of a setting's accuracy table."""
        return Metrics(self.run.store, setting.metrics).accuracies()

    def headline(self, setting: EvaluatedSetting) -> AccuracyRow:
        """Return the row of the data set's main metric."""
        return next(row for row in self.metrics(setting) if row.is_headline)

    def coverage(self) -> Sequence[CoverageRow]:
        """Return the numbers of the headline's questions that could and could not be asked, by reason."""
        return Metrics(self.run.store, self.run.headline.metrics).typed_rows("coverage", CoverageRow)

    def outcomes(self, setting: EvaluatedSetting) -> list[Outcome]:
        """Return the outcome of each question, in the order of the questions."""
        assert setting.answers is not None
        if setting.answers not in self._outcomes:
            rows = stored_as(self.run.store, setting.answers, Answers).typed_rows("answers", Answered)
            by_id = {row.question_id: row for row in rows}
            questions = {question.question_id: question for question in self.question_rows}
            in_order = [by_id.get(id) or Answered(id, questions[id].video_id, _NOT_ASKED, None) for id in questions]
            self._outcomes[setting.answers] = outcomes(questions, in_order)
        return self._outcomes[setting.answers]

    def paired(self, a: EvaluatedSetting, b: EvaluatedSetting) -> PairedRow | None:
        """Return the headline row of the comparison of B with A; None if no question has a known answer."""
        return next((row for row in self._paired_rows(a, b) if row.is_headline), None)

    def _paired_rows(self, a: EvaluatedSetting, b: EvaluatedSetting) -> list[PairedRow]:
        known_a = [outcome for outcome in self.outcomes(a) if outcome.answer_index is not None]
        known_b = [outcome for outcome in self.outcomes(b) if outcome.answer_index is not None]
        return comparison_table(known_a, known_b, reporting(self.questions)) if known_a else []

    def table(self) -> tuple[list[str], dict[str, dict[str, MeasuredCell]]]:
        """Return the columns that have a number, and the cells by row and column."""
        published, rows = self._published(), dict[str, dict[str, MeasuredCell]]()
        for setting in self.settings:
            headline, row = self.headline(setting), rows.setdefault(setting.row, {})
            paper = published.get(setting.row, {}).get(setting.column)
            is_headline = setting == self.run.headline
            interval = headline.interval()
            row[setting.column] = MeasuredCell(headline.accuracy_percent, interval, paper, is_headline)
            if setting.localization is not None:
                quality = keyframe_row(LocalizationMetrics(self.run.store, setting.localization))
                row["moment recall"] = MeasuredCell(quality.moment_recall_percent)
                row["hit"] = MeasuredCell(quality.hit_percent)
        answered = [setting.column for setting in self.settings]
        order = dict.fromkeys((*ANSWERED_COLUMNS, *answered, "moment recall", "hit"))
        return [column for column in order if any(column in row for row in rows.values())], rows

    def gains(self) -> list[Gain]:
        """Return the gain of each step of the chain, in the chain's order."""
        cells = {(setting.row, setting.column): setting for setting in self.settings}
        if any(setting.is_swept for setting in self.settings):
            return self._sweep_gains(cells)
        rows = dict.fromkeys(setting.row for setting in self.settings if setting.row not in ("random", *LAST))
        steps = [(f"{a} → {b}", (a, "zero-shot"), (b, "zero-shot")) for a, b in pairwise(rows)]
        last, column = self.run.headline.row, self.run.headline.column
        steps += [
            ("voting → frames read together", (last, "zero-shot, voting"), (last, "zero-shot")),
            ("zero-shot → fine-tuned Answerer", (last, "zero-shot"), (last, "fine-tuned")),
            (f"uniform → {last}, fine-tuned", ("uniform", "fine-tuned"), (last, "fine-tuned")),
            (f"{last} → oracle, an upper bound", (last, column), ("oracle", column)),
        ]
        gains = []
        for step, a, b in steps:
            if a != b and a in cells and b in cells and (paired := self.paired(cells[a], cells[b])) is not None:
                gains.append(Gain(step, paired))
        return gains

    def _sweep_gains(self, cells: Mapping[tuple[str, str], EvaluatedSetting]) -> list[Gain]:
        """Return the gain of each cell of a sweep over uniform frames of the same number and answerer."""
        gains = []
        for cell in cells.values():
            uniform = cells.get((cell.uniform_row, cell.column))
            if cell.is_swept and uniform not in (None, cell) and (rows := self._paired_rows(uniform, cell)):
                headline = next(row for row in rows if row.is_headline)
                gains.append(Gain(f"{uniform.row} → {cell.row}, {cell.column}", headline, groups=group_rows(rows)))
        values = holm([gain.paired.p_value for gain in gains])
        return [replace(gain, p_corrected=p) for gain, p in zip(gains, values, strict=True)]

    def _published(self) -> Mapping[str, Mapping[str, float]]:
        """Return the paper's numbers for this data set, by row and column; none if frames, k or the split differ."""
        config, headline = self.questions.record.config, self.run.headline
        sampling = Frames(self.run.store, headline.frames).record.config
        k = Keyframes(self.run.store, headline.keyframes).record.config["k"] if headline.keyframes else None
        n_frames = sampling["frames"] if sampling["sampling"] == "uniform" else None
        if {"frames": n_frames, "k": k} != PAPER_SAMPLING or config.get("limit") is not None:
            return {}
        dataset = config["dataset"]
        split = load(dataset, STAGES).config_of("list_questions").split if dataset in available() else None
        return published_accuracies(dataset) if split == config["split"] else {}


def published_accuracies(dataset: str) -> dict[str, dict[str, float]]:
    """Return the paper's accuracies on a data set, by row and column of the table of results."""
    accuracies: dict[str, dict[str, float]] = {}
    for table in read_paper().tables.values():
        for place, column in enumerate(table.columns):
            for row in table.rows if (column.dataset, column.figure) == (dataset, "accuracy") else ():
                is_plain = row.published and not (row.settings or row.evaluated or row.tuned_on or row.is_forward)
                if is_plain and row.keyframes and (value := row.published_in(place)) is not None:
                    accuracies.setdefault(Choice(row.keyframes, 1).name, {}).setdefault(row.answered, value)
    return accuracies


def _column(setting: EvaluatedSetting) -> str:
    return setting.column if setting.column in ANSWERED_COLUMNS else ANSWERED_COLUMNS[-1]


def _sort_key(row: str) -> tuple[str, int, str]:
    """Return the sort key of a row: by seed, then plain selectors, Localizers in the order of training, upper bounds."""
    seed, _, name = row.rpartition(": ")
    localizers = [number for number, title in enumerate(LOCALIZERS.values()) if name.startswith(title)]
    if name in FIRST:
        return seed, FIRST.index(name), name
    return seed, 100 if name in LAST else 10 + localizers[0] if localizers else 5, name


def result_sentence(numbers: RunNumbers) -> Sequence[tuple[str, bool]]:
    """Return the result in one sentence, as parts (text, whether to emphasise it)."""
    run, config = numbers.run, numbers.questions.record.config
    headline = numbers.headline(run.headline)
    dataset = config["dataset"] + (f" ({config['split']})" if config["split"] else "")
    if headline.accuracy_percent is None:
        asked_row, *others = numbers.coverage()
        n_questions = sum(row.n_questions for row in (asked_row, *others))
        answered = f"{asked_row.n_questions:,} of {counted(n_questions, 'questions')} were answered"
        return [(f"On {dataset}, {answered}; the right answers are not known, so there is no accuracy.", False)]
    setting = run.headline
    is_sevila = setting.column in ANSWERED_COLUMNS
    answerer = f"the {setting.column.split(',')[0]} Answerer" if is_sevila else setting.column
    verb = "voting over" if setting.column.endswith("voting") else "reading"
    parts = [
        (f"On {dataset}, {answerer}, {verb} {_frames_of(setting.row)}, gives the right answer to ", False),
        (f"{headline.accuracy_percent:.1f} %", True),
        (f" of {counted(headline.n_questions, 'questions')}", False),
    ]
    if (interval := headline.interval()) is not None:
        parts.append((f" (95 % interval {interval[0]:.1f} to {interval[1]:.1f})", False))
    baseline = run.baseline
    if baseline is not None and (paired := numbers.paired(baseline, setting)) is not None:
        parts += _against_uniform(paired)
    return [*parts, (".", False)]


def _frames_of(row: str) -> str:
    _, _, name = row.rpartition(": ")
    if "Localizer" in name or SWEPT.fullmatch(name):
        return f"the keyframes of the {name}"
    if name.startswith(tuple(OTHER_SCORES.values())):
        return f"the keyframes by {name}"
    return f"{'evenly spread' if name == 'uniform' else name} keyframes"


def _against_uniform(paired: PairedRow) -> list[tuple[str, bool]]:
    points, low, high = paired.difference_points, paired.low_points, paired.high_points
    difference = f"{abs(points):.1f} points {'more' if points >= 0 else 'less'} than with evenly spread frames"
    if low is None or high is None:
        return [(f": {difference}", False)]
    verdict = "" if low > 0 or high < 0 else ", not significant"
    return [(": ", False), (difference, True), (f" ({low:+.1f} to {high:+.1f}{verdict})", False)]
