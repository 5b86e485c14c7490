"""Comparison of named runs: a test for each common setting, and the changed questions if there is only one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cache.errors import ComparisonError
from cache.id_prefixes import find
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
    """Two runs: their differences in configuration, and the headline test of each setting that both have answers of."""

    a: str
    b: str
    bootstrap: str  # unit of resampling: video or question
    differences: list[str]
    only_a: list[str]
    only_b: list[str]
    rows: list[PairedRow]


def compare_runs(
    store: Store, a: str, b: str, resampling: Resampling = BY_VIDEO
) -> tuple[RunComparison, list[Comparison]]:
    """Compare the answers of two runs setting by setting; also return the comparison of each pair of answers.

    Args:
        a: Name of a run, or the id of answers or metrics, or an unambiguous prefix of it; names take precedence over ids.
        b: Likewise.

    Raises:
        StoreError: The argument is no run's name, and matches no artifact or several.
        ComparisonError: No setting has answers in both runs; or as `compare`.
    """
    run_a, run_b = _named(store, a), _named(store, b)
    answers_a, answers_b = _answers(store, a, run_a), _answers(store, b, run_b)
    # Single settings are compared whatever their names; an id is compared with every setting of a run.
    if len(answers_b) == 1 and (len(answers_a) == 1 or run_b is None):
        answers_b = dict.fromkeys(answers_a, *answers_b.values())
    elif run_a is None:
        answers_a = dict.fromkeys(answers_b, *answers_a.values())
    shared = [setting for setting in answers_a if setting in answers_b]
    if not shared:
        raise ComparisonError(
            f"{a!r} and {b!r} have no common setting: A has {_settings_text(answers_a)}; B has {_settings_text(answers_b)}"
        )
    pairs = [compare(store, answers_a[setting], answers_b[setting], resampling) for setting in shared]
    comparison = RunComparison(
        a,
        b,
        bootstrap=resampling.by,
        differences=recipe_differences(run_a, run_b) if run_a and run_b else pairs[0].differences,
        only_a=[setting for setting in answers_a if setting not in answers_b],
        only_b=[setting for setting in answers_b if setting not in answers_a],
        rows=[
            replace(pair.headline, scope="overall", name=setting or pair.headline.name)
            for setting, pair in zip(shared, pairs, strict=True)
        ],
    )
    return comparison, pairs


def is_run(store: Store, name: str) -> bool:
    """Whether a run of this store, or of a lower one, has this name."""
    return name in every_name(store)


def run_comparison_text(
    comparison: RunComparison, pairs: list[Comparison], n_changed: int, table: Table = aligned
) -> str:
    """Return the comparison for a terminal; of a single pair of answers with the changed questions."""
    lines = [f"A: {comparison.a}", f"B: {comparison.b}"]
    lines += [f"  {line}" for line in comparison.differences or ["the same settings"]]
    if len(pairs) == 1:
        return f"{printable_lines(lines)}\n\n{comparison_text(pairs[0], n_changed, table)}"
    lines += ["", *format_comparison_table(comparison.rows, comparison.bootstrap, table).split("\n"), ""]
    for name, only in ((comparison.a, comparison.only_a), (comparison.b, comparison.only_b)):
        lines += [f"only in {name}: {', '.join(only)}"] if only else []
    lines.append("to list changed questions, run `sevila compare` with ids of answers (`sevila runs show` lists them)")
    return printable_lines(lines)


def _named(store: Store, name: str) -> NamedRun | None:
    return named_run(store, name) if is_run(store, name) else None


def _answers(store: Store, prefix: str, run: NamedRun | None) -> dict[str, str]:
    """Return the ids of answers by setting: all of a run, or the one with this prefix."""
    return {"": find(store, prefix)} if run is None else ids_by_setting(store, run, Answers)


def _settings_text(answers: dict[str, str]) -> str:
    return ", ".join(setting or "the recipe's own" for setting in answers) or "none in the store"
