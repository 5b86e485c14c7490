"""Artifacts of earlier versions of the store and of stages, frozen in tests/golden/store_v1: read, or refused in a sentence."""

import shutil
from pathlib import Path

import pytest

from cache.errors import CorruptArtifactError, SchemaError
from cache.notes import write_note
from cache.record import RECORD
from cache.store import Store
from cache.verify import Verification
from cli import main
from stages.list_questions import Questions
from stages.sample_frames import Frames

FROZEN = Path(__file__).parents[1] / "golden" / "store_v1"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(Path(shutil.copytree(FROZEN, tmp_path / "store")))


def id_of(store: Store, stage: str) -> str:
    return next(id for id in store if id.startswith(stage))


def test_artifact_with_a_record_of_version_1_is_read(store: Store) -> None:
    questions = Questions(store, id_of(store, "list_questions"))
    (row,) = questions.rows("questions")
    assert row["question"] == "What colour is the square?" and row["options"] == ["red", "blue"]
    assert questions.record.pool == "" and questions.record.host == "frozen"


def test_artifacts_of_version_1_are_verified_as_new_ones_are(store: Store) -> None:
    found = Verification(store)
    found.artifacts(store)
    assert not found.problems
    folder = store.path(id_of(store, "list_questions"))
    flip = {"questions.parquet": (b"square", b"squarf"), RECORD: (b'"dataset": "plain"', b'"dataset": "plaio"')}
    for name, (old, new) in flip.items():
        whole = (folder / name).read_bytes()
        assert old in whole
        (folder / name).write_bytes(whole.replace(old, new))
        found = Verification(store)
        found.artifacts(store)
        assert [problem.path for problem in found.problems] == [folder / name]
        (folder / name).write_bytes(whole)


def test_frames_of_version_1_are_refused_in_a_sentence_that_says_to_run_the_stage_again(store: Store) -> None:
    with pytest.raises(SchemaError, match="written by another version: run its stage again"):
        Frames(store, id_of(store, "sample_frames")).rows("videos")


def test_table_of_an_earlier_schema_version_is_refused_in_a_sentence(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = Questions(store, id_of(store, "list_questions"))
    monkeypatch.setattr(Questions.tables["questions"], "version", 99)
    with pytest.raises(SchemaError, match=r"wanted version 99 .* run its stage again"):
        questions.rows("questions")


def test_record_of_a_later_version_is_refused_in_a_sentence(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    id = id_of(store, "list_questions")
    path = store.path(id) / RECORD
    write_note(path, store.record(id).__dict__ | {"record_version": 99})
    with pytest.raises(CorruptArtifactError, match="record version 99, wanted 3, 2 or 1"):
        store.record(id)
    assert main(["cache", "verify", id, "--store", f"{store.root}"]) == 1
    assert "record version 99, wanted 3, 2 or 1" in capsys.readouterr().out
