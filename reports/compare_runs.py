"""The comparison of named runs: each setting that both answered in, and question by question where that is one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cache.errors import ComparisonError
from cache.matching import find
from cache.names import NamedRun, every_name, named_run, recipe_differences
from cache.printable import printable_lines
from cache.store import Store
from pipeline.metrics.comparison import PairedRow, format_comparison_table
from pipeline.metrics.resampling import BY_VIDEO, Resampling
from pipeline.text_table import Table, aligned
from reports.compare import Comparison, compare, comparison_text
from reports.named_runs import ids_by_setting
from stages.answer_questions import Answers


@dataclass(frozen=True)
class RunComparison:
    """Two runs: what was set differently, and for each setting that both have answers of, the test on the headline."""

    a: str
    b: str
    bootstrap: str  # what is resampled: video or question
    differences: list[str]
    only_a: list[str]
    only_b: list[str]
    rows: list[PairedRow]


def compare_runs(
    store: Store, a: str, b: str, resampling: Resampling = BY_VIDEO
) -> tuple[RunComparison, list[Comparison]]:
    """Compare two runs, answers of the same setting with each other; also return the comparison of each such pair.

    Args:
        a: name of a run, or the id of answers or metrics, or an unambiguous beginning of one; a name goes before an id.
        b: likewise.

    Raises:
        StoreError: no run has the name, and no artifact, or several, begin so.
        ComparisonError: no setting has answers in both; or as `compare`.
    """
    run_a, run_b = _named(store, a), _named(store, b)
    of_a, of_b = _answers(store, a, run_a), _answers(store, b, run_b)
    if len(of_b) == 1 and (len(of_a) == 1 or run_b is None):  # however each calls it; an id with each setting of a run
        of_b = dict.fromkeys(of_a, *of_b.values())
    elif run_a is None:
        of_a = dict.fromkeys(of_b, *of_a.values())
    shared = [setting for setting in of_a if setting in of_b]
    if not shared:
        raise ComparisonError(
            f"{a!r} and {b!r} have no answers of the same setting: {a} has {_listed(of_a)}; {b} has {_listed(of_b)}"
        )
    pairs = [compare(store, of_a[setting], of_b[setting], resampling) for setting in shared]
    comparison = RunComparison(
        a,
        b,
        resampling.by,
        differences=recipe_differences(run_a, run_b) if run_a and run_b else pairs[0].differences,
        only_a=[setting for setting in of_a if setting not in of_b],
        only_b=[setting for setting in of_b if setting not in of_a],
        rows=[
            replace(pair.headline, scope="overall", name=setting or pair.headline.name)
            for setting, pair in zip(shared, pairs, strict=True)
        ],
    )
    return comparison, pairs


def is_run(store: Store, name: str) -> bool:
    """Whether a run of this store, or of one below it, has the name."""
    return name in every_name(store)


def run_comparison_text(
    comparison: RunComparison, pairs: list[Comparison], n_changed: int, table: Table = aligned
) -> str:
    """Return the comparison for a terminal: question by question where the runs answered in one setting."""
    lines = [f"A: {comparison.a}", f"B: {comparison.b}"]
    lines += [f"  {line}" for line in comparison.differences or ["the same settings"]]
    if len(pairs) == 1:
        return f"{printable_lines(lines)}\n\n{comparison_text(pairs[0], n_changed, table)}"
    lines += ["", *format_comparison_table(comparison.rows, comparison.bootstrap, table).split("\n"), ""]
    for name, only in ((comparison.a, comparison.only_a), (comparison.b, comparison.only_b)):
        lines += [f"only in {name}: {', '.join(only)}"] if only else []
    hint = "`sevila compare` of the ids of two of their answers (`sevila runs show`) says which questions changed"
    return printable_lines([*lines, hint])


def _named(store: Store, name: str) -> NamedRun | None:
    return named_run(store, name) if is_run(store, name) else None


def _answers(store: Store, given: str, run: NamedRun | None) -> dict[str, str]:
    """Return the ids of answers by the setting they are of: all of a run, or the one given."""
    return {"": find(store, given)} if run is None else ids_by_setting(store, run, Answers)


def _listed(answers: dict[str, str]) -> str:
    return ", ".join(setting or "the recipe's own" for setting in answers) or "none in the store"
