"""A table that lost rows, in a record that fits it, is refused by whoever reads it; it is no smaller data set."""

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
    """Keep only the first rows of a table."""
    whole = artifact(store, kind)
    (name,) = [name for name in whole.record.files if name.startswith((f"{table}.", f"{table}/"))]
    rows = whole.rows(table)
    rows = rows[: int(len(rows) * share)]
    write_rows(whole.path / name, whole.tables[table], rows)
    files = whole.record.files | describe_files(whole.path, [name])
    counts = whole.record.rows | {table: len(rows)}
    record = replace(whole.record, files=files, rows=counts).sealed(whole.record.content.partition(".")[2])
    write_note(whole.path / RECORD, record.as_note())
    return str(whole.id)


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
def test_cut_table_is_refused_with_its_artifact_what_is_missing_and_the_way_out(
    store: Path, demo: Path, capsys: pytest.CaptureFixture[str], kind: str, table: str, share: float
) -> None:
    id = cut(store, kind, table, share)
    assert sevila("run", demo, store) == 1
    said = capsys.readouterr().err
    assert f"{id}: lacks " in said and f"sevila stage {id.split('-')[0]} RECIPE --again" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("kind", ["answers", "keyframes"])
def test_answers_in_words_and_comparisons_refuse_a_cut_table(
    store: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    answers, id = artifact(store, "answers").id, cut(store, kind, kind, 0.7)
    assert main(["answers", answers, "--store", f"{store}"]) == 1
    assert f"{id}: lacks " in capsys.readouterr().err
    assert main(["compare", answers, answers, "--store", f"{store}"]) == (1 if kind == "answers" else 0)


def test_the_way_out_of_a_cut_table_mends_it(store: Path, demo: Path) -> None:
    cut(store, "keyframes", "keyframes", 0.7)
    assert sevila("stage", demo, store, "select_keyframes", "--again") == 0
    assert sevila("run", demo, store) == 0


@pytest.mark.parametrize("kind", ["questions", "metrics"])
def test_a_record_stripped_of_its_files_and_their_counts_is_found_and_no_table_of_it_is_empty(
    store: Path, demo: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    stripped = artifact(store, kind)
    record = replace(stripped.record, files={}, rows={}).sealed()
    write_note(stripped.path / RECORD, record.as_note())
    assert main(["cache", "verify", record.id, "--store", f"{store}"]) == 1
    assert f"{record.id}/record.json: names no file at all" in capsys.readouterr().out
    with pytest.raises(CorruptArtifactError, match="names no file of it"):
        artifact(store, kind).rows(next(iter(stripped.tables)))
    if kind == "questions":
        assert sevila("run", demo, store) == 1
        assert "names no file of it" in capsys.readouterr().err
    assert main(["cache", "verify", "--all", "--drop", "--store", f"{store}"]) in (0, 1)
    assert sevila("run", demo, store) == 0
    assert main(["cache", "verify", "--all", "--store", f"{store}"]) == 0
