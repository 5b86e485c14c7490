"""Commands on a whole store stay fast: each record is read once, and no unneeded library is imported."""

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


def test_a_listing_reads_each_record_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = chain(Store(tmp_path))
    lstat_counts: Counter[str] = Counter()
    lstat = os.lstat
    monkeypatch.setattr(os, "lstat", lambda path, **more: (lstat_counts.update([str(path)]), lstat(path, **more))[1])
    lines = artifact_lines(Store(tmp_path))
    assert sorted(line.id for line in lines) == sorted(ids)
    assert max(lstat_counts[f"{tmp_path}/artifacts/{id}/record.json"] for id in ids) <= 2  # to locate and to open it


def test_a_listing_shows_changes_since_the_last_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, *others = chain(store)
    assert not [line.stale for line in artifact_lines(store) if line.stale]
    remove_folder(store.own(first))
    assert sorted(line.id for line in artifact_lines(store)) == sorted(others)
    publish(store, 0)
    assert len(artifact_lines(store)) == 4


def imported_modules(command: list[str]) -> set[str]:
    """Return the modules that a new process has imported when the command ends."""
    code = "import sys; from cli import main; code = main(sys.argv[1:]); print(*sys.modules, file=sys.stderr); sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code, *command], check=True, capture_output=True, text=True)
    return set(done.stderr.splitlines()[-1].split())


def test_listing_and_sweeping_a_store_import_no_heavy_library(tmp_path: Path) -> None:
    chain(Store(tmp_path))
    heavy = {"h5py", "prefect", "rich.console", "torch", "transformers", "yaml"}
    assert not imported_modules(["cache", "ls", "--store", str(tmp_path)]) & {*heavy, "pyarrow"}
    assert not imported_modules(["cache", "gc", "--store", str(tmp_path)]) & {*heavy, "pydantic"}


def test_a_sweep_removes_empty_pool_folders_only(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number in range(3):
        add_part(tmp_path, number)
    folders = [next(tmp_path.glob(f"pool/*/*/{key(number)}")) for number in range(3)]
    (folders[1] / "foreign.txt").write_text("stays")
    (folders[2].parent / "emptied by a killed sweep").mkdir()
    sweep(store, unnamed=True)
    assert [folder.exists() for folder in folders] == [False, True, False]
    assert [path.name for path in folders[1].iterdir()] == ["foreign.txt"]
    assert not list(tmp_path.glob("pool/*/*/emptied*"))
