"""Exchanged pool files, and an artifact rebuilt during a run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.compute
import pyarrow.parquet

from tests.faults.flips import _check_readers, _readings, _verify
from tests.faults.judging import contents, stage_in_progress
from tests.faults.victims import command, fork, output_tail
from tests.faults.world import SMALL_SHARDS, Trial, run_command
from tests.stages.moment_world import places


def moved_pool_files(trial: Trial) -> None:
    """Exchange files of a finished pool; verify must name one, readers refuse or are unaffected, drop and run restore it."""
    while not trial.is_done:
        shutil.copytree(trial.world.reference, trial.store)
        before = _readings(trial)
        name = trial.rng.choice(sorted(MOVES))
        text = f"{name}: {MOVES[name](trial)}"
        trial.tally.tried += 1
        trial.tally.where[name] += 1
        _check_readers(trial, text, before)
        if not _verify(trial):
            trial.fail("wrong", f"{text}: not seen by verify")
        _verify(trial, "--drop")
        status = trial.start().finish()
        if status:
            trial.fail("lost", f"{text}: the same command ended with status {status}: {output_tail(trial.beside)}")
        stored = contents(trial.store)  # may hold a part under another name, which nothing reads
        if differing := [name for name, digest in trial.world.contents.items() if stored.get(name) != digest]:
            trial.fail("wrong", f"{text}: {differing[:3]} are not as before")
        trial.reset()


def again_beside(trial: Trial) -> None:
    """Rebuild the scores with other logits during a run, killing one of the two at times; then run the same command again.

    All stored content must follow from one of the two sets of logits, never from a mixture.
    """
    changed = _changed_contents(trial)
    while not trial.is_done:
        victim = trial.start()
        status = victim.wait(trial.rng.uniform(0.1, 1.0) * trial.world.seconds)
        other = fork(_with_other_scores(command(_again(trial))), trial.store, trial.beside)
        trial.count_fault(f"a run in {stage_in_progress(trial.store)}" if status is None else "after a run")
        if trial.rng.random() < 0.5:
            if other.wait(trial.rng.uniform(0, trial.world.seconds)) is None:
                other.kill()
        elif other.finish() not in (0, 1):
            trial.fail("wrong", f"--again crashed: {output_tail(trial.beside, 1000)}")
        if status is None and victim.finish() not in (0, 1):
            trial.fail("wrong", f"the run beside --again crashed: {output_tail(trial.beside, 1000)}")
        status = trial.start().finish()
        if status or "Traceback" in output_tail(trial.beside, 10**6):
            trial.fail("lost", f"the same command ended with status {status}: {output_tail(trial.beside)}")
        _check_one_content(trial, trial.world.contents, changed)
        trial.reset()


def _check_one_content(trial: Trial, former: dict[str, str], changed: dict[str, str]) -> None:
    stored = {name: digest for name, digest in contents(trial.store).items() if name in former or name in changed}
    if all(former.get(name) == digest for name, digest in stored.items()):
        return
    if wrong := [name for name, digest in stored.items() if changed.get(name) != digest]:
        trial.fail("wrong", f"of the former scores, or of none: {wrong[:3]}")


def _changed_contents(trial: Trial) -> dict[str, str]:
    """Return the contents of a store that was built with the other logits."""
    store = trial.folder / "changed"
    work = command(run_command(trial.world.folder, store, *trial.world.options))
    if status := fork(_with_other_scores(work), store, store).finish():
        raise RuntimeError(f"the run with other logits ended with {status}: {output_tail(store)}")
    changed = contents(store)
    differing = {name.split("-v")[0] for name, digest in changed.items() if trial.world.contents.get(name) != digest}
    if "answer_questions" not in differing:
        raise RuntimeError("the other logits change no answer, so this world cannot show a mixture")
    return changed


def _again(trial: Trial) -> list[str]:
    data = trial.world.folder
    options = [*places(data, trial.store), *SMALL_SHARDS, *trial.world.options]
    return ["stage", "score_frames", str(data / "full.toml"), *options, "--again"]


def _with_other_scores(work: Callable[[], int]) -> Callable[[], int]:
    """Return `work` in a process whose stage score_frames stores other logits."""

    def changed() -> int:
        write_table = pyarrow.parquet.write_table

        def write(table: pyarrow.Table, *arguments: Any, **options: Any) -> None:
            if "logit_yes" in table.column_names:
                place = table.column_names.index("logit_yes")
                negatives = pyarrow.compute.negate(table["logit_yes"])
                table = table.set_column(place, table.schema.field(place), negatives)
            write_table(table, *arguments, **options)

        pyarrow.parquet.write_table = write
        return work()

    return changed


def _arrays(trial: Trial, space: str) -> list[Path]:
    return sorted((trial.store / "pool").glob(f"{space}*/*/*/*.h5"))


def _two(trial: Trial) -> tuple[Path, Path]:
    space = trial.rng.choice(("sample_frames", "extract_features"))
    a, b = trial.rng.sample(_arrays(trial, space), 2)
    return a, b


def _exchange(a: Path, b: Path) -> str:
    between = a.with_name("between")
    a.rename(between)
    b.rename(a)
    between.rename(b)
    return f"{a} and {b}"


def _exchange_folders(trial: Trial) -> str:
    a, b = _two(trial)
    return _exchange(a.parent, b.parent)


def _exchange_arrays(trial: Trial) -> str:
    return _exchange(*_two(trial))


def _copy_array(trial: Trial) -> str:
    a, b = _two(trial)
    shutil.copyfile(a, b)
    return f"{a} over {b}"


def _copy_array_and_note(trial: Trial) -> str:
    a, b = _two(trial)
    shutil.copyfile(a, b)
    shutil.copyfile(a.with_suffix(".json"), b.with_suffix(".json"))
    return f"{a} over {b}, with its note"


MOVES: dict[str, Callable[[Trial], str]] = {
    "folders exchanged": _exchange_folders,
    "arrays exchanged": _exchange_arrays,
    "an array copied over another": _copy_array,
    "an array and its note copied over others": _copy_array_and_note,
}
