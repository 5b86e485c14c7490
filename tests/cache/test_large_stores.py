"""What keeps the commands that look at a whole store quick: a record is looked at once, and no library is loaded for nothing."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from cache.gc import sweep
from cache.store import Store, remove_folder
from reports.artifacts import artifact_lines
from tests.cache.test_gc import add_part, key, publish


def chain(store: Store) -> list[str]:
    ids: list[str] = []
    for number in range(4):
        ids.append(publish(store, number, ids[-1:]))
    return ids


def test_a_listing_reads_each_record_once_however_much_is_made_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = chain(Store(tmp_path))
    looks: Counter[str] = Counter()
    lstat = os.lstat
    monkeypatch.setattr(os, "lstat", lambda path, **more: (looks.update([str(path)]), lstat(path, **more))[1])
    lines = artifact_lines(Store(tmp_path))
    assert sorted(line.id for line in lines) == sorted(ids)
    assert max(looks[f"{tmp_path}/artifacts/{id}/record.json"] for id in ids) <= 2  # where it is, and what is opened


def test_a_listing_sees_what_has_changed_since_the_last_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, *others = chain(store)
    assert not [line.stale for line in artifact_lines(store) if line.stale]
    remove_folder(store.own(first))
    assert sorted(line.id for line in artifact_lines(store)) == sorted(others)
    publish(store, 0)
    assert len(artifact_lines(store)) == 4


def imported(command: list[str]) -> set[str]:
    """The modules that a process of its own has when the command is done."""
    code = "import sys; from cli import main; code = main(sys.argv[1:]); print(*sys.modules, file=sys.stderr); sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code, *command], check=True, capture_output=True, text=True)
    return set(done.stderr.splitlines()[-1].split())


def test_looking_at_a_store_loads_no_library_that_it_does_not_need(tmp_path: Path) -> None:
    chain(Store(tmp_path))
    heavy = {"h5py", "torch", "transformers", "yaml"}
    assert not imported(["cache", "ls", "--store", str(tmp_path)]) & {*heavy, "pyarrow"}
    assert not imported(["cache", "gc", "--store", str(tmp_path)]) & {*heavy, "pydantic"}


def test_a_sweep_removes_the_folders_that_it_empties_and_no_others(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number in range(3):
        add_part(tmp_path, number)
    folders = [next(tmp_path.glob(f"pool/*/*/{key(number)}")) for number in range(3)]
    (folders[1] / "somebodys.txt").write_text("stays")
    (folders[2].parent / "emptied by a killed sweep").mkdir()
    sweep(store, unnamed=True)
    assert [folder.exists() for folder in folders] == [False, True, False]
    assert [path.name for path in folders[1].iterdir()] == ["somebodys.txt"]
    assert not list(tmp_path.glob("pool/*/*/emptied*"))
