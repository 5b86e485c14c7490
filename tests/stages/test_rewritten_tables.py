"""A table that another program rewrote, with a record that agrees, is refused by its readers instead of being used."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from cache.errors import CorruptArtifactError
from cache.notes import write_note
from cache.record import RECORD, describe_files
from cli import main
from tests.stages.runs import artifact, sevila
from tests.stages.training import make_world

Rows = list[dict[str, Any]]


def rewrite(artifact: Any, table: str, change: Callable[[Rows], Any]) -> str:
    """Change the rows of a table, and reseal its record."""
    (name,) = [name for name in artifact.record.files if name.startswith((f"{table}.", f"{table}/"))]
    stored = pyarrow.parquet.read_table(artifact.path / name)
    rows = stored.to_pylist()
    change(rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, stored.schema), artifact.path / name)
    files = artifact.record.files | describe_files(artifact.path, [name])
    counts = artifact.record.rows | {table: len(rows)}
    record = replace(artifact.record, files=files, rows=counts).sealed(artifact.record.content.partition(".")[2])
    write_note(artifact.path / RECORD, record.as_note())
    artifact.forget()
    return str(artifact.id)


def repeat_a_row(rows: Rows) -> None:
    rows.append(dict(rows[0]))


def exchange(rows: Rows, *columns: str) -> None:
    """Exchange two neighbouring rows, or some columns of them."""
    a, b = rows[2], rows[3]
    rows[2], rows[3] = (
        (b, a) if not columns else ({**a, **{c: b[c] for c in columns}}, {**b, **{c: a[c] for c in columns}})
    )


def set_first(column: str, value: Any) -> Callable[[Rows], None]:
    return lambda rows: rows[0].update({column: value})


@pytest.mark.parametrize(
    ("kind", "table", "change", "message"),
    [
        ("questions", "questions", repeat_a_row, "row 30 .*its key is that of row 0; expected each once"),
        ("questions", "videos", repeat_a_row, "row 10 .*its key is that of row 0; expected each once"),
        ("questions", "questions", set_first("question_type", None), "row 0 .*'question_type' is null"),
        ("frames", "videos", repeat_a_row, "row 10 .*its key is that of row 0"),
        ("frames", "videos", set_first("status", "failed"), "has status 'failed' and reason ''; expected ok"),
        ("frames", "frames", exchange, r"row 2 \(.*video_id '.*', position 3\): .* holds 3; expected 2"),
        (
            "frames",
            "frames",
            lambda rows: exchange(rows, "row"),
            "row 3 of its frames .*, row 2 after 3; expected the order",
        ),
        ("features", "videos", repeat_a_row, "row 10 .*its key is that of row 0"),
        ("frame_scores", "frame_scores", exchange, r"row 2 .*position 3\): column 'position' holds 3; expected 2"),
        ("frame_scores", "frame_scores", repeat_a_row, "row 192 .*its key is that of row 0"),
        (
            "frame_scores",
            "frame_scores",
            lambda rows: exchange(rows, "frame_index", "seconds"),
            "has other frames of question '00_.*', or in another order, than sample_frames",
        ),
        ("keyframes", "keyframes", repeat_a_row, "row 30 .*its key is that of row 0"),
        ("keyframes", "keyframes", lambda rows: exchange(rows, "video_id", "clip_id"), "lacks 2 of the 30 questions"),
        (
            "keyframes",
            "keyframes",
            lambda rows: rows[0]["rows"].reverse(),
            "has frames at .*; expected the order of time",
        ),
        ("keyframes", "keyframes", lambda rows: rows[0]["seconds"].pop(), "has .* positions, rows, frames, times and"),
        ("answers", "answers", repeat_a_row, "row 30 .*its key is that of row 0"),
        ("answers", "answers", set_first("prediction", -1), "row 0 .*'prediction' holds -1; expected 0 or more"),
        ("answers", "answers", set_first("video_id", "another"), "lacks 1 of the 30 questions"),
        (
            "answers",
            "answers",
            set_first("prediction", None),
            "has the prediction None and the reason ''; expected one",
        ),
        (
            "questions",
            "questions",
            set_first("answer_index", 9),
            "'00_red_circle#0' has the right option 9, from 0, of 4",
        ),
        (
            "frames",
            "videos",
            set_first("frames_per_second", None),
            "has 48 frames, None a second, 6.0 s; expected more",
        ),
    ],
)
def test_a_rewritten_table_is_refused_with_its_row_and_the_command_to_rebuild_it(
    store: Path,
    demo: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    table: str,
    change: Callable[[Rows], Any],
    message: str,
) -> None:
    id = rewrite(artifact(store, kind), table, change)
    assert sevila("run", demo, store) == 1
    error = capsys.readouterr().err
    assert re.search(message, error) and f"sevila stage {id.split('-')[0]} RECIPE --again" in error
    assert id in error and "Traceback" not in error


def test_rows_of_score_files_that_are_exchanged_are_refused_without_the_frames_in_the_store(store: Path) -> None:
    scores = artifact(store, "frame_scores")
    rewrite(scores, "frame_scores", exchange)
    shutil.rmtree(artifact(store, "frames").path)
    with pytest.raises(CorruptArtifactError, match="column 'position' holds 3; expected 2"):
        scores.by_question()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_first("frame_index", 1), "has other frames of question"),
        (set_first("label", False), "lacks 1 of the .* questions with labels of another of its tables"),
        (exchange, "column 'position' holds 3; expected 2"),
        (repeat_a_row, "its key is that of row 0"),
    ],
)
def test_labels_are_held_against_their_frames_and_counts(
    tmp_path: Path, change: Callable[[Rows], Any], message: str
) -> None:
    world = make_world(tmp_path / "world", videos=2)
    labels, questions, frames = (world.inputs[name] for name in ("labels", "questions", "frames"))
    assert len(labels.by_question(questions, frames)) == 6
    rewrite(labels, "pseudo_labels", change)
    with pytest.raises(CorruptArtifactError, match=message):
        labels.by_question(questions, frames)


def test_exported_keyframes_are_those_of_their_clips(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    id = rewrite(artifact(store, "keyframes"), "keyframes", lambda rows: rows[0]["frame_indices"].__setitem__(-1, 47))
    export = ["keyframes", "export", id, "-o", str(tmp_path / "keyframes.json"), "--store", str(store)]
    assert main(export) == 1
    assert re.search("has frames .*47. at positions .*; its clip in .* has others", capsys.readouterr().err)
    assert not (tmp_path / "keyframes.json").exists()
