"""Garbage collection: artifacts reachable from kept ones stay, the rest is removed, even if a sweep is killed."""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.errors import CorruptArtifactError, StoreError
from cache.gc import survey, sweep
from cache.names import pinning, remove_name
from cache.pool import part_paths
from cache.pool_listing import PARTS, every_part
from cache.record import Record, artifact_id, describe_files
from cache.store import Store
from cache.tables import write_rows
from reports.disk_usage import survey_text, usage, usage_text

LONG_AGO = time.time() - 30 * 86400
SPACE = "make-v1-0"


def publish(
    store: Store,
    number: int,
    inputs: Sequence[str] = (),
    days: float = 30,
    parts: Sequence[int] = (),
    stage: str = "make",
) -> str:
    """Publish an artifact that was finished `days` ago and refers to pool parts, and return its id."""
    named: dict[str, str | None] = {f"input{n}": id for n, id in enumerate(inputs)}
    id = artifact_id(stage, 1, {"number": number}, named)
    folder = store.partial(id)
    rows = [
        {"video_id": f"{n}", "key": key(n), "part": "p", "frame_indices": [0], "rows": [0], "part_rows": [0]}
        for n in parts
    ]
    write_rows(folder / "parts" / "00000.parquet", PARTS, rows)
    finished = (datetime.now(UTC) - timedelta(days=days)).isoformat()
    files = describe_files(folder, ["parts/00000.parquet"])
    store.publish(Record(id, stage, 1, "thing", {"number": number}, named, files=files, finished=finished, pool=SPACE))
    return id


def key(number: int) -> str:
    return f"{number:020d}"


def add_part(root: Path, number: int, changed: float = LONG_AGO) -> None:
    for path in part_paths(root, SPACE, key(number), "p"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"part")
        os.utime(path, (changed, changed))


def stored_parts(store: Store) -> set[int]:
    return {int(part) for _, part, _ in every_part(store.root)}


def pin(store: Store, name: str, *ids: str) -> None:
    with pinning(store, name, "recipe", {}, [], replace=True) as pins:
        for id in ids:
            pins.add(id, "make", "")


def age(root: Path) -> None:
    for path in [root, *root.rglob("*")]:
        os.utime(path, (LONG_AGO, LONG_AGO))


@contextmanager
def new_store() -> Iterator[Store]:
    folder = Path(tempfile.mkdtemp())
    yield Store(folder)
    shutil.rmtree(folder)


@settings(max_examples=15)
@given(data=st.data())
def test_reachable_artifacts_stay_and_the_rest_is_removed(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 7))
    below = [data.draw(st.sets(st.integers(0, i - 1), max_size=3)) if i else set() for i in range(n)]
    is_young = [data.draw(st.booleans()) and data.draw(st.booleans()) for _ in range(n)]
    parts = [data.draw(st.sets(st.integers(0, 4), max_size=2)) for _ in range(n)]
    young_parts = data.draw(st.sets(st.integers(0, 4), max_size=1))
    pins = data.draw(st.lists(st.sets(st.integers(0, n - 1), max_size=2), max_size=2))
    kept = data.draw(st.sets(st.integers(0, n - 1), max_size=1))
    with new_store() as store:
        ids: list[str] = []
        for i in range(n):
            days = 1 if is_young[i] else 30
            ids.append(publish(store, i, [ids[j] for j in sorted(below[i])], days, sorted(parts[i])))
        for number in range(5):
            add_part(store.root, number, time.time() if number in young_parts else LONG_AGO)
        for number, pinned in enumerate(pins):
            pin(store, f"run{number}", *(ids[i] for i in pinned))
        preview = survey(store, [ids[i] for i in kept])
        swept = sweep(store, [ids[i] for i in kept], unnamed=True)
        # Independent of the product's algorithm: an artifact is needed if it is kept itself or is an input of a needed one.
        needed = [i in kept or is_young[i] or any(i in pinned for pinned in pins) for i in range(n)]
        for i in reversed(range(n)):
            needed[i] = needed[i] or any(needed[k] and i in below[k] for k in range(n))
        assert set(store) == {ids[i] for i in range(n) if needed[i]} == set(swept.kept)
        used = young_parts.union(*(parts[i] for i in range(n) if needed[i]))
        assert stored_parts(store) == used
        assert preview.goes == swept.goes
        assert not survey(store, [ids[i] for i in kept]).goes


def test_artifacts_of_a_lower_layer_are_kept_and_protect_their_inputs(tmp_path: Path) -> None:
    below = Store(tmp_path / "below")
    lower = publish(below, 0)
    add_part(below.root, 0)
    age(below.root)
    store = Store(tmp_path / "own", [below.root])
    own = publish(store, 1)
    derived = publish(below, 2, [own])  # in the lower layer, with an input of the upper one
    pin(store, "x", derived)
    assert set(sweep(store).kept) == {own} and set(store) == {lower, own, derived}
    assert list(every_part(below.root))


def test_a_part_rebuilt_for_an_artifact_of_a_lower_layer_stays(tmp_path: Path) -> None:
    below = Store(tmp_path / "below")
    lower = publish(below, 0, parts=[0])
    store = Store(tmp_path / "own", [below.root])
    for number in range(2):
        add_part(store.root, number)
    pin(store, "x", lower)
    sweep(store)
    assert stored_parts(store) == {0}


def test_foreign_files_stay(tmp_path: Path) -> None:
    store = Store(tmp_path)
    publish(store, 0)
    names = ("film.mkv.part", "films/film.mkv.part", "names/._x.json", "artifacts/.snapshot/x")
    foreign = [tmp_path / "pool" / SPACE / ".DS_Store", *(tmp_path / name for name in names)]
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "digests.json.1.part").write_bytes(b"half")
    add_part(tmp_path, 0)
    (tmp_path / "pool" / SPACE / key(0)[:2] / ".DS_Store").write_bytes(b"")
    age(tmp_path)
    sweep(store, unnamed=True)
    assert all(path.exists() for path in foreign) and not list(store)
    assert not (tmp_path / "digests.json.1.part").exists()


def test_a_sweep_without_named_runs_requires_the_unnamed_option(tmp_path: Path) -> None:
    store = Store(tmp_path)
    id = publish(store, 0)
    assert [item.name for item in survey(store).goes] == [id]
    with pytest.raises(StoreError, match="--unnamed"):
        sweep(store)
    assert store.exists(id)
    sweep(store, unnamed=True)
    assert not store.exists(id)


def test_artifacts_of_a_recent_unnamed_run_stay(tmp_path: Path) -> None:
    store = Store(tmp_path)
    ids = [publish(store, 0), publish(store, 1)]
    pin(store, "", ids[1])
    assert set(sweep(store, unnamed=True).kept) == {ids[1]}
    age(tmp_path / "recent")
    assert not sweep(store, unnamed=True).kept


def test_a_sweep_is_refused_while_a_run_uses_the_store(tmp_path: Path) -> None:
    store = Store(tmp_path)
    publish(store, 0)
    with store.in_use(), pytest.raises(StoreError, match="in use"):
        sweep(Store(tmp_path), unnamed=True)
    assert list(store)


def test_old_partial_data_is_removed_unless_a_named_run_uses_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    kept = publish(store, 0)
    for folder in ("partial/make-v1-old", "partial/make-v1-named", "aside/make-v1-old"):
        (tmp_path / folder / "parts").mkdir(parents=True)
        (tmp_path / folder / "x.123.part").write_bytes(b"half")
    row = {"video_id": "v", "key": key(7), "part": "p", "frame_indices": [0], "rows": [0], "part_rows": [0]}
    write_rows(tmp_path / "partial/make-v1-named/parts/00000.parquet", PARTS, [row])
    for number in (7, 8):
        add_part(tmp_path, number)
    lone = part_paths(tmp_path, SPACE, key(9), "p")[0]  # of a killed process: no note yet
    lone.parent.mkdir(parents=True)
    lone.write_bytes(b"array")
    with store.lock("make-v1-old/plan"):
        pass
    age(tmp_path)
    (tmp_path / "partial/make-v1-young").mkdir()
    pin(store, "x", kept, "make-v1-named")
    sweep(store)
    assert sorted(path.name for path in (tmp_path / "partial").iterdir()) == ["make-v1-named", "make-v1-young"]
    assert not list((tmp_path / "aside").iterdir()) and store.exists(kept)
    assert stored_parts(store) == {7}
    assert not list(tmp_path.rglob("*.part"))
    assert not (tmp_path / "locks/make-v1-old").exists() and (tmp_path / "locks/in_use.lock").exists()


def test_a_damaged_name_or_record_stops_the_sweep(tmp_path: Path) -> None:
    store = Store(tmp_path)
    lower = publish(store, 0)
    upper = publish(store, 1, [lower])
    pin(store, "x", upper)
    record = store.path(upper) / "record.json"
    intact = record.read_text()
    record.write_text(intact.replace("thing", "thinG"))
    with pytest.raises(CorruptArtifactError, match="--drop"):
        sweep(store)
    assert usage(store).problem.count("--drop") == 1
    record.write_text(intact)
    name = tmp_path / "names" / "x.json"
    name.write_text("{")
    with pytest.raises(CorruptArtifactError, match="sevila runs rm x"):
        sweep(store)
    remove_name(store, "x")
    assert not survey(store).named


@pytest.mark.parametrize("lost", ["upper", "lower"])
def test_a_kept_artifact_without_a_record_stops_the_sweep(lost: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    lower = publish(store, 0, parts=[0])
    upper = publish(store, 1, [lower], parts=[1])
    for number in range(2):
        add_part(tmp_path, number)
    pin(store, "x", upper)
    folder = store.path({"upper": upper, "lower": lower}[lost])
    (folder / "record.json").rename(tmp_path / "lost")
    with pytest.raises(StoreError, match=f"{folder}: .*verify {folder.name} --drop"):
        sweep(store, older_than_days=0)
    assert "--drop" in usage(store).problem
    (tmp_path / "lost").rename(folder / "record.json")
    sweep(store, older_than_days=0)
    assert set(store) == {lower, upper} and len(list(every_part(tmp_path))) == 2


@pytest.mark.parametrize("damage", ["gone", "flipped"])
def test_a_kept_artifact_with_a_damaged_parts_table_stops_the_sweep(damage: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    id = publish(store, 0, parts=[0])
    add_part(tmp_path, 0)
    pin(store, "x", id)
    table = store.path(id) / "parts" / "00000.parquet"
    intact = table.read_bytes()
    if damage == "gone":
        table.unlink()
    else:
        table.write_bytes(intact.replace(key(0).encode(), key(9).encode()))  # still a readable table
        assert table.read_bytes() != intact
    with pytest.raises(CorruptArtifactError, match=r"--drop.*nothing can be removed"):
        sweep(store, older_than_days=0)
    assert len(list(every_part(tmp_path))) == 1


def test_inputs_of_a_kept_artifact_that_is_set_aside_stay(tmp_path: Path) -> None:
    store = Store(tmp_path)
    lower = publish(store, 0, parts=[0])
    upper = publish(store, 1, [lower], parts=[1])
    for number in range(2):
        add_part(tmp_path, number)
    pin(store, "x", upper)
    (tmp_path / "aside").mkdir()
    store.path(upper).rename(tmp_path / "aside" / upper)
    sweep(store, older_than_days=0)
    assert set(store) == {lower} and (tmp_path / "aside" / upper / "record.json").exists()
    assert len(list(every_part(tmp_path))) == 2


def test_a_sweep_killed_at_any_removal_is_completed_by_the_next(tmp_path: Path) -> None:
    original = Store(tmp_path / "original")
    lower = publish(original, 0, parts=[0])
    upper = publish(original, 1, [lower], parts=[0, 1])
    removed = publish(original, 2, [upper], parts=[1, 2])
    above = publish(original, 3, [removed], days=40)  # older than its input, as with another machine's clock
    (original.root / "partial" / "make-v1-old").mkdir()
    for number in range(4):
        add_part(original.root, number)
    age(original.root)
    pin(original, "x", upper)
    for n_removals in range(1000):
        store = Store(Path(shutil.copytree(original.root, tmp_path / "store")))
        child = os.fork()
        if child == 0:
            left = n_removals

            def die(event: str, arguments: object) -> None:
                nonlocal left
                if event in ("os.remove", "os.rmdir"):
                    if left == 0:
                        os._exit(9)
                    left -= 1

            sys.addaudithook(die)
            sweep(store)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert {store.record(id).id for id in store} - {removed, above} == {lower, upper}
        assert removed in store or above not in store
        assert stored_parts(store) >= {0, 1}
        sweep(store, older_than_days=0)
        assert set(store) == {lower, upper}
        assert stored_parts(store) == {0, 1}
        assert not list((store.root / "partial").iterdir())
        shutil.rmtree(store.root)
        if status == 0:
            break
    assert n_removals > 5


def test_usage_sums_all_files_and_counts_referenced_parts(tmp_path: Path) -> None:
    store = Store(tmp_path)
    publish(store, 0, parts=[0, 1])
    publish(store, 1, stage="draw")
    for number in range(3):
        add_part(tmp_path, number)
    space = usage(store)
    assert space.total_bytes == sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert (space.stages["make"].count, space.stages["draw"].count) == (1, 1)
    assert (space.pool[SPACE].count, space.pool[SPACE].n_referenced, space.pool[SPACE].referenced_bytes) == (3, 2, 16)
    assert space.freed_bytes == survey(store).size_bytes
    assert "2 used by artifacts" in usage_text(space)
    assert "1 artifact make" in survey_text(survey(store))
