"""Scores made elsewhere in the Localizer's place: AKS's lists or a table, held against the frames that were sampled."""

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
def own(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(finished, tmp_path_factory.mktemp("imported") / "store"))


@pytest.fixture(scope="module")
def questions(own: Path) -> list[Question]:
    asked: list[Question] = artifact(own, "questions").questions()
    return asked


@pytest.fixture(scope="module")
def scores(own: Path, questions: list[Question]) -> Scores:
    """Scores of the sampled frames of every question; a failed video's have no frames."""
    clips, rng = artifact(own, "frames").clips(), np.random.default_rng(0)
    drawn: Scores = {}
    for question in questions:
        clip = clips.get((question.video_id, question.clip_id))
        indices = [] if clip is None else clip["frame_index"].tolist()
        drawn[question.question_id] = {index: float(np.float32(rng.random())) for index in indices}
    return drawn


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


def imported(demo: Path, store: Path, place: Path, *more: str) -> ImportedScores:
    assert sevila("stage", demo, store, "import_scores", *IMPORTED, "--scores", f"{place}", *more) == 0
    newest = max(
        (Store(store).record(id) for id in Store(store) if id.startswith("import_scores")),
        key=lambda each: each.finished,
    )
    return ImportedScores(Store(store), newest.id)


def unscored(scores: ImportedScores) -> dict[str, str]:
    return {row.question_id: row.reason for row in scores.typed_rows("unscored", UnscoredQuestion)}


def test_a_chain_chooses_by_scores_from_elsewhere_and_answers(
    demo: Path, own: Path, scores: Scores, tmp_path: Path
) -> None:
    place = write_table(tmp_path / "scores.csv", list(rows_of(scores)))
    more = ("--set", "select_keyframes.selector=aks", "--set", "select_keyframes.k=3")
    assert sevila("run", demo, own, *IMPORTED, "--scores", f"{place}", *more) == 0
    keyframes: Keyframes = artifact(own, "keyframes")
    assert str(keyframes.record.inputs["scores"]).startswith("import_scores-v1-")
    chosen = [row for row in keyframes.rows("keyframes") if row["status"] == "ok"]
    assert len(chosen) == 24
    for row in chosen:
        frames = scores[row["question_id"]]
        wanted = selector_named("aks")(Candidates.of(scores=list(frames.values())), 3)
        assert row["frame_indices"] == np.array(list(frames))[wanted].tolist()
    answers = artifact(own, "answers").record
    assert answers.inputs["keyframes"] == keyframes.id and answers.rows["answers"] == 30


def test_a_table_of_any_kind_and_akss_lists_give_the_same_scores(
    demo: Path, own: Path, scores: Scores, tmp_path: Path
) -> None:
    rows = list(rows_of(scores))
    places = [write_table(tmp_path / f"scores.{kind}", rows[::-1]) for kind in ("csv", "jsonl", "parquet")]
    made = [imported(demo, own, place) for place in [*places, write_lists(tmp_path / "lists", scores)]]
    assert len({each.id for each in made}) == 4  # by content of the files
    for each in made:
        table = each.columns("frame_scores", "question_id", "frame_index", "logit_yes", "logit_no", "probability_yes")
        assert [*zip(table["question_id"], table["frame_index"], strict=True)] == [
            (question_id, index) for question_id, frames in scores.items() for index in frames
        ]
        assert np.array_equal(table["logit_yes"], np.float32([row["score"] for row in rows]))
        assert np.array_equal(table["logit_yes"], table["probability_yes"]) and not table["logit_no"].any()


def test_rows_in_seconds_and_of_another_column_are_of_the_frame_shown_then(
    demo: Path, own: Path, scores: Scores, tmp_path: Path
) -> None:
    rows = [
        {"question_id": row["question_id"], "seconds": round(row["frame_index"] / 8, 2), "clip": row["score"]}
        for row in rows_of(scores)
    ]
    of_seconds = imported(demo, own, write_table(tmp_path / "s.jsonl", rows), "--set", "import_scores.column=clip")
    assert not unscored(of_seconds) and of_seconds.record.rows["frame_scores"] == len(rows)


def test_seconds_of_one_frame_have_one_score_and_the_videos_end_is_its_last_frames(
    demo: Path, own: Path, scores: Scores, tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = [
        {"question_id": id, "seconds": index / 8, "score": score}
        for id, frames in scores.items()
        for index, score in frames.items()
    ]
    twice, again, end, *_ = (id for id, frames in scores.items() if frames)
    (index, score), *_ = scores[twice].items()
    rows += [{"question_id": twice, "seconds": index / 8 + 0.01, "score": score + 1}]
    (index, score), *_ = scores[again].items()
    rows += [{"question_id": again, "seconds": index / 8 + 0.01, "score": score}]
    rows += [{"question_id": end, "seconds": 6.0, "score": 0.5}]  # of 48 frames, 8 a second
    of_seconds = imported(demo, own, write_table(tmp_path / "s.jsonl", rows))
    first = next(iter(scores[twice]))
    assert unscored(of_seconds) == {twice: f"no_scores: two scores lie on frame {first}"}


def test_a_question_without_scores_of_its_frames_is_a_row_with_the_reason(
    demo: Path, own: Path, questions: list[Question], scores: Scores, tmp_path: Path
) -> None:
    scored = [id for id, frames in scores.items() if frames]
    absent, short, far, *_ = scored
    changed = {id: dict(frames) for id, frames in scores.items() if id != absent} | {"q-unknown": {3: 0.5}}
    short_frame = list(changed[short])[2]
    del changed[short][short_frame]
    changed[far][10_000] = 0.5
    place = write_table(tmp_path / "scores.parquet", list(rows_of(changed)))
    assert sevila("run", demo, own, *IMPORTED, "--scores", f"{place}") == 0
    rows = {row["question_id"]: row for row in artifact(own, "keyframes").rows("keyframes")}
    assert rows[absent]["reason"] == "no_scores: the files have none for it"
    assert rows[short]["reason"].startswith(
        f"no_scores: 1 of 8 sampled frames have no score, such as frame {short_frame}; "
    )
    assert (
        rows[far]["reason"] == "no_scores: frame 10000 is scored, and the video has 48: the scores are another video's"
    )
    assert [row["status"] for row in rows.values()].count("ok") == 21
    record = artifact(own, "keyframes").record
    record = Store(own).record(str(record.inputs["scores"]))
    assert record.dropped == {"no_scores": 3, "unknown question": 1}
    (unused,) = ImportedScores(Store(own), record.id).rows("unused")
    assert unused["reason"] == "no question 'q-unknown' is asked here" and unused["file"] == "scores.parquet"
    assert artifact(own, "answers").record.rows["answers"] == 30  # nothing is lost


def test_frames_between_the_scored_ones_take_the_nearest_score_where_that_is_asked_for(
    demo: Path, own: Path, scores: Scores, tmp_path: Path
) -> None:
    moved = {id: {index + 1: score for index, score in frames.items()} for id, frames in scores.items()}
    place = write_table(tmp_path / "scores.csv", list(rows_of(moved)))
    assert sevila("stage", demo, own, "import_scores", *IMPORTED, "--scores", f"{place}") == 1
    near = imported(demo, own, place, "--set", "import_scores.tolerance_seconds=0.125")
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
def test_a_row_at_fault_is_one_error_that_names_it(
    line: str, message: str, demo: Path, own: Path, scores: Scores, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = next(rows_of(scores))
    names = {"id": row["question_id"], "index": row["frame_index"]}
    content = f"question_id,frame_index,score\n{row['question_id']},{row['frame_index']},0.25\n"
    (tmp_path / "scores.csv").write_text(content + line.format(**names) + "\n")
    assert sevila("stage", demo, own, "import_scores", *IMPORTED, "--scores", f"{tmp_path / 'scores.csv'}") == 1
    printed = capsys.readouterr().err
    assert f"scores.csv: {message.format(**names)}" in printed


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
def test_a_file_that_holds_no_scores_is_one_error(
    name: str, content: str, message: str, demo: Path, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    if name == "lists":
        path.mkdir()
        (path / "scores.json").write_text(content)
        (path / "frames.json").write_text("[[0, 1]]")
    else:
        path.write_text(content)
    assert sevila("stage", demo, own, "import_scores", *IMPORTED, "--scores", f"{path}") == 1
    assert message in capsys.readouterr().err


def test_scores_that_nobody_placed_or_uses_are_refused(
    demo: Path, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sevila("run", demo, own, *IMPORTED) == 1
    assert (
        "no path is given for the scores 'scores' on this machine: give `--scores scores=PATH`"
        in capsys.readouterr().err
    )
    assert sevila("run", demo, own, "--scores", f"{tmp_path}") == 1
    assert "scores are not used here; wanted no --scores" in capsys.readouterr().err


def test_predicted_spans_become_scores_inside_the_best_of_which_frames_are_spread(
    demo: Path, own: Path, questions: list[Question], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    windows = [[0.0, 3.0, 0.9], [2.5, 6.0, 0.4]]
    rows = [{"qid": question.question_id, "pred_relevant_windows": windows} for question in questions]
    predictions, table = tmp_path / "spans.jsonl", tmp_path / "scores.jsonl"
    predictions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    keyframes = next(id for id in Store(own) if id.startswith("select_keyframes"))
    command = ["moments", "scores", str(predictions), keyframes, "--store", str(own)]
    with pytest.raises(SystemExit):
        main([*command, "-o", str(predictions)])
    assert "pred_relevant_windows" in predictions.read_text()
    assert main([*command, "-o", str(table)]) == 0
    more = ("--set", "select_keyframes.selector=spans", "--set", "select_keyframes.k=2")
    assert sevila("run", demo, own, *IMPORTED, "--scores", f"{table}", *more) == 0
    chosen = [row for row in artifact(own, "keyframes").rows("keyframes") if row["status"] == "ok"]
    assert len(chosen) == 24 and all(max(row["seconds"]) <= 3.0 for row in chosen)
    assert all(np.allclose(row["scores"], 0.9) for row in chosen)

    predictions.write_text(json.dumps(rows[0] | {"qid": "another"}) + "\n")
    capsys.readouterr()
    assert main(command) == 1
    assert "1 queries with windows, none of them a question of list_questions-" in capsys.readouterr().err
