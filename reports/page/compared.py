"""Two runs in one report: what was set differently, and a paired test of each setting that both have."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cache.errors import ComparisonError
from cache.lineage import differences
from pipeline.metrics.comparison import PairedRow
from reports.compare import Comparison, compare
from reports.page.runs import EvaluatedSetting, ReportedRun


@dataclass(frozen=True)
class ComparedRuns:
    """How run B differs from run A; `rows` are paired tests by setting."""

    differences: list[str]
    rows: list[tuple[str, PairedRow]]
    notes: list[str]


def compared(a: ReportedRun, b: ReportedRun) -> ComparedRuns:
    """Return the comparison of two runs: setting by setting, or of their headlines where no setting is in both."""
    of_b = {setting.name: setting for setting in b.settings}
    pairs = [(each, of_b[each.name]) for each in a.settings if each.name in of_b] or [(a.headline, b.headline)]
    rows, notes = [], list[str]()
    for of_a, other in pairs:
        try:
            comparison = _compared(a, of_a, other)
        except ComparisonError as error:
            notes.append(str(error))
            continue
        name = of_a.name if of_a.name == other.name else f"{of_a.name} → {other.name}"
        rows.append((name, replace(comparison.headline, name=name)))
        notes += _left_out(comparison)
    changes = differences(a.store, a.headline.metrics, b.headline.metrics)
    return ComparedRuns(changes, rows, list(dict.fromkeys(notes)))


def _compared(run: ReportedRun, a: EvaluatedSetting, b: EvaluatedSetting) -> Comparison:
    if a.answers is None or b.answers is None:
        raise ComparisonError("Queries for moments have no options, so that no paired test applies to them.")
    return compare(run.store, a.answers, b.answers)


def _left_out(comparison: Comparison) -> list[str]:
    counts = {
        "only A was asked": comparison.n_only_a,
        "only B was asked": comparison.n_only_b,
        "with other options, video or right option in B": comparison.n_differing,
        "without a known answer": comparison.n_unlabelled,
    }
    parts = [f"{count:,} {what}" for what, count in counts.items() if count]
    return [f"Left out: {', '.join(parts)}. The examples below are A’s questions."] if parts else []
