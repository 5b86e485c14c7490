"""A table that lost rows is refused by its readers, even if its record describes the shorter table."""

from dataclasses import replace
from pathlib import Path

import pytest

from cache.errors import CorruptArtifactError
from cache.notes import write_note
from cache.record import RECORD, describe_files
from cache.tables import write_rows
from cli import main
from tests.stages.runs import artifact, sevila


def cut(store: Path, kind: str, table: str, share: float) -> str:
    """Keep only the first rows of a table, and reseal its record."""
    original = artifact(store, kind)
    (name,) = [name for name in original.record.files if name.startswith((f"{table}.", f"{table}/"))]
    rows = original.rows(table)
    rows = rows[: int(len(rows) * share)]
    write_rows(original.path / name, original.tables[table], rows)
    files = original.record.files | describe_files(original.path, [name])
    counts = original.record.rows | {table: len(rows)}
    record = replace(original.record, files=files, rows=counts).sealed(original.record.content.partition(".")[2])
    write_note(original.path / RECORD, record.as_note())
    return str(original.id)


@pytest.mark.parametrize(
    ("kind", "table", "share"),
    [
        ("answers", "answers", 0.7),
        ("answers", "answers", 0.0),
        ("keyframes", "keyframes", 0.7),
        ("frame_scores", "frame_scores", 0.5),
        ("frame_scores", "frame_scores", 0.99),
        ("features", "videos", 0.5),
        ("frames", "frames", 0.5),
        ("frames", "videos", 0.5),
        ("frames", "parts", 0.5),
        ("questions", "questions", 0.5),
        ("questions", "videos", 0.5),
    ],
)
def test_a_cut_table_is_refused_with_its_artifact_and_the_command_to_rebuild_it(
    store: Path, demo: Path, capsys: pytest.CaptureFixture[str], kind: str, table: str, share: float
) -> None:
    id = cut(store, kind, table, share)
    assert sevila("run", demo, store) == 1
    message = capsys.readouterr().err
    assert f"{id}: lacks " in message and f"sevila stage {id.split('-')[0]} RECIPE --again" in message
    assert "Traceback" not in message


@pytest.mark.parametrize("kind", ["answers", "keyframes"])
def test_answers_and_compare_refuse_a_cut_table(store: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    answers, id = artifact(store, "answers").id, cut(store, kind, kind, 0.7)
    assert main(["answers", answers, "--store", f"{store}"]) == 1
    assert f"{id}: lacks " in capsys.readouterr().err
    assert main(["compare", answers, answers, "--store", f"{store}"]) == (1 if kind == "answers" else 0)


def test_a_stage_run_again_repairs_its_cut_table(store: Path, demo: Path) -> None:
    cut(store, "keyframes", "keyframes", 0.7)
    assert sevila("stage", demo, store, "select_keyframes", "--again") == 0
    assert sevila("run", demo, store) == 0


@pytest.mark.parametrize("kind", ["questions", "metrics"])
def test_a_record_without_files_is_reported_and_its_tables_are_refused(
    store: Path, demo: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    stripped = artifact(store, kind)
    record = replace(stripped.record, files={}, rows={}).sealed()
    write_note(stripped.path / RECORD, record.as_note())
    assert main(["cache", "verify", record.id, "--store", f"{store}"]) == 1
    assert f"{record.id}/record.json: lists no files" in capsys.readouterr().out
    with pytest.raises(CorruptArtifactError, match="names no file of it"):
        artifact(store, kind).rows(next(iter(stripped.tables)))
    if kind == "questions":
        assert sevila("run", demo, store) == 1
        assert "names no file of it" in capsys.readouterr().err
    main(["cache", "verify", "--all", "--drop", "--store", f"{store}"])
    assert sevila("run", demo, store) == 0
    assert main(["cache", "verify", "--all", "--store", f"{store}"]) == 0
