"""Scores of another program in place of the Localizer's: AKS's lists or a table, matched to the sampled frames."""

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.store import Store
from cache.tables import Schema, write_rows
from cli import main
from pipeline.datasets.question import Question
from pipeline.selection.registry import selector_named
from pipeline.selection.selector import Candidates
from stages.import_scores import ImportedScores, UnscoredQuestion
from stages.select_keyframes import Keyframes
from tests.stages.runs import artifact, sevila

IMPORTED = ("--set", "chain.scorer=imported")
Scores = dict[str, dict[int, float]]  # by question and frame


@pytest.fixture(scope="module")
def store(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(finished, tmp_path_factory.mktemp("imported") / "store"))


@pytest.fixture(scope="module")
def questions(store: Path) -> list[Question]:
    questions: list[Question] = artifact(store, "questions").questions()
    return questions


@pytest.fixture(scope="module")
def scores(store: Path, questions: list[Question]) -> Scores:
    """Scores of the sampled frames of every question; questions of failed videos have none."""
    clips, rng = artifact(store, "frames").clips(), np.random.default_rng(0)
    scores: Scores = {}
    for question in questions:
        clip = clips.get((question.video_id, question.clip_id))
        indices = [] if clip is None else clip["frame_index"].tolist()
        scores[question.question_id] = {index: float(np.float32(rng.random())) for index in indices}
    return scores


def rows_of(scores: Scores) -> Iterator[dict[str, Any]]:
    for question_id, frames in scores.items():
        for index, score in frames.items():
            yield {"question_id": question_id, "frame_index": index, "score": score}


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        write_rows(path, Schema(1, question_id="string", frame_index="int64", score="float64"), rows)
    return path


def write_lists(folder: Path, scores: Scores) -> Path:
    folder.mkdir()
    (folder / "scores.json").write_text(json.dumps([list(frames.values()) for frames in scores.values()]))
    (folder / "frames.json").write_text(json.dumps([list(frames) for frames in scores.values()]))
    return folder


def imported(demo: Path, store: Path, path: Path, *more: str) -> ImportedScores:
    assert sevila("stage", demo, store, "import_scores", *IMPORTED, "--scores", f"{path}", *more) == 0
    newest = max(
        (Store(store).record(id) for id in Store(store) if id.startswith("import_scores")),
        key=lambda each: each.finished,
    )
    return ImportedScores(Store(store), newest.id)


def unscored(scores: ImportedScores) -> dict[str, str]:
    return {row.question_id: row.reason for row in scores.typed_rows("unscored", UnscoredQuestion)}


def test_a_run_selects_by_imported_scores_and_answers(demo: Path, store: Path, scores: Scores, tmp_path: Path) -> None:
    path = write_table(tmp_path / "scores.csv", list(rows_of(scores)))
    more = ("--set", "select_keyframes.selector=aks", "--set", "select_keyframes.k=3")
    assert sevila("run", demo, store, *IMPORTED, "--scores", f"{path}", *more) == 0
    keyframes: Keyframes = artifact(store, "keyframes")
    assert str(keyframes.record.inputs["scores"]).startswith("import_scores-v1-")
    chosen = [row for row in keyframes.rows("keyframes") if row["status"] == "ok"]
    assert len(chosen) == 24
    for row in chosen:
        frames = scores[row["question_id"]]
        expected = selector_named("aks")(Candidates.of(scores=list(frames.values())), 3)
        assert row["frame_indices"] == np.array(list(frames))[expected].tolist()
    answers = artifact(store, "answers").record
    assert answers.inputs["keyframes"] == keyframes.id and answers.rows["answers"] == 30


def test_csv_jsonl_parquet_and_aks_lists_give_the_same_scores(
    demo: Path, store: Path, scores: Scores, tmp_path: Path
) -> None:
    rows = list(rows_of(scores))
    paths = [write_table(tmp_path / f"scores.{kind}", rows[::-1]) for kind in ("csv", "jsonl", "parquet")]
    imports = [imported(demo, store, path) for path in [*paths, write_lists(tmp_path / "lists", scores)]]
    assert len({item.id for item in imports}) == 4  # the id depends on the content of the files
    for item in imports:
        table = item.columns("frame_scores", "question_id", "frame_index", "logit_yes", "logit_no", "probability_yes")
        assert [*zip(table["question_id"], table["frame_index"], strict=True)] == [
            (question_id, index) for question_id, frames in scores.items() for index in frames
        ]
        assert np.array_equal(table["logit_yes"], np.float32([row["score"] for row in rows]))
        assert np.array_equal(table["logit_yes"], table["probability_yes"]) and not table["logit_no"].any()


def test_rows_in_seconds_and_of_another_column_match_frames(
    demo: Path, store: Path, scores: Scores, tmp_path: Path
) -> None:
    rows = [
        {"question_id": row["question_id"], "seconds": round(row["frame_index"] / 8, 2), "clip": row["score"]}
        for row in rows_of(scores)
    ]
    of_seconds = imported(demo, store, write_table(tmp_path / "s.jsonl", rows), "--set", "import_scores.column=clip")
    assert not unscored(of_seconds) and of_seconds.record.rows["frame_scores"] == len(rows)


def test_two_scores_in_one_frame_are_refused_and_the_videos_end_is_its_last_frame(
    demo: Path, store: Path, scores: Scores, tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = [
        {"question_id": id, "seconds": index / 8, "score": score}
        for id, frames in scores.items()
        for index, score in frames.items()
    ]
    conflicting, repeated, end, *_ = (id for id, frames in scores.items() if frames)
    (index, score), *_ = scores[conflicting].items()
    rows += [{"question_id": conflicting, "seconds": index / 8 + 0.01, "score": score + 1}]
    (index, score), *_ = scores[repeated].items()
    rows += [{"question_id": repeated, "seconds": index / 8 + 0.01, "score": score}]
    rows += [{"question_id": end, "seconds": 6.0, "score": 0.5}]  # of 48 frames, 8 a second
    of_seconds = imported(demo, store, write_table(tmp_path / "s.jsonl", rows))
    first = next(iter(scores[conflicting]))
    assert unscored(of_seconds) == {conflicting: f"no_scores: two scores lie on frame {first}"}


def test_questions_without_all_scores_fail_with_a_reason(
    demo: Path, store: Path, scores: Scores, tmp_path: Path
) -> None:
    scored = [id for id, frames in scores.items() if frames]
    unlisted, incomplete, too_long, *_ = scored
    changed = {id: dict(frames) for id, frames in scores.items() if id != unlisted} | {"q-unknown": {3: 0.5}}
    missing_frame = list(changed[incomplete])[2]
    del changed[incomplete][missing_frame]
    changed[too_long][10_000] = 0.5
    path = write_table(tmp_path / "scores.parquet", list(rows_of(changed)))
    assert sevila("run", demo, store, *IMPORTED, "--scores", f"{path}") == 0
    rows = {row["question_id"]: row for row in artifact(store, "keyframes").rows("keyframes")}
    assert rows[unlisted]["reason"] == "no_scores: the files have none for it"
    assert rows[incomplete]["reason"].startswith(
        f"no_scores: 1 of 8 sampled frames have no score, such as frame {missing_frame}; "
    )
    expected = "no_scores: frame 10000 is scored, and the video has 48: the scores are another video's"
    assert rows[too_long]["reason"] == expected
    assert [row["status"] for row in rows.values()].count("ok") == 21
    record = artifact(store, "keyframes").record
    record = Store(store).record(str(record.inputs["scores"]))
    assert record.dropped == {"no_scores": 3, "unknown question": 1}
    (unused,) = ImportedScores(Store(store), record.id).rows("unused")
    assert unused["reason"] == "no question 'q-unknown' is asked here" and unused["file"] == "scores.parquet"
    assert artifact(store, "answers").record.rows["answers"] == 30  # every question has a row


def test_frames_take_the_nearest_score_within_the_tolerance(
    demo: Path, store: Path, scores: Scores, tmp_path: Path
) -> None:
    moved = {id: {index + 1: score for index, score in frames.items()} for id, frames in scores.items()}
    path = write_table(tmp_path / "scores.csv", list(rows_of(moved)))
    assert sevila("stage", demo, store, "import_scores", *IMPORTED, "--scores", f"{path}") == 1
    near = imported(demo, store, path, "--set", "import_scores.tolerance_seconds=0.125")
    assert not unscored(near) and near.record.rows["frame_scores"] == len(list(rows_of(moved)))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{id},{index},0.5", r"line 3: question '{id}', frame_index {index}: is scored on line 2 already"),
        ("{id},{index}1,nan", r"line 3: score is 'nan'; expected a finite number"),
        ("{id},{index}1,1e39", r"line 3: score is '1e39'; expected a finite number"),
        ("{id},-1,0.5", r"line 3: frame_index is '-1'; expected a whole number from 0"),
        ("{id},1.5,0.5", r"line 3: frame_index is '1.5'; expected a whole number"),
        (",1,0.5", r"line 3: question_id is missing or empty"),
        ("{id},1", r"line 3: 2 cells, the header has 3"),
    ],
)
def test_an_invalid_row_is_named_by_its_line(
    line: str, message: str, demo: Path, store: Path, scores: Scores, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = next(rows_of(scores))
    values = {"id": row["question_id"], "index": row["frame_index"]}
    content = f"question_id,frame_index,score\n{row['question_id']},{row['frame_index']},0.25\n"
    (tmp_path / "scores.csv").write_text(content + line.format(**values) + "\n")
    assert sevila("stage", demo, store, "import_scores", *IMPORTED, "--scores", f"{tmp_path / 'scores.csv'}") == 1
    error = capsys.readouterr().err
    assert f"scores.csv: {message.format(**values)}" in error


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("scores.csv", "question_id,frame,score\nq,1,2\n", "no column 'frame_index'"),
        ("scores.csv", "question_id,frame_index,p\nq,1,2\n", "no column 'score'"),
        ("scores.csv", "question_id,frame_index,score\nq,1,2\n", "none of its 1 questions is asked here, such as 'q'"),
        ("scores.csv", "question_id,frame_index,score\n", "scores.csv: has no row; expected one per scored frame"),
        ("scores.csv", "", "line 1: the file is empty"),
        ("scores.jsonl", '{"question_id": "q"', "line 1: not JSON, or cut short"),
        ("scores.parquet", "PAR1", "not a whole Parquet file"),
        ("scores.txt", "", "ends in .txt; expected a table of scores"),
        ("lists", "[[1, 2]]", "1 entries for 30 questions; expected one each in the annotations' order"),
        ("lists", "[[1, NaN]]", "scores.json: entry 0 (from 0), score 1 is NaN"),
    ],
)
def test_files_without_scores_are_refused(
    name: str, content: str, message: str, demo: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    if name == "lists":
        path.mkdir()
        (path / "scores.json").write_text(content)
        (path / "frames.json").write_text("[[0, 1]]")
    else:
        path.write_text(content)
    assert sevila("stage", demo, store, "import_scores", *IMPORTED, "--scores", f"{path}") == 1
    assert message in capsys.readouterr().err


def test_missing_and_unused_scores_are_refused(
    demo: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sevila("run", demo, store, *IMPORTED) == 1
    assert (
        "no path is given for the scores 'scores' on this machine: give `--scores scores=PATH`"
        in capsys.readouterr().err
    )
    assert sevila("run", demo, store, "--scores", f"{tmp_path}") == 1
    assert "scores are not used here; expected no --scores" in capsys.readouterr().err


def test_predicted_spans_become_scores_for_the_spans_selector(
    demo: Path, store: Path, questions: list[Question], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    windows = [[0.0, 3.0, 0.9], [2.5, 6.0, 0.4]]
    rows = [{"qid": question.question_id, "pred_relevant_windows": windows} for question in questions]
    predictions, table = tmp_path / "spans.jsonl", tmp_path / "scores.jsonl"
    predictions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    keyframes = next(id for id in Store(store) if id.startswith("select_keyframes"))
    command = ["moments", "scores", str(predictions), keyframes, "--store", str(store)]
    with pytest.raises(SystemExit):
        main([*command, "-o", str(predictions)])
    assert "pred_relevant_windows" in predictions.read_text()
    assert main([*command, "-o", str(table)]) == 0
    more = ("--set", "select_keyframes.selector=spans", "--set", "select_keyframes.k=2")
    assert sevila("run", demo, store, *IMPORTED, "--scores", f"{table}", *more) == 0
    chosen = [row for row in artifact(store, "keyframes").rows("keyframes") if row["status"] == "ok"]
    assert len(chosen) == 24 and all(max(row["seconds"]) <= 3.0 for row in chosen)
    assert all(np.allclose(row["scores"], 0.9) for row in chosen)

    predictions.write_text(json.dumps(rows[0] | {"qid": "another"}) + "\n")
    capsys.readouterr()
    assert main(command) == 1
    assert "1 queries with windows, none of them a question of list_questions-" in capsys.readouterr().err
