"""Pool parts record whose frames they hold: a moved, copied or swapped part is an error, never wrong data."""

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from cache.notes import read_note, write_note
from tests.stages.runs import files, sevila
from tests.stages.test_drop import verify

OTHER_SCORES = ("--set", "score_frames.instruction=information_needed")


def keys(store: Path, stage: str) -> list[Path]:
    """The folders of keys that hold a part, in the space of a stage."""
    return sorted(path.parent for path in store.glob(f"pool/{stage}-*/*/*/*.h5"))


def swap(a: Path, b: Path) -> None:
    a.rename(a.with_name("between"))
    b.rename(a)
    a.with_name("between").rename(b)


def part(folder: Path, suffix: str) -> Path:
    return next(folder.glob(f"*{suffix}"))


def swap_keys(store: Path) -> list[Path]:
    a, b, *_ = keys(store, "extract_features")
    swap(a, b)
    return [a, b]


def copy_over(store: Path, suffixes: tuple[str, ...]) -> list[Path]:
    a, b, *_ = keys(store, "extract_features")
    for suffix in suffixes:
        shutil.copy(part(a, suffix), part(b, suffix))
    return [b]


def swap_prefixes(store: Path) -> list[Path]:
    folders = keys(store, "extract_features")
    swap(folders[0].parent, folders[-1].parent)
    return [folders[0].parent, folders[-1].parent]


def copy_from_another_space(store: Path) -> list[Path]:
    space = keys(store, "extract_features")[0].parents[1]
    other = space.with_name("extract_features-v2-00000000000000000000")
    for path in shutil.copytree(space, other).rglob("*"):
        if path.suffix == ".json":  # as if written by another encoder
            write_note(path, read_note(path) | {"space": other.name})
        elif path.suffix == ".h5":
            with h5py.File(path, "a") as file:
                file.attrs["space"] = np.bytes_(other.name)
    swap(space, other)
    return [space]


MOVES: dict[str, Callable[[Path], list[Path]]] = {
    "two folders of keys renamed into each other": swap_keys,
    "two folders above renamed into each other": swap_prefixes,
    "a part copied over another with its note": lambda store: copy_over(store, (".h5", ".json")),
    "only the array copied": lambda store: copy_over(store, (".h5",)),
    "the space of another encoder": copy_from_another_space,
}


@pytest.mark.parametrize("move", list(MOVES))
def test_moved_parts_are_an_error_that_names_the_file_and_are_rebuilt_in_place(
    move: str, store: Path, demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(store)
    moved = MOVES[move](store)
    assert sevila("run", demo, store, *OTHER_SCORES) == 1
    error = capsys.readouterr().err
    assert str(store / "pool") in error and "--drop" in error
    assert "expected those of" in error or "gone from the pool" in error
    assert verify(store) == 1
    output = capsys.readouterr().out
    assert all(str(folder) in output for folder in moved)
    others = store / "pool" / "extract_features-v2-00000000000000000000"
    shutil.rmtree(others, ignore_errors=True)
    assert verify(store, "--drop") == 0
    assert sevila("run", demo, store) == 0 and verify(store) == 0
    assert {id: files(store)[id] for id in before} == before
