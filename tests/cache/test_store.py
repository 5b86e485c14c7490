import dataclasses
import json
import os
from functools import partial
from pathlib import Path

import pytest

from cache.errors import CorruptArtifactError, StoreError
from cache.gc import survey
from cache.id_prefixes import find, matching
from cache.names import named_run, pinning
from cache.notes import read_note, write_note
from cache.problem import Problem
from cache.rebuilding import set_aside
from cache.record import Record, artifact_id, describe_files
from cache.store import Store
from cache.verify import Verification


def publish(store: Store, config: dict[str, object], content: bytes = b"content") -> str:
    id = artifact_id("make_things", 1, config, {})
    folder = store.partial(id)
    folder.mkdir(parents=True)
    (folder / "things.bin").write_bytes(content)
    files = describe_files(folder, ["things.bin"])
    store.publish(Record(id, "make_things", 1, "things", dict(config), {}, files=files))
    return id


def test_a_link_in_place_of_an_artifact_is_reported_and_not_read(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (tmp_path / "disk").mkdir()
    root.symlink_to(tmp_path / "disk")
    id = publish(Store(root), {})
    assert list(Store(root)) == [id]
    folder = Store(root).path(id)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    store = Store(root)
    assert not list(store) and not store.exists(id) and not survey(store).goes
    for read in (store.record, partial(find, store), store.partial):
        with pytest.raises(StoreError, match=f"{folder}: is a link"):
            read(id)
    verification = Verification(store)
    verification.other_files()
    assert [(problem.piece, problem.path) for problem in verification.problems] == [("link", folder)]
    with pinning(store, "x", "recipe", {}, []) as pins:
        pins.add(id, "make", "")
    with pytest.raises(StoreError, match="is a link"):
        survey(store)
    verification = Verification(store)
    verification.other_files()
    assert [(problem.piece, problem.path) for problem in verification.problems] == [("link", folder)]


def test_a_published_artifact_is_read_back_with_its_record(tmp_path: Path) -> None:
    store = Store(tmp_path)
    id = publish(store, {"k": 4})
    assert list(store) == [id]
    assert store.record(id).config == {"k": 4}
    assert (store.path(id) / "things.bin").read_bytes() == b"content"
    assert not store.partial(id).exists()


def test_an_id_depends_on_config_inputs_stage_and_version() -> None:
    base = artifact_id("score", 1, {"k": 4}, {"features": "f-1"})
    assert base == artifact_id("score", 1, {"k": 4}, {"features": "f-1"})
    others = {
        artifact_id("score", 2, {"k": 4}, {"features": "f-1"}),
        artifact_id("label", 1, {"k": 4}, {"features": "f-1"}),
        artifact_id("score", 1, {"k": 5}, {"features": "f-1"}),
        artifact_id("score", 1, {"k": 4}, {"features": "f-2"}),
        artifact_id("score", 1, {"k": 4}, {"features": None}),
    }
    assert len(others | {base}) == 6


def test_a_folder_without_a_record_is_no_artifact(tmp_path: Path) -> None:
    store = Store(tmp_path)
    id = publish(store, {})
    (store.path(id) / "record.json").unlink()
    assert not store.exists(id) and list(store) == []
    with pytest.raises(StoreError, match="sevila cache ls"):
        store.record(id)


@pytest.mark.parametrize("id", ["../secrets", "a/b", ".hidden"])
def test_an_id_that_leads_out_of_the_store_is_refused(tmp_path: Path, id: str) -> None:
    with pytest.raises(StoreError):
        Store(tmp_path).path(id)


def test_an_artifact_is_found_by_a_prefix_of_its_hash(tmp_path: Path) -> None:
    store = Store(tmp_path)
    ids = [publish(store, {"k": k}) for k in range(2)]
    assert find(store, ids[0].rsplit("-", 1)[1][:8]) == ids[0]
    assert matching(store, "make_things") == sorted(ids)
    with pytest.raises(StoreError, match="several"):
        find(store, "make_things")
    with pytest.raises(StoreError, match="no artifact"):
        find(store, "nothing")


def test_an_ambiguous_prefix_error_names_a_few_ids_and_counts_the_rest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    ids = sorted(publish(store, {"k": k}) for k in range(8))
    with pytest.raises(StoreError, match=f"{ids[4]} and 3 more; give more of the id") as error:
        find(store, "make_things")
    assert ids[5] not in str(error.value)


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"record_version": 99})])
def test_an_unreadable_or_foreign_record_is_refused(tmp_path: Path, content: str) -> None:
    store = Store(tmp_path)
    id = publish(store, {})
    (store.path(id) / "record.json").write_text(content)
    with pytest.raises(CorruptArtifactError, match=r"record\.json"):
        store.record(id)


@pytest.mark.parametrize(
    "field",
    [{"finished": 5}, {"host": None}, {"peak_memory_bytes": "x"}, {"phase_seconds": {"a": "b"}}, {"schemas": {"t": 1}}],
)
def test_a_record_with_an_invalid_field_is_refused(tmp_path: Path, field: dict[str, object]) -> None:
    store = Store(tmp_path)
    id = publish(store, {})
    write_note(store.path(id) / "record.json", dataclasses.asdict(store.record(id)) | field)
    with pytest.raises(CorruptArtifactError, match="not written by a stage"):
        store.record(id)


def test_a_failed_rebuild_restores_the_old_artifact(tmp_path: Path) -> None:
    store = Store(tmp_path)
    id = publish(store, {})
    with pytest.raises(OSError), set_aside(store, id):
        assert not store.exists(id)
        raise OSError("disk full")
    assert (store.path(id) / "things.bin").read_bytes() == b"content"
    with set_aside(store, id):
        publish(store, {}, b"other")
    assert (store.path(id) / "things.bin").read_bytes() == b"other"
    assert not list((tmp_path / "aside").iterdir())


def test_a_lock_is_free_after_its_owner_died(tmp_path: Path) -> None:
    store = Store(tmp_path)
    child = os.fork()
    if child == 0:
        store.lock("shard").acquire()
        os._exit(0)
    os.waitpid(child, 0)
    store.lock("shard").acquire(timeout=1).lock.release()


def test_half_written_files_of_a_killed_process_are_not_published(tmp_path: Path) -> None:
    store = Store(tmp_path)
    id = artifact_id("make_things", 1, {}, {})
    store.partial(id).mkdir(parents=True)
    (store.partial(id) / "things.bin.123.part").write_bytes(b"half")
    (store.partial(id) / "things.bin").write_bytes(b"whole")
    store.publish(
        Record(id, "make_things", 1, "things", {}, {}, files=describe_files(store.partial(id), ["things.bin"]))
    )
    assert sorted(path.name for path in store.path(id).iterdir()) == ["record.json", "things.bin"]


def test_publishing_replaces_a_folder_without_a_record(tmp_path: Path) -> None:
    store = Store(tmp_path)
    id = publish(store, {})
    (store.path(id) / "record.json").unlink()
    assert publish(store, {}, b"again") == id
    assert (store.path(id) / "things.bin").read_bytes() == b"again"


def test_an_artifact_set_aside_by_a_killed_process_is_restored_by_the_next_rebuild(tmp_path: Path) -> None:
    store = Store(tmp_path)
    id = publish(store, {})
    child = os.fork()
    if child == 0:
        with set_aside(store, id):
            os._exit(9)
    os.waitpid(child, 0)
    assert not store.exists(id)
    with pytest.raises(OSError), set_aside(store, id):
        raise OSError("disk full again")
    assert (store.path(id) / "things.bin").read_bytes() == b"content"


def test_a_file_or_a_folder_of_foreign_files_is_refused_as_a_store(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(StoreError, match=r"photo\.jpg is a file"):
        Store(tmp_path / "photo.jpg")
    with pytest.raises(StoreError, match=r"is not a store: it holds photo\.jpg"), Store(tmp_path).in_use():
        pass
    with pytest.raises(StoreError, match="not a store"), Store(tmp_path).alone():
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_hidden_files_in_a_store_are_ignored(tmp_path: Path) -> None:
    store = Store(tmp_path)
    id = publish(store, {})
    (tmp_path / "artifacts" / ".DS_Store").write_bytes(b"")
    (tmp_path / "artifacts" / "._x").mkdir()
    assert list(store) == [id]


def test_a_complete_partial_artifact_is_published_without_a_rebuild(tmp_path: Path) -> None:
    store = Store(tmp_path)
    partial = store.partial("count-v1-aa")
    (partial / "progress" / "snapshots").mkdir(parents=True)
    (partial / "progress" / "snapshots" / "000000001.state").write_text("weights")
    (partial / "numbers.json").write_text("[1]")
    assert not store.finish("count-v1-aa")
    record = Record(
        "count-v1-aa", "count", 1, "numbers", {}, {}, files=describe_files(partial, ["numbers.json"])
    ).sealed()
    write_note(partial / "record.json", record.as_note())
    assert store.finish("count-v1-aa") and not partial.exists()
    assert store.record("count-v1-aa") == record
    assert not (store.path("count-v1-aa") / "progress" / "snapshots").exists()


def test_a_record_that_does_not_match_its_content_digest_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    id = publish(store, {})
    path = store.path(id) / "record.json"
    intact = read_note(path)
    for change in ({"files": {}}, {"rows": {"things": 7}}, {"content": ""}):
        write_note(path, intact | change)
        with pytest.raises(CorruptArtifactError, match="do not match its content digest"):
            store.record(id)
        assert [problem.piece for problem in problems(store, id)] == ["record"]


def problems(store: Store, id: str) -> list[Problem]:
    verification = Verification(store)
    verification.artifacts([id])
    return verification.problems


def test_a_record_in_another_artifacts_folder_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    a, b = publish(store, {"k": 1}), publish(store, {"k": 2})
    store.path(a).rename(tmp_path / "between")
    store.path(b).rename(tmp_path / "artifacts" / a)
    (tmp_path / "between").rename(tmp_path / "artifacts" / b)
    with pytest.raises(CorruptArtifactError, match=f"is the record of {b}"):
        store.record(a)


def test_a_renamed_name_file_is_refused(tmp_path: Path) -> None:
    for name in ("wider", "baseline"):
        with pinning(Store(tmp_path), name, "recipe", {}, []):
            pass
    (tmp_path / "names" / "wider.json").replace(tmp_path / "names" / "baseline.json")
    with pytest.raises(CorruptArtifactError, match=r"is the file of the name 'wider'.*sevila runs rm baseline"):
        named_run(Store(tmp_path), "baseline")
