"""Named runs: the listing, the description of one, its artifacts, and the headline number of its evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cache.errors import CorruptArtifactError, StoreError
from cache.id_prefixes import newest
from cache.names import NamedRun, every_name, named_run, pinning
from cache.printable import printable, printable_lines
from cache.store import Store
from pipeline.engine.recipe import CHAIN, Recipe
from pipeline.engine.stage import Artifact
from pipeline.text_table import aligned
from reports.stale import OfKind, read_as
from stages.all import STAGES
from stages.evaluate import Metrics
from stages.evaluate_moments import MomentMetrics


@contextmanager
def pinned(
    store: Store, name: str, recipe: Recipe, seeds: list[int], replace: bool = False
) -> Iterator[Callable[..., None]]:
    """Yield the function that pins each step (`cache.names.Pins.add`): under a run's name, or for some days without one."""
    sections = {CHAIN: recipe.chain, **recipe.configs}
    settings = {section: config.model_dump(mode="json") for section, config in sections.items()}
    with pinning(store, name, recipe.name, settings, seeds, replace) as pins:
        yield pins.add


@dataclass(frozen=True)
class RunLine:
    """One line of the listing; `n_missing` of its artifacts are not in the store (not built yet, or removed)."""

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


def newest_of_run(store: Store, name: str, kind: type[OfKind], stages: str) -> OfKind:
    """Return the artifact of a kind of a named run, or the newest artifact with this id prefix.

    Raises:
        StoreError: There is none, it is of other stages than `stages`, or the run has several in different settings.
    """
    if name not in every_name(store):
        return read_as(store, newest(store, name)[0].id, kind, stages)
    ids = ids_by_setting(store, named_run(store, name), kind)
    if len(set(ids.values())) != 1:
        listed = ", ".join(f"{id} ({setting or 'the recipe as it is'})" for setting, id in ids.items())
        problem = f"has {kind.kind} in several settings; give the id of one: {listed}"
        raise StoreError(f"the run {name!r} {problem if ids else f'has no {kind.kind} in the store'}")
    return read_as(store, next(iter(ids.values())), kind, stages)


def ids_by_setting(store: Store, run: NamedRun, kind: type[Artifact]) -> dict[str, str]:
    """Return the ids of a run's artifacts of a kind by setting, as far as the store holds them."""
    stages = {name for name, stage in STAGES.items() if issubclass(stage.output, kind)}
    return {pin.setting: pin.id for pin in run.artifacts if pin.stage in stages and store.exists(pin.id)}


def run_lines(store: Store) -> list[RunLine]:
    """Return every named run in order of start; a run whose file is damaged has a problem."""
    lines = []
    for name in every_name(store):
        try:
            run = named_run(store, name)
        except CorruptArtifactError as error:
            lines.append(RunLine(name, "", [], "", "", "damaged", 0, 0, "", str(error)))
            continue
        missing = sum(not store.exists(pin.id) for pin in run.artifacts)
        figures = (run.recipe, run.seeds, run.started, run.finished, run.status, len(run.artifacts), missing)
        lines.append(RunLine(name, *figures, headline_number(store, run)))
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
    """Return the description of a named run: its times, its settings and its artifacts."""
    run, stale_reasons = named_run(store, name), dict[str, str]()  # cache of why_stale
    finished = f", ended {run.finished[:19]}" if run.finished else ""
    seeds = f", seeds {' '.join(map(str, run.seeds))}" if run.seeds else ""
    lines = [f"{run.name}: recipe {run.recipe}{seeds}, begun {run.started[:19]}{finished}, {run.status}"]
    lines += [f"  {section}.{key} = {value!r}" for section, keys in run.settings.items() for key, value in keys.items()]
    for pin in run.artifacts:
        stale = store.why_stale(pin.id, stale_reasons) if store.exists(pin.id) else ""
        state = f"stale: {stale}" if stale else "" if store.exists(pin.id) else "not in the store"
        notes = "; ".join(filter(None, (pin.setting, state)))
        lines.append(f"{pin.id:42} {notes}".rstrip())
    return printable_lines([*lines, *filter(None, [headline_number(store, run)])])


def headline_number(store: Store, run: NamedRun) -> str:
    """Return the main number of the run's last evaluation, with its setting; "" if there is none."""
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
    percent = Metrics(store, id).headline().accuracy_percent
    return "no known answers" if percent is None else f"{percent:.1f} % right"


def _recall(store: Store, id: str) -> str:
    row = MomentMetrics(store, id).headline()
    return "no known moments" if row.recall_at_one_percent is None else f"R1@0.5 {row.recall_at_one_percent:.1f} %"
