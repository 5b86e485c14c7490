"""Features of the long-video data sets: options with letters, true frames, several layouts in one folder."""

import json
from pathlib import Path
from typing import Any

import pytest

from cache.errors import MissingSourceError, SchemaError
from cli import main
from pipeline.datasets import egoschema, longvideobench, mlvu, videomme
from pipeline.datasets.adapter import files_of
from pipeline.datasets.question import Annotations
from tests.pipeline.datasets.layouts import Layout, Raw, parquet
from tests.pipeline.datasets.long_layouts import (
    EGOSCHEMA_JSON,
    EGOSCHEMA_PARQUET,
    LONGVIDEOBENCH_JSON,
    LONGVIDEOBENCH_PARQUET,
    MLVU_JSON,
    MLVU_PARQUET,
    VIDEOMME_JSON,
    VIDEOMME_PARQUET,
)


def with_options(folder: Path, options: Any, answer: Any = None) -> Annotations:
    rows = [VIDEOMME_JSON.rows[0] | {"options": options, "answer": answer}, VIDEOMME_JSON.rows[1]]
    return VIDEOMME_JSON.read(folder, rows)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["A. Apples.", "B. Candles."], ("Apples.", "Candles.")),
        (["A) 1", "B) 2", "C) 3"], ("1", "2", "3")),
        (["(A) yes", "(B) no"], ("yes", "no")),
        (["a. yes", "b. no"], ("yes", "no")),
        (["A: yes", "B:no"], ("yes", "no")),
        (["A. A. Milne", "B. B. King"], ("A. Milne", "B. King")),  # only once: the second letter is part of the name
        (["A. Milne", "Poe"], ("A. Milne", "Poe")),
        (["E. coli", "S. aureus"], ("E. coli", "S. aureus")),
        (["A", "B"], ("A", "B")),
        (["A.  où, 踢 🙂 ", "B. là"], ("où, 踢 🙂", "là")),
    ],
)
def test_letters_before_every_option_are_removed_once(
    tmp_path: Path, options: list[str], expected: tuple[str, ...]
) -> None:
    assert with_options(tmp_path, options).questions[0].options == expected


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["B. yes", "A. no"], "options carry the letters B, A, A, B were wanted"),
        (["A. ", "B. no"], "options A is missing or empty"),
        (["A. yes", ""], "options 1 is missing or empty"),
        (["A. yes"], "options: 1 options, 2 to 26 were wanted"),
        ([], "options: 0 options"),
        (None, "options: no list of options"),
        ("A. yes", "options: no list of options"),
        (["A. yes", None], "options 1 is missing"),
        (["A. yes", 2.5], "options 1 is a JSON float"),
    ],
)
def test_invalid_options_reject_their_row(tmp_path: Path, options: Any, reason: str) -> None:
    (rejected,) = with_options(tmp_path, options).rejected
    assert rejected.reason.startswith(f"object 1: {reason}")


@pytest.mark.parametrize(("answer", "index"), [("A", 0), ("B", 1), ("b", 1), ("(B)", 1), ("B.", 1), ("", None)])
def test_a_letter_answer_is_the_position_of_its_option(tmp_path: Path, answer: str, index: int) -> None:
    # The options are letters themselves.
    assert with_options(tmp_path, ["A. B", "B. A"], answer).questions[0].answer_index == index


@pytest.mark.parametrize("answer", ["C", "AB", "A or B", "()", "0", 0, "yes"])
def test_an_answer_that_is_not_the_letter_of_an_option_rejects_its_row(tmp_path: Path, answer: Any) -> None:
    (rejected,) = with_options(tmp_path, ["A. yes", "B. no"], answer).rejected
    assert rejected.reason.startswith("object 1: answer is")


def test_an_answer_of_mlvu_is_the_text_of_an_option(tmp_path: Path) -> None:
    rows = [row | {"candidates": ["B", "A", "3", 2]} for row in MLVU_JSON.rows]
    annotations = MLVU_JSON.read(tmp_path, [rows[0] | {"answer": "A"}, rows[1] | {"answer": 2}])
    assert [question.answer_index for question in annotations.questions] == [1, 3]
    (rejected,) = MLVU_JSON.read(tmp_path, [rows[0] | {"answer": "C"}, rows[1] | {"answer": None}]).rejected
    assert "answer is 'C', the text of none of the options" in rejected.reason


@pytest.mark.parametrize(("answer", "index"), [("0", 0), ("4", 4), ("B", 1), (None, None), ("", None)])
def test_an_answer_of_egoschema_is_a_position_or_a_letter(tmp_path: Path, answer: str | None, index: int) -> None:
    rows = [row | {"answer": answer} for row in EGOSCHEMA_PARQUET.rows]
    assert [question.answer_index for question in EGOSCHEMA_PARQUET.read(tmp_path, rows).questions] == [index, index]


def test_video_mme_is_reported_by_duration_and_by_domain(tmp_path: Path) -> None:
    first, second = VIDEOMME_PARQUET.read(tmp_path, VIDEOMME_PARQUET.rows).questions
    assert (first.question_type, second.question_type) == ("short, Knowledge", "long, Life Record")
    assert [videomme.group(question.question_type) for question in (first, second)] == ["short", "long"]
    assert first.question_type in videomme.pooled_types["Knowledge"]
    assert second.question_type in videomme.pooled_types["Life Record"]


def test_longvideobench_is_reported_by_duration_category_and_level(tmp_path: Path) -> None:
    for layout in (LONGVIDEOBENCH_JSON, LONGVIDEOBENCH_PARQUET):
        first, second = layout.read(tmp_path, layout.rows).questions
        (tmp_path / layout.file_name).unlink()
        assert [longvideobench.group(question.question_type) for question in (first, second)] == ["600 s", "15 s"]
        pools = [{pool for pool, types in longvideobench.pooled_types.items() if first.question_type in types}]
        assert pools == [{"L2-Relation", "TOS"}]
        assert second.question_type in longvideobench.pooled_types["L1-Perception"]


def test_a_question_without_duration_or_domain_is_kept(tmp_path: Path) -> None:
    rows = [row | {"duration": None, "domain": None} for row in VIDEOMME_JSON.rows]
    assert [question.question_type for question in VIDEOMME_JSON.read(tmp_path, rows).questions] == ["", ""]


def test_positions_of_longvideobench_become_moment_frames(tmp_path: Path) -> None:
    questions = LONGVIDEOBENCH_JSON.read(tmp_path, LONGVIDEOBENCH_JSON.rows).questions
    assert [question.moment_frames for question in questions] == [(854, 948, 1373), (27,)]


@pytest.mark.parametrize("position", [[-1], [1.5], ["7"], [True], "854", {"0": 1}, [[1, 2]], [10**400]])
def test_invalid_positions_are_ignored_with_a_note(tmp_path: Path, position: Any) -> None:
    rows = [LONGVIDEOBENCH_JSON.rows[0] | {"position": position}, LONGVIDEOBENCH_JSON.rows[1]]
    annotations = LONGVIDEOBENCH_JSON.read(tmp_path, rows)
    assert annotations.rejected == [] and annotations.questions[0].moment_frames == ()
    assert annotations.questions[0].note.startswith("position not used:")


def test_option_columns_without_a_value_are_no_options(tmp_path: Path) -> None:
    questions = LONGVIDEOBENCH_PARQUET.read(tmp_path, LONGVIDEOBENCH_PARQUET.rows).questions
    assert [question.options for question in questions] == [
        ("in and run", "and front", "in and front", "i still"),
        ("a", "car", "door"),
    ]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"option1": "N/A"}, "option 1 is missing or empty"),  # the answer would denote another option
        ({"correct_choice": 4}, "correct_choice is 4, an index from 0 to 3 was wanted"),
        (dict.fromkeys(longvideobench.OPTIONS, "N/A"), "option: 0 options, 2 to 26 were wanted"),
    ],
)
def test_a_missing_or_wrong_option_rejects_its_row(tmp_path: Path, changes: Raw, reason: str) -> None:
    rows = [LONGVIDEOBENCH_PARQUET.rows[0] | changes, LONGVIDEOBENCH_PARQUET.rows[1]]
    (rejected,) = LONGVIDEOBENCH_PARQUET.read(tmp_path, rows).rejected
    assert (rejected.line, rejected.reason) == (1, reason)


def test_choice_minus_one_is_no_answer_in_the_test_split_and_invalid_elsewhere(tmp_path: Path) -> None:
    rows = [row | {"correct_choice": -1} for row in LONGVIDEOBENCH_PARQUET.rows]
    (tmp_path / "test-00000-of-00001.parquet").write_bytes(parquet(rows))
    annotations = longvideobench.read(tmp_path, "test")
    assert [question.answer_index for question in annotations.questions] == [None, None]
    assert len(LONGVIDEOBENCH_PARQUET.read(tmp_path, rows).rejected) == 2


def test_one_video_at_two_paths_rejects_the_later_row(tmp_path: Path) -> None:
    first, second = LONGVIDEOBENCH_JSON.rows
    (rejected,) = LONGVIDEOBENCH_JSON.read(tmp_path, [first, second | {"video_id": first["video_id"]}]).rejected
    assert "the video '86CxyhFV9MI' lies at '7203.mp4', but at '86CxyhFV9MI.mp4' by a row before" in rejected.reason


@pytest.mark.parametrize(
    ("preferred", "other"),
    [
        (LONGVIDEOBENCH_JSON, LONGVIDEOBENCH_PARQUET),
        (VIDEOMME_JSON, VIDEOMME_PARQUET),
        (EGOSCHEMA_JSON, EGOSCHEMA_PARQUET),
    ],
    ids=lambda layout: layout.name,
)
def test_the_original_of_two_layouts_in_one_folder_is_read(tmp_path: Path, preferred: Layout, other: Layout) -> None:
    alone = preferred.read(tmp_path, preferred.rows)
    (tmp_path / other.file_name).write_bytes(parquet(other.rows))
    assert files_of(preferred.adapter, tmp_path, preferred.split) == [tmp_path / preferred.file_name]
    assert preferred.adapter.read(tmp_path, preferred.split) == alone


def test_options_repeated_in_an_mlvu_question_are_removed(tmp_path: Path) -> None:
    questions = MLVU_PARQUET.read(tmp_path, MLVU_PARQUET.rows).questions
    assert [question.question for question in questions] == [
        "What does the hand do?",
        "Arrange: (1) They paddle; (2) They stop.",
    ]


@pytest.mark.parametrize(
    "text", ["Which?\n(A) Delivers it\n(B) Shakes", "(A) Delivers it\n(B) Shakes\n(C) Points", "Is it\n(A) or not?"]
)
def test_a_question_that_repeats_other_options_is_unchanged(tmp_path: Path, text: str) -> None:
    rows = [MLVU_PARQUET.rows[0] | {"question": text}, MLVU_PARQUET.rows[1]]
    assert MLVU_PARQUET.read(tmp_path, rows).questions[0].question == text


def test_seven_mlvu_files_are_one_split(tmp_path: Path) -> None:
    for task, folder in mlvu.FOLDERS.items():
        rows = [row | {"question_type": task} for row in MLVU_JSON.rows]
        (tmp_path / f"{folder}.json").write_text(json.dumps(rows))
    annotations = mlvu.read(tmp_path, "dev")
    assert annotations.rejected == [] and len({question.question_id for question in annotations.questions}) == 14
    assert {question.question_type for question in annotations.questions} == set(mlvu.FOLDERS)
    assert len(mlvu.files(tmp_path, "dev")) == 7 and mlvu.headline == "mean_of_groups"
    # Videos of two tasks can have one name, so the folder of the task is searched first.
    assert len(annotations.videos) == 14 and annotations.videos[0].path == "1_plotQA/count_122.mp4"
    assert annotations.videos[0].other_paths[-1] == "count_122.mp4"
    assert [question.question_id for question in mlvu.read(tmp_path, "ego").questions] == ["ego#0", "ego#1"]
    (tmp_path / "3_ego.json").unlink()
    with pytest.raises(MissingSourceError, match=r"3_ego\.json: missing"):
        mlvu.read(tmp_path, "dev")


def test_egoschema_uses_the_public_answers_in_its_folder(tmp_path: Path) -> None:
    for layout in (EGOSCHEMA_JSON, EGOSCHEMA_PARQUET):
        layout.read(tmp_path, [row | {"answer": None} for row in layout.rows])
        (tmp_path / egoschema.ANSWERS_FILE).write_text('{"001934bb-81bd": 0, "another": 3}')
        annotations = egoschema.read(tmp_path / layout.file_name, "test")
        assert [question.answer_index for question in annotations.questions] == [0, None]
        assert [question.question_id for question in annotations.questions] == ["001934bb-81bd", "04c06e07-3e45"]
        assert egoschema.files(tmp_path / layout.file_name, "test")[1:] == [tmp_path / egoschema.ANSWERS_FILE]


@pytest.mark.parametrize("content", ["", "[1, 2]", "{", "<html>"])
def test_invalid_public_answers_are_one_error(tmp_path: Path, content: str) -> None:
    (tmp_path / egoschema.ANSWERS_FILE).write_text(content)
    with pytest.raises(SchemaError, match=egoschema.ANSWERS_FILE):
        EGOSCHEMA_JSON.read(tmp_path, EGOSCHEMA_JSON.rows)


def test_the_listing_counts_the_questions_of_every_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for layout in (LONGVIDEOBENCH_JSON, LONGVIDEOBENCH_PARQUET):
        (tmp_path / layout.file_name).write_bytes(
            content if isinstance(content := layout.content(layout.rows), bytes) else content.encode()
        )
    assert main(["datasets", "longvideobench", "--annotations", f"longvideobench={tmp_path}"]) == 0
    text = capsys.readouterr().out
    assert "lvb_val.json: 2 questions, 2 with a known answer, 2 with moments, about 2 videos; 0 rows rejected" in text
    assert "validation-00000-of-00001.parquet: 2 questions, 2 with a known answer, 0 with moments" in text
