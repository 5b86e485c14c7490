"""Verification reports every kind of damage to an artifact with the damaged file."""

import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from cache.arrays import ArrayFile, Owner, write_array
from cache.errors import CorruptArtifactError
from cache.fingerprint import fingerprint
from cache.gc import survey
from cache.names import names, pinning
from cache.notes import read_note, write_note
from cache.pool import Pool, part_paths
from cache.pool_reader import size_bytes
from cache.record import PROGRESS, Record, artifact_id, describe_files
from cache.store import Store
from cache.tables import Schema, write_rows
from cache.verify import Verification

SCHEMA = Schema(1, question_id="string", logit_yes="float32")


def publish(store: Store, config: dict[str, object], inputs: dict[str, str | None] | None = None) -> str:
    """Publish an artifact of two shards, as a stage does, and return its id."""
    id = artifact_id("make_things", 1, config, inputs or {})
    folder = store.partial(id)
    files: dict[str, dict[str, object]] = {}
    (folder / PROGRESS).mkdir(parents=True)
    for number in range(2):
        name = f"things/{number:05d}.parquet"
        write_rows(folder / name, SCHEMA, [{"question_id": f"q{row}", "logit_yes": row / 3} for row in range(50)])
        note = {"files": describe_files(folder, [name]), "rows": {"things": 50}, "dropped": {}, "phase_seconds": {}}
        write_note(folder / PROGRESS / f"{number:05d}.json", note)
        files |= note["files"]  # type: ignore[arg-type]
    (folder / "weights.bin").write_bytes(random.Random(0).randbytes(3000))
    files |= describe_files(folder, ["weights.bin"])
    write_note(folder / PROGRESS / "plan.json", {"shards": [[0], [1]], "settings": {}})
    store.publish(Record(id, "make_things", 1, "things", config, inputs or {}, files=files, rows={"things": 100}))
    return id


def verified(store: Store, *ids: str) -> Verification:
    verification = Verification(store)
    verification.artifacts(ids)
    return verification


def test_an_intact_artifact_is_read_completely_without_problems(tmp_path: Path) -> None:
    store = Store(tmp_path)
    id = publish(store, {})
    read_bytes: list[int] = []
    verification = Verification(store, read_bytes.append)
    verification.artifacts([id])
    assert (verification.problems, verification.remarks) == ([], [])
    assert sum(read_bytes) == verification.n_bytes == size_bytes(store, [id])


def test_a_flipped_bit_in_any_file_is_reported_with_the_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    id = publish(store, {})
    draw = random.Random(0)
    for path in sorted(path for path in store.path(id).rglob("*") if path.is_file()):
        intact = path.read_bytes()
        for _ in range(12):
            flipped = bytearray(intact)
            flipped[draw.randrange(len(intact))] ^= 1 << draw.randrange(8)
            path.write_bytes(flipped)
            assert [problem.path for problem in verified(store, id).problems] == [path], bytes(flipped)
        path.write_bytes(intact)
    assert not verified(store, id).problems


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: os.truncate(path, path.stat().st_size - 1),
    "empty": lambda path: os.truncate(path, 0),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "missing": lambda path: path.unlink(),
    "folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["things/00001.parquet", "weights.bin", "progress/00000.json", "progress/plan.json"])
def test_a_truncated_extended_or_replaced_file_is_reported(name: str, damage: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    id = publish(store, {})
    DAMAGE[damage](store.path(id) / name)
    if name.startswith(PROGRESS) and damage == "missing":
        assert not verified(store, id).problems  # only a later drop would use it
    else:
        assert [problem.name for problem in verified(store, id).problems] == [name]


def test_the_record_of_another_artifact_is_reported(tmp_path: Path) -> None:
    store = Store(tmp_path)
    id, other = publish(store, {}), publish(store, {"k": 1})
    (store.path(id) / "record.json").write_bytes((store.path(other) / "record.json").read_bytes())
    assert [problem.name for problem in verified(store, id).problems] == ["record.json"]


def test_a_link_out_of_the_artifact_is_reported_even_with_equal_bytes(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    id = publish(store, {})
    path = store.path(id) / "weights.bin"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    (problem,) = verified(store, id).problems
    assert problem.name == "weights.bin" and "leads out" in problem.actual


def test_an_unrecorded_file_and_a_missing_input_are_remarks(tmp_path: Path) -> None:
    store = Store(tmp_path)
    id = publish(
        store, {}, {"frames": "sample_frames-v1-0123456789abcdef0123", "videos": "videos-0123456789abcdef0123"}
    )
    (store.path(id) / "notes.txt").write_text("mine")
    verification = verified(store, id)
    assert not verification.problems and len(verification.remarks) == 2
    assert "sample_frames-v1" in verification.remarks[0] and "notes.txt" in verification.remarks[1]


def test_an_edited_record_with_a_valid_checksum_is_reported(tmp_path: Path) -> None:
    store = Store(tmp_path)
    id = publish(store, {"k": 4})
    content = store.record(id).__dict__ | {"config": {"k": 5}}
    write_note(store.path(id) / "record.json", content)
    (problem,) = verified(store, id).problems
    assert problem.piece == "record" and artifact_id("make_things", 1, {"k": 5}, {}) in problem.actual


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("files", {"../../secret": {"size_bytes": 1, "sha256": "0" * 64}}),
        ("files", {"/etc/passwd": {"size_bytes": 1, "sha256": "0" * 64}}),
        ("files", {"a": {"size_bytes": -1, "sha256": "0" * 64}}),
        ("files", {"a": {"size_bytes": 1, "sha256": "../x"}}),
        ("inputs", {"frames": "../../secret"}),
        ("pool", "../../secret"),
        ("rows", {"things": 1e300}),
        ("id", "../x"),
        ("config", None),
    ],
)
def test_a_record_with_an_invalid_value_is_reported(field: str, value: object, tmp_path: Path) -> None:
    store = Store(tmp_path)
    id = publish(store, {})
    write_note(store.path(id) / "record.json", store.record(id).__dict__ | {field: value})
    (problem,) = verified(store, id).problems
    assert problem.piece == "record"


@pytest.mark.parametrize("name", ["digests.json", "names/baseline.json"])
def test_damaged_digests_and_names_are_reported(name: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "names").mkdir()
    write_note(tmp_path / name, {"files": {}, "sources": {}, "names": {}})
    intact = (tmp_path / name).read_bytes()
    for damaged in (intact.replace(b"sources", b"sourcer"), intact[:-9], b""):
        (tmp_path / name).write_bytes(damaged)
        verification = Verification(store)
        verification.other_files()
        assert [problem.path for problem in verification.problems] == [tmp_path / name]


def test_files_left_by_desktops_are_remarks(tmp_path: Path) -> None:
    store = Store(tmp_path)
    id = publish(store, {})
    with pinning(store, "baseline", "recipe", {}, []) as pins:
        pins.add(id, "make_things", "")
    with pinning(store, "", "recipe", {}, []):
        pass
    strays = [tmp_path / "names" / "._baseline.json", tmp_path / "names" / "baseline copy.json"]
    strays += [tmp_path / "recent" / "._x.json", store.path(id) / "progress" / "._00000.json"]
    for path in strays:
        path.write_bytes(b"\0\5\x16\7")
    verification = verified(store, id)
    verification.other_files()
    assert not verification.problems and len(verification.remarks) == len(strays)
    assert all(any(line.startswith(f"{path}: ") for line in verification.remarks) for path in strays)
    assert names(tmp_path) == ["baseline"] and not survey(store).goes


def test_a_pool_part_is_checked_once_and_its_damage_reported(tmp_path: Path) -> None:
    store = Store(tmp_path)
    pool, part = Pool(store, "space"), fingerprint([3, 5])
    pool.write("key", [3, 5], (2,), "float32", iter([np.ones((2, 2), "float32")]), {})()
    path, note = part_paths(tmp_path, "space", "key", part)
    draw = random.Random(0)
    for damaged in (path, note):
        intact = damaged.read_bytes()
        for _ in range(20):
            flipped = bytearray(intact)
            flipped[draw.randrange(len(intact))] ^= 1 << draw.randrange(8)
            damaged.write_bytes(flipped)
            verification = Verification(store)
            verification.parts([("space", "key", part)])
            verification.parts([("space", "key", part)])
            (problem,) = verification.problems
            assert problem.id == f"space/key/{part}" and problem.path == path
        damaged.write_bytes(intact)
    verification = Verification(store)
    verification.parts([("space", "key", part)])
    assert not verification.problems and verification.n_bytes == path.stat().st_size


def external_link(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["data"] = h5py.ExternalLink("elsewhere.h5", "data")


def soft_link(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file.move("data", "hidden")
        file["data"] = h5py.SoftLink("/hidden")


def external_storage(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("data", (2, 2), "float32", external=[("/etc/hostname", 0, 16)])


def huge_dataset(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("data", (2, 1 << 40), "float32", chunks=(1, 1024))


@pytest.mark.parametrize("forge", [external_link, soft_link, external_storage, huge_dataset])
def test_an_unreadable_part_with_a_matching_note_is_reported(forge: Callable[[Path], None], tmp_path: Path) -> None:
    pool, part = Pool(Store(tmp_path), "space"), fingerprint([3, 5])
    pool.write("key", [3, 5], (2,), "float32", iter([np.ones((2, 2), "float32")]), {})()
    path, note = part_paths(tmp_path, "space", "key", part)
    forge(path)
    write_note(note, read_note(note) | {"file": describe_files(path.parent, [path.name])[path.name]})
    verification = Verification(Store(tmp_path))
    verification.parts([("space", "key", part)])
    (problem,) = verification.problems
    assert problem.piece == "part" and "data" in problem.actual


@pytest.mark.parametrize("name", ["things/00000.parquet", "weights.safetensors"])
def test_an_unreadable_file_with_a_matching_record_is_reported(name: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    id = publish(store, {})
    (store.path(id) / name).write_bytes(b"something else")
    record = store.record(id)
    files = record.files | describe_files(store.path(id), [name])
    write_note(store.path(id) / "record.json", replace(record, files=files).sealed().as_note())
    assert name in [problem.name for problem in verified(store, id).problems if problem.piece == "file"]


def test_a_flipped_bit_in_an_array_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).standard_normal((3, 4)).astype("float16")
    write_array(tmp_path / "x.h5", Owner("extract-v1-0", "00aa", [0, 1, 2]), (4,), "float16", iter([frames]))
    intact = (tmp_path / "x.h5").read_bytes()
    draw, refused = random.Random(0), 0
    for bit in draw.sample(range(len(intact) * 8), 400):
        flipped = bytearray(intact)
        flipped[bit // 8] ^= 1 << bit % 8
        path = tmp_path / f"{bit}.h5"  # a new name: HDF5 reuses a file that is still open
        path.write_bytes(flipped)
        try:
            read = ArrayFile(path).read(slice(0, 3))
        except CorruptArtifactError:
            refused += 1
            continue
        assert read.dtype == frames.dtype
        np.testing.assert_array_equal(read, frames, err_msg=f"bit {bit}")
    assert refused
