"""By which of a Localizer's scores frames are ranked: three rules, for every Localizer, paired, over seeds.

The official code ranks by the raw logit of yes, the paper writes the probability of yes; both, and yes against no, are
`select_keyframes.rank_by`. The first is the default, with which released checkpoints were trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean
from typing import Any, NamedTuple, get_args

import numpy as np

from cache.printable import printable
from pipeline.engine.joined import typed_rows_of_all
from pipeline.engine.recipe import LOCALIZERS
from pipeline.metrics.accuracy import Answered
from pipeline.metrics.localization_metrics import keyframe_quality
from pipeline.metrics.resampling import BY_VIDEO, percentile_interval, resampled_ratios
from pipeline.selection.keyframes import ChosenFrames, RankBy
from pipeline.text_table import markdown
from reports.paper import PaperRow
from reports.paper_figures import Estimate, distinct, figure, span, tally
from reports.reproduce import Reproduction, RowRun, Subject
from reports.reproduce_text import paired_difference
from reports.results import spread
from stages.list_questions import Questions
from stages.sample_frames import Frames
from stages.select_keyframes import Keyframes

RULES: dict[RankBy, str] = {
    "logit_yes": "raw logit of yes (official code)",
    "probability_yes": "probability of yes (paper)",
    "yes_versus_no": "yes against no",
}
OFFICIAL: RankBy = get_args(RankBy)[0]
BOUNDS = ("uniform", "oracle")  # that no rule changes: below and above every Localizer
FIGURES = ("accuracy", "moment recall")

WhoByRule = tuple[str, str]  # who chooses, and by which rule; "" for who looks at no score


@dataclass(frozen=True)
class SeedRanking:
    """One seed's rows."""

    seed: int | None
    rows: Mapping[WhoByRule, RowRun]


def rank_seeds(reproduction: Reproduction, subjects: Sequence[Subject]) -> Iterator[SeedRanking]:
    """Yield each subject's rows as they are done."""
    for subject in subjects:
        rows = {cell: reproduction.measure(_row(*cell), subject) for cell in _cells()}
        yield SeedRanking(subject.seed, rows)


def ranking_content(seeds: Sequence[SeedRanking]) -> list[dict[str, Any]]:
    """Return every row of every seed as JSON values: the figures in percent with their intervals, or why there are none."""
    return [
        {"seed": seed.seed, "keyframes": who, "rank_by": rule, "problem": run.problem}
        | {name: vars(estimate) if (estimate := figure(name, run)) else None for name in FIGURES}
        for seed in seeds
        for (who, rule), run in seed.rows.items()
    ]


def ranking_text(seeds: Sequence[SeedRanking], command: str) -> str:
    """Return the page: numbers, the paper's orders under each rule, each rule against the official one, what it changes."""
    problems = sorted({run.problem for seed in seeds for run in seed.rows.values() if run.problem})
    known = [seed for seed in seeds if all(run.is_measured for (_, rule), run in seed.rows.items() if rule)]
    listed = "\n".join(f"- {problem}" for problem in problems)
    if not known:
        return f"Nothing could be measured:\n\n{listed}\n"
    parts = [
        f"# The ranking rule, over {len(known)} seed{'s' if len(known) > 1 else ''}\n\n```bash\n{printable(command)}\n```",
        f"Seeds {', '.join(map(_seed_name, known))}; zero-shot answers. In percent: mean ± sample standard deviation "
        "(smallest - largest) over seeds; seeds that give the same are one.",
        _numbers(known),
        "## The paper's orders under each rule\n\nSeeds in which the order holds / in which the paired 95 % interval, by "
        "resampling videos, lies above 0.",
        _orders(known),
        "## Each rule against the official code's\n\nIn points; seeds in which it is higher, surely higher, surely lower.",
        _against_official(known),
        "## What another rule changes\n\nOf all questions, in percent, mean over seeds: those with other keyframes than by the "
        "official rule, and those with another answer.",
        _changed(known),
        f"## Each seed\n\n{_each_seed(known)}",
    ]
    parts += [f"## Without numbers\n\n{listed}"] if problems else []
    return "\n\n".join(parts) + "\n"


def _measured_cells(seeds: Sequence[SeedRanking]) -> list[WhoByRule]:
    """Return the rows that every seed has: without true moments there is no oracle."""
    return [cell for cell in _cells() if all(seed.rows[cell].is_measured for seed in seeds)]


def _figures(seeds: Sequence[SeedRanking]) -> list[str]:
    return [name for name in FIGURES if figure(name, seeds[0].rows[next(iter(LOCALIZERS)), OFFICIAL]) is not None]


def _cells() -> list[WhoByRule]:
    of_localizers = [(name, rule) for rule in RULES for name in LOCALIZERS]
    return [(BOUNDS[0], ""), *of_localizers, (BOUNDS[1], "")]


def _row(who: str, rule: str) -> PaperRow:
    settings = (f"select_keyframes.rank_by={rule}",) if rule else ()
    return PaperRow(name=f"{_name(who)}{f', {RULES[rule]}' if rule else ''}", keyframes=who, settings=settings)  # type: ignore[index]


def _name(who: str) -> str:
    return LOCALIZERS.get(who, who)


def _value(run: RowRun, name: str) -> float:
    estimate = figure(name, run)
    return float("nan") if estimate is None else estimate.value


def _numbers(seeds: Sequence[SeedRanking]) -> str:
    lines = [["keyframes", "ranked by", *_figures(seeds)]]
    for who, rule in _measured_cells(seeds):
        runs = distinct((seed.rows[who, rule],) for seed in seeds)
        values = [[_value(run, name) for (run,) in runs] for name in _figures(seeds)]
        lines.append([_name(who), RULES.get(rule, "-"), *map(spread, values)])  # type: ignore[call-overload]
    return markdown(lines, n_left=2)


def _orders(seeds: Sequence[SeedRanking]) -> str:
    lines = [["order", "of", *RULES.values()]]
    measured = {who for who, _ in _measured_cells(seeds)}
    for worse, better in pairwise(who for who in (BOUNDS[0], *LOCALIZERS, BOUNDS[1]) if who in measured):
        for name in _figures(seeds):
            cells = []
            for rule in RULES:
                pairs = distinct((seed.rows[_cell(worse, rule)], seed.rows[_cell(better, rule)]) for seed in seeds)
                tests = [_difference(name, *pair) for pair in pairs]
                counts = tally(tests)
                cells.append(f"{counts.n_above} / {counts.n_surely_above} of {len(pairs)}")
            lines.append([f"{_name(better)} above {_name(worse)}", name, *cells])
    return markdown(lines, n_left=2)


def _cell(who: str, rule: str) -> WhoByRule:
    return who, "" if who in BOUNDS else rule


def _against_official(seeds: Sequence[SeedRanking]) -> str:
    lines = [["keyframes", "ranked by", "of", "difference", "higher", "surely higher", "surely lower"]]
    for who in LOCALIZERS:
        for rule in [rule for rule in RULES if rule != OFFICIAL]:
            for name in _figures(seeds):
                pairs = distinct((seed.rows[who, OFFICIAL], seed.rows[who, rule]) for seed in seeds)
                tests = [_difference(name, *pair) for pair in pairs]
                lines.append([_name(who), RULES[rule], name, span(tests), *map(str, tally(tests))])
    return markdown(lines, n_left=3)


def _changed(seeds: Sequence[SeedRanking]) -> str:
    lines = [["keyframes", "ranked by", "other keyframes", "another answer"]]
    for who in LOCALIZERS:
        for rule in [rule for rule in RULES if rule != OFFICIAL]:
            pairs = distinct((seed.rows[who, OFFICIAL], seed.rows[who, rule]) for seed in seeds)
            shares = [
                [_share_changed(stage, *pair) for pair in pairs] for stage in ("select_keyframes", "answer_questions")
            ]
            lines.append([_name(who), RULES[rule], *(f"{mean(of_stage):.1f}" for of_stage in shares)])
    return markdown(lines, n_left=2)


def _each_seed(seeds: Sequence[SeedRanking]) -> str:
    cells = _measured_cells(seeds)
    lines = [["seed", "of", *(", ".join(filter(None, cell)) for cell in cells)]]
    for seed in seeds:
        for name in _figures(seeds):
            lines.append([_seed_name(seed), name, *(f"{_value(seed.rows[cell], name):.1f}" for cell in cells)])
    return markdown(lines, n_left=2)


def _seed_name(of: SeedRanking) -> str:
    return "as in the recipe" if of.seed is None else str(of.seed)


def _difference(name: str, a: RowRun, b: RowRun) -> Estimate:
    """Return the figure of `b` minus that of `a`, over the same questions, with its interval by resampling videos."""
    if name == "accuracy":
        return paired_difference(a, b)
    of_a, of_b = _recalls(a), _recalls(b)
    ids = [id for id in of_a if id in of_b]
    differences = np.array([100 * (of_b[id].recall - of_a[id].recall) for id in ids]).reshape(-1, 1)
    videos = BY_VIDEO.clusters([of_a[id].video_id for id in ids])
    ratios = resampled_ratios(differences, np.ones_like(differences), videos, BY_VIDEO.resamples, BY_VIDEO.seed)
    return Estimate(float(differences.mean()) if ids else 0.0, *(percentile_interval(ratios[:, 0]) or ()))


class _Recall(NamedTuple):
    """Of a question's true moments the share with a keyframe inside; 0 where it has no keyframes."""

    video_id: str
    recall: float


def _recalls(run: RowRun) -> dict[str, _Recall]:
    keyframes, (questions, frames) = _keyframes(run), _questions_and_frames(run)
    true, clips = questions.true_moments(), frames.clips_of(questions)
    recalls = {}
    for row in typed_rows_of_all(keyframes, "keyframes", questions, ChosenFrames):
        if row.question_id in true:
            clip = clips.get((row.video_id, row.clip_id))
            quality = (
                keyframe_quality(row.positions, clip["seconds"], true[row.question_id]) if clip is not None else None
            )
            recalls[row.question_id] = _Recall(row.video_id, quality.moment_recall if quality else 0.0)
    return recalls


def _keyframes(run: RowRun) -> Keyframes:
    assert run.answers is not None
    return Keyframes(run.answers.store, run.answers.record.inputs["keyframes"])


def _questions_and_frames(run: RowRun) -> tuple[Questions, Frames]:
    keyframes = _keyframes(run)
    inputs = keyframes.record.inputs
    return Questions(keyframes.store, inputs["questions"]), Frames(keyframes.store, inputs["frames"])


def _share_changed(stage: str, a: RowRun, b: RowRun) -> float:
    of_a, of_b = map(_positions if stage == "select_keyframes" else _predictions, (a, b))
    return 100 * mean(of_a[id] != of_b[id] for id in of_a)


def _positions(run: RowRun) -> dict[str, object]:
    questions, _ = _questions_and_frames(run)
    rows = typed_rows_of_all(_keyframes(run), "keyframes", questions, ChosenFrames)
    return {row.question_id: tuple(row.positions) for row in rows}


def _predictions(run: RowRun) -> dict[str, object]:
    assert run.answers is not None
    return {row.question_id: row.prediction for row in run.answers.typed_rows("answers", Answered)}
