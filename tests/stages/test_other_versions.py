"""Tables and records written by another version of the code are refused with a readable error."""

from pathlib import Path

import pytest

from cache.errors import CorruptArtifactError, SchemaError
from cache.notes import write_note
from cache.record import RECORD
from cache.store import Store
from cli import main
from stages.list_questions import Questions
from tests.stages.runs import artifact


def test_a_table_of_another_schema_version_is_refused(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    questions = artifact(store, "questions")
    monkeypatch.setattr(Questions.tables["questions"], "version", 99)
    with pytest.raises(SchemaError, match=r"expected version 99 .* run its stage again"):
        questions.rows("questions")


@pytest.mark.parametrize("version", [2, 99])
def test_a_record_of_another_version_is_refused(version: int, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    questions = artifact(store, "questions")
    write_note(questions.path / RECORD, questions.record.__dict__ | {"record_version": version})
    with pytest.raises(CorruptArtifactError, match=f"record version {version}, expected 3"):
        Store(store).record(questions.record.id)
    assert main(["cache", "verify", questions.record.id, "--store", f"{store}"]) == 1
    assert f"record version {version}, expected 3" in capsys.readouterr().out
