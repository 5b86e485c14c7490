"""Links in a store never lead outside it: they are not read, written, or followed when deleting."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from cache.errors import StoreError
from cache.files import published
from cache.in_use import OWN_NAMES
from cache.pool import Pool
from cache.store import Store, remove_folder
from cli import main
from tests.small_world import SMALL
from tests.stages.runs import sevila


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder outside the store with the names of a store's files and folders."""
    folder = tmp_path / "outside"
    for place in ("", "Do", "Do/Document", "ab", "snapshots", "progress"):
        (folder / place).mkdir(parents=True, exist_ok=True)
        for name in ("record.json", "thesis.h5", "thesis.json", "left.1.part", "left.lock", "000000001.json"):
            (folder / place / name).write_text("mine")
    return folder


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("place", sorted(OWN_NAMES))
def test_a_link_in_a_stores_root_is_refused_by_every_command(
    place: str, store: Path, demo: Path, outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(outside)
    shutil.rmtree(store / place, ignore_errors=True)
    (store / place).unlink(missing_ok=True)
    (store / place).symlink_to(outside)
    for command in (["cache", "ls"], ["cache", "gc", "--delete", "--unnamed"], ["cache", "verify", "--all"]):
        assert main([*command, "--store", f"{store}"]) == 1
        assert f"{store / place}: is a link to {outside}" in capsys.readouterr().err
    assert sevila("run", demo, store) == 1
    assert content(outside) == before


@pytest.mark.parametrize(
    "place",
    [
        "pool/evil",
        "pool/evil/Do",
        "pool/evil/Do/Document",
        "partial/evil",
        "aside/evil",
        "locks/evil",
        "names/evil",
        "recent/evil",
    ],
)
def test_housekeeping_skips_links(place: str, store: Path, outside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = content(outside)
    (store / place).parent.mkdir(parents=True, exist_ok=True)
    (store / place).symlink_to(outside)
    assert main(["cache", "verify", "--all", "--store", f"{store}"]) == 1
    assert f"{store / place}: is a link to {outside}" in capsys.readouterr().out
    assert main(["cache", "gc", "--delete", "--unnamed", "--older-than", "0", "--store", f"{store}"]) == 0
    assert main(["cache", "du", "--store", f"{store}"]) == 0
    assert content(outside) == before and (store / place).is_symlink()


@pytest.mark.parametrize("place", ["", "progress", "progress/snapshots", "videos", "progress/00000.json"])
def test_unfinished_work_that_holds_a_link_is_refused(
    place: str, store: Path, demo: Path, outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    id = next(id for id in Store(store) if id.startswith("sample_frames"))
    (store / "artifacts" / id).rename(store / "partial" / id)
    (store / "partial" / id / "record.json").unlink()
    before, link = content(outside), store / "partial" / id / place
    if link.is_dir():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.symlink_to(outside)
    assert sevila("run", demo, store) == 1
    assert f"{link}: is a link to {outside}" in capsys.readouterr().err
    assert content(outside) == before


@pytest.mark.parametrize("place", ["videos", "progress", "record.json", "progress/plan.json"])
def test_an_artifact_that_holds_a_link_is_neither_read_nor_removed_through_it(
    place: str, store: Path, outside: Path
) -> None:
    id = next(id for id in Store(store) if id.startswith("sample_frames"))
    before, link = content(outside), store / "artifacts" / id / place
    shutil.rmtree(link) if link.is_dir() else link.unlink()
    link.symlink_to(outside / "record.json" if link.suffix else outside)
    assert main(["cache", "verify", id, "--store", f"{store}"]) == 1
    main(["cache", "verify", id, "--drop", "--store", f"{store}"])
    remove_folder(Store(store).own(id))
    assert main(["cache", "gc", "--delete", "--unnamed", "--older-than", "0", "--store", f"{store}"]) == 0
    assert content(outside) == before


@pytest.mark.parametrize("place", ["artifacts", "partial", "aside"])
def test_a_pipe_in_place_of_an_artifact_is_removed_without_blocking(store: Path, demo: Path, place: str) -> None:
    (questions,) = (store / "artifacts").glob("list_questions-*")
    shutil.rmtree(questions)
    (store / place).mkdir(exist_ok=True)
    os.mkfifo(store / place / questions.name)
    signal.alarm(60)  # reading the pipe would block
    try:
        assert sevila("stage", demo, store, "list_questions", *(["--again"] if place == "aside" else [])) == 0
    finally:
        signal.alarm(0)
    assert (questions / "record.json").is_file()
    assert not any((store / other / questions.name).exists() for other in ("partial", "aside"))


@pytest.mark.parametrize("place", ["", "videos", "timed_text", "shapes_train.jsonl.part", "complete"])
def test_the_demo_writes_through_no_link(
    place: str, tmp_path: Path, outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, link = content(outside), tmp_path / "store" / "demo" / "seed-0" / place
    link.parent.mkdir(parents=True)
    link.symlink_to(outside if place in ("", "videos", "timed_text") else outside / "new.json")
    assert main(["demo", "--store", f"{tmp_path / 'store'}"]) == 1
    assert f"{link}: is a link to {outside}" in capsys.readouterr().err
    assert main(["cache", "verify", "--all", "--store", f"{tmp_path / 'store'}"]) == 1
    assert content(outside) == before


@pytest.mark.parametrize(
    "place", ["", "nights", "nights/2020-01-01", "nights/evil/pool", "history.parquet", "at-work.txt", "trend.png"]
)
def test_a_benchmark_reads_and_writes_through_no_link(
    place: str, store: Path, outside: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    matrix = tmp_path / "nightly.toml"
    matrix.write_text(f'[recipes."{SMALL}"]\nchosen = []\n')
    before, link = content(outside), store / "benchmarks" / "nightly" / place
    link.parent.mkdir(parents=True)
    link.symlink_to(outside / "record.json" if "." in place else outside)
    for more in ([], ["--history"]):
        assert main(["benchmark", f"{matrix}", "--store", f"{store}", "--device", "cpu", *more]) == 1
        assert f"{link}: is a link to {outside}" in capsys.readouterr().err
    assert main(["cache", "verify", "--all", "--store", f"{store}"]) == 1
    assert f"{link}: is a link to {outside}" in capsys.readouterr().out
    assert content(outside) == before


def test_the_lock_of_digests_is_not_taken_through_a_link(tmp_path: Path, outside: Path) -> None:
    before, store = content(outside), Store(tmp_path / "store")
    (store.root / "locks").mkdir(parents=True)
    (store.root / "locks" / "digests.lock").symlink_to(outside / "left.lock")
    store.digests.digest(outside / "thesis.h5")
    with pytest.raises(StoreError, match=r"digests\.lock: is a link"):
        store.digests.save()
    assert content(outside) == before


def test_nothing_is_dropped_through_a_link(store: Path, outside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    id = next(id for id in Store(store) if id.startswith("select_keyframes"))
    (store / "artifacts" / id / "keyframes.parquet").write_bytes(b"damaged")
    before, link = content(outside), store / "partial" / id
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(outside)
    assert main(["cache", "verify", id, "--drop", "--store", f"{store}"]) == 1
    assert f"{link}: is a link to {outside}" in capsys.readouterr().out
    assert content(outside) == before and Store(store).exists(id)


def test_locks_and_parts_of_the_pool_behind_links_are_refused(tmp_path: Path, outside: Path) -> None:
    store, before = Store(tmp_path / "store"), content(outside)
    for place in ("locks/evil", "pool/space-v1-0/ab"):
        (store.root / place).parent.mkdir(parents=True, exist_ok=True)
        (store.root / place).symlink_to(outside)
    with pytest.raises(StoreError, match="is a link"):
        store.lock("evil/left")
    with pytest.raises(StoreError, match="is a link"):
        Pool(store, "space-v1-0").parts("ab00")
    with pytest.raises(StoreError, match="is a link"):
        Pool(store, "space-v1-0").write("ab00", [0], (1,), "uint8", [], {})()
    assert content(outside) == before


def test_published_files_replace_links_instead_of_following_them(tmp_path: Path, outside: Path) -> None:
    before = content(outside)
    with published(tmp_path / "note.json") as part:
        pass
    part.symlink_to(outside / "record.json")
    with published(tmp_path / "note.json") as again:
        assert again == part and not again.is_symlink()
        again.write_text("ours")
    (tmp_path / "note.json").unlink()
    (tmp_path / "note.json").symlink_to(outside / "record.json")
    with published(tmp_path / "note.json") as part:
        part.write_text("ours")
    assert not (tmp_path / "note.json").is_symlink() and content(outside) == before


def test_a_store_whose_root_is_a_link_is_a_store(store: Path, tmp_path: Path, demo: Path) -> None:
    (tmp_path / "link").symlink_to(store)
    assert sevila("run", demo, tmp_path / "link") == 0
    assert main(["cache", "gc", "--delete", "--unnamed", "--store", f"{tmp_path / 'link'}"]) == 0
