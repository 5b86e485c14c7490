"""What `sevila runs` tells of named runs: which there are, what each holds and found, and how two differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from cache.errors import ComparisonError, CorruptArtifactError
from cache.names import NamedRun, Pin, every_name, named_run, pinning, recipe_differences
from cache.printable import printable, printable_lines
from cache.store import Store
from pipeline.engine.recipe import CHAIN, Recipe
from pipeline.metrics.comparison import PairedRow, format_comparison_table
from pipeline.metrics.resampling import BY_VIDEO, Resampling
from pipeline.text_table import aligned
from reports.compare import compare
from stages.evaluate import Metrics
from stages.evaluate_moments import MomentMetrics


@contextmanager
def pinned(
    store: Store, name: str, recipe: Recipe, seeds: list[int], replace: bool = False
) -> Iterator[Callable[..., None]]:
    """Yield what pins each step of a run (see `cache.names.Pins.add`): under its name, or for some days if that is empty."""
    sections = {CHAIN: recipe.chain, **recipe.configs}
    settings = {section: config.model_dump(mode="json") for section, config in sections.items()}
    with pinning(store, name, recipe.name, settings, seeds, replace) as pins:
        yield pins.add


@dataclass(frozen=True)
class RunLine:
    """One line of the listing; `n_missing` of its artifacts are not in the store (not made yet, or removed)."""

    name: str
    recipe: str
    seeds: list[int]
    started: str
    finished: str
    status: str
    n_artifacts: int
    n_missing: int
    headline: str
    problem: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)


def run_lines(store: Store) -> list[RunLine]:
    """Return every named run, the last begun at the end; one whose file is damaged has a problem."""
    lines = []
    for name in every_name(store):
        try:
            run = named_run(store, name)
        except CorruptArtifactError as error:
            lines.append(RunLine(name, "", [], "", "", "damaged", 0, 0, "", str(error)))
            continue
        missing = sum(not store.exists(pin.id) for pin in run.artifacts)
        figures = (run.recipe, run.seeds, run.started, run.finished, run.status, len(run.artifacts), missing)
        lines.append(RunLine(name, *figures, headline(store, run)))
    return sorted(lines, key=lambda line: line.started)


def run_listing(store: Store) -> str:
    """Return the named runs as a table."""
    cells = [["name", "recipe", "started", "status", "artifacts", "headline"]]
    lines = run_lines(store)
    for line in lines:
        seeds = f" (seeds {' '.join(map(str, line.seeds))})" if line.seeds else ""
        count = f"{line.n_artifacts}" + (f", {line.n_missing} missing" if line.n_missing else "")
        cells.append([line.name, line.recipe + seeds, line.started[:19], line.status, count, line.headline])
    damaged = [line.problem for line in lines if line.problem]
    return (
        "\n".join([aligned(cells), *map(printable, damaged)])
        if lines
        else f"no named runs in {store.root}: `sevila run ... --name NAME`"
    )


def run_description(store: Store, name: str) -> str:
    """Return everything a name stands for: when and what was run, and its artifacts."""
    run, known = named_run(store, name), dict[str, str]()
    ended = f", ended {run.finished[:19]}" if run.finished else ""
    seeds = f", seeds {' '.join(map(str, run.seeds))}" if run.seeds else ""
    lines = [f"{run.name}: recipe {run.recipe}{seeds}, begun {run.started[:19]}{ended}, {run.status}"]
    lines += [f"  {section}.{key} = {value!r}" for section, keys in run.settings.items() for key, value in keys.items()]
    for pin in run.artifacts:
        stale = store.why_stale(pin.id, known) if store.exists(pin.id) else ""
        state = f"stale: {stale}" if stale else "" if store.exists(pin.id) else "not in the store"
        notes = "; ".join(filter(None, (pin.setting, state)))
        lines.append(f"{pin.id:42} {notes}".rstrip())
    return printable_lines([*lines, *filter(None, [headline(store, run)])])


def headline(store: Store, run: NamedRun) -> str:
    """Return the one number of the run's last evaluation, with its setting; "" where there is none."""
    numbers = {"evaluate": _accuracy, "evaluate_moments": _recall}
    for pin in reversed(run.artifacts):
        if pin.stage in numbers and store.exists(pin.id):
            try:
                number = numbers[pin.stage](store, pin.id)
            except CorruptArtifactError as error:
                return f"unreadable: {error}"
            notes = "; ".join(filter(None, (pin.setting, "stale" if store.why_stale(pin.id) else "")))
            return f"{number} ({notes})" if notes else number
    return ""


def _accuracy(store: Store, id: str) -> str:
    row = next(row for row in Metrics(store, id).rows("metrics") if row["is_headline"])
    return "no known answers" if row["accuracy_percent"] is None else f"{row['accuracy_percent']:.1f} % right"


def _recall(store: Store, id: str) -> str:
    rows = MomentMetrics(store, id).rows("moment_metrics")
    row = next(row for row in rows if (row["window_length"], row["iou_threshold"]) == ("full", 0.5))
    return "no known moments" if row["n_queries"] == 0 else f"R1@0.5 {row['recall_at_one_percent']:.1f} %"


@dataclass(frozen=True)
class RunComparison:
    """Two named runs: the settings that differ, and for each way to answer that both have, the test on the headline."""

    a: str
    b: str
    differences: list[str]
    only_a: list[str]
    only_b: list[str]
    rows: list[PairedRow]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)


def compare_runs(store: Store, a: str, b: str, resampling: Resampling = BY_VIDEO) -> RunComparison:
    """Compare two named runs, answers of the same setting with each other.

    Raises:
        StoreError: there is no such name.
        ComparisonError: no setting has answers in both.
    """
    run_a, run_b = named_run(store, a), named_run(store, b)
    of_a, of_b = _answers(store, run_a), _answers(store, run_b)
    shared = [setting for setting in of_a if setting in of_b]
    if len(of_a) == len(of_b) == 1:  # however each calls it
        shared = list(of_a)
        of_b = dict(zip(shared, of_b.values(), strict=True))
    if not shared:
        raise ComparisonError(
            f"runs {a!r} and {b!r} have no answers of the same setting: {a} has {_some(of_a)}; {b} has {_some(of_b)}"
        )
    rows = []
    for setting in shared:
        found = compare(store, of_a[setting], of_b[setting], resampling)
        row = next(row for row in found.rows if row.is_headline)
        rows.append(replace(row, scope="overall", name=setting or row.name))
    only_a, only_b = [key for key in of_a if key not in of_b], [key for key in of_b if key not in of_a]
    return RunComparison(a, b, recipe_differences(run_a, run_b), only_a, only_b, rows)


def run_comparison_text(found: RunComparison) -> str:
    """Return the comparison for a terminal."""
    lines = [
        f"A: {found.a}",
        f"B: {found.b}",
        *(f"  {line}" for line in found.differences or ["the same settings"]),
        "",
    ]
    lines += [*format_comparison_table(found.rows, BY_VIDEO.by).split("\n"), ""]
    lines += [
        f"only in {name}: {', '.join(only)}"
        for name, only in ((found.a, found.only_a), (found.b, found.only_b))
        if only
    ]
    return printable_lines(
        [*lines, "`sevila compare` on two of their answers (`sevila runs show`) says which questions changed"]
    )


def _answers(store: Store, run: NamedRun) -> dict[str, str]:
    pins: list[Pin] = [pin for pin in run.artifacts if pin.stage == "answer_questions" and store.exists(pin.id)]
    return {pin.setting: pin.id for pin in pins}


def _some(answers: dict[str, str]) -> str:
    return ", ".join(setting or "the recipe's own" for setting in answers) or "none in the store"
