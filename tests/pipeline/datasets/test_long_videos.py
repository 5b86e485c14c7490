"""What only the data sets of long videos have: options with letters, true frames, several layouts side by side."""

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
    ("given", "clean"),
    [
        (["A. Apples.", "B. Candles."], ("Apples.", "Candles.")),
        (["A) 1", "B) 2", "C) 3"], ("1", "2", "3")),
        (["(A) yes", "(B) no"], ("yes", "no")),
        (["a. yes", "b. no"], ("yes", "no")),
        (["A: yes", "B:no"], ("yes", "no")),
        (["A. A. Milne", "B. B. King"], ("A. Milne", "B. King")),  # once: the second letter is the name's
        (["A. Milne", "Poe"], ("A. Milne", "Poe")),
        (["E. coli", "S. aureus"], ("E. coli", "S. aureus")),
        (["A", "B"], ("A", "B")),
        (["A.  où, 踢 🙂 ", "B. là"], ("où, 踢 🙂", "là")),
    ],
)
def test_letters_that_every_option_carries_are_taken_off_once(
    tmp_path: Path, given: list[str], clean: tuple[str, ...]
) -> None:
    assert with_options(tmp_path, given).questions[0].options == clean


@pytest.mark.parametrize(
    ("given", "reason"),
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
def test_options_that_are_none_reject_their_row(tmp_path: Path, given: Any, reason: str) -> None:
    (rejected,) = with_options(tmp_path, given).rejected
    assert rejected.reason.startswith(f"object 1: {reason}")


@pytest.mark.parametrize(("answer", "index"), [("A", 0), ("B", 1), ("b", 1), ("(B)", 1), ("B.", 1), ("", None)])
def test_an_answer_that_is_a_letter_means_the_option_at_its_place(tmp_path: Path, answer: str, index: int) -> None:
    # Whatever the options are: letters of their own here.
    assert with_options(tmp_path, ["A. B", "B. A"], answer).questions[0].answer_index == index


@pytest.mark.parametrize("answer", ["C", "AB", "A or B", "()", "0", 0, "yes"])
def test_an_answer_that_is_no_letter_of_an_option_rejects_its_row(tmp_path: Path, answer: Any) -> None:
    (rejected,) = with_options(tmp_path, ["A. yes", "B. no"], answer).rejected
    assert rejected.reason.startswith("object 1: answer is")


def test_an_answer_of_the_mlvu_files_is_the_text_of_an_option(tmp_path: Path) -> None:
    rows = [row | {"candidates": ["B", "A", "3", 2]} for row in MLVU_JSON.rows]
    found = MLVU_JSON.read(tmp_path, [rows[0] | {"answer": "A"}, rows[1] | {"answer": 2}])
    assert [question.answer_index for question in found.questions] == [1, 3]
    (rejected,) = MLVU_JSON.read(tmp_path, [rows[0] | {"answer": "C"}, rows[1] | {"answer": None}]).rejected
    assert "answer is 'C', the text of none of the options" in rejected.reason


@pytest.mark.parametrize(("answer", "index"), [("0", 0), ("4", 4), ("B", 1), (None, None), ("", None)])
def test_an_answer_of_egoschema_is_a_position_or_a_letter(tmp_path: Path, answer: str | None, index: int) -> None:
    rows = [row | {"answer": answer} for row in EGOSCHEMA_PARQUET.rows]
    assert [each.answer_index for each in EGOSCHEMA_PARQUET.read(tmp_path, rows).questions] == [index, index]


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


def test_a_question_whose_duration_or_domain_is_missing_is_kept(tmp_path: Path) -> None:
    rows = [row | {"duration": None, "domain": None} for row in VIDEOMME_JSON.rows]
    assert [question.question_type for question in VIDEOMME_JSON.read(tmp_path, rows).questions] == ["", ""]


def test_the_frames_that_a_question_refers_to_are_kept_as_frames(tmp_path: Path) -> None:
    found = LONGVIDEOBENCH_JSON.read(tmp_path, LONGVIDEOBENCH_JSON.rows).questions
    assert [question.moment_frames for question in found] == [(854, 948, 1373), (27,)]


@pytest.mark.parametrize("position", [[-1], [1.5], ["7"], [True], "854", {"0": 1}, [[1, 2]], [10**400]])
def test_true_frames_that_are_none_are_left_out_and_noted(tmp_path: Path, position: Any) -> None:
    rows = [LONGVIDEOBENCH_JSON.rows[0] | {"position": position}, LONGVIDEOBENCH_JSON.rows[1]]
    found = LONGVIDEOBENCH_JSON.read(tmp_path, rows)
    assert found.rejected == [] and found.questions[0].moment_frames == ()
    assert found.questions[0].note.startswith("position not used:")


def test_five_columns_of_options_hold_as_many_as_there_are(tmp_path: Path) -> None:
    found = LONGVIDEOBENCH_PARQUET.read(tmp_path, LONGVIDEOBENCH_PARQUET.rows).questions
    assert [question.options for question in found] == [
        ("in and run", "and front", "in and front", "i still"),
        ("a", "car", "door"),
    ]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"option1": "N/A"}, "option 1 is missing or empty"),  # the answer would be another option's
        ({"correct_choice": 4}, "correct_choice is 4, an index from 0 to 3 was wanted"),
        (dict.fromkeys(longvideobench.OPTIONS, "N/A"), "option: 0 options, 2 to 26 were wanted"),
    ],
)
def test_an_option_that_is_missing_before_others_rejects_its_row(tmp_path: Path, changes: Raw, reason: str) -> None:
    rows = [LONGVIDEOBENCH_PARQUET.rows[0] | changes, LONGVIDEOBENCH_PARQUET.rows[1]]
    (rejected,) = LONGVIDEOBENCH_PARQUET.read(tmp_path, rows).rejected
    assert (rejected.line, rejected.reason) == (1, reason)


def test_a_withheld_choice_of_the_test_split_is_no_answer_but_a_wrong_one_elsewhere(tmp_path: Path) -> None:
    rows = [row | {"correct_choice": -1} for row in LONGVIDEOBENCH_PARQUET.rows]
    (tmp_path / "test-00000-of-00001.parquet").write_bytes(parquet(rows))
    found = longvideobench.read(tmp_path, "test")
    assert [question.answer_index for question in found.questions] == [None, None]
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
def test_of_two_layouts_in_one_folder_the_owners_is_read(tmp_path: Path, preferred: Layout, other: Layout) -> None:
    alone = preferred.read(tmp_path, preferred.rows)
    (tmp_path / other.file_name).write_bytes(parquet(other.rows))
    assert files_of(preferred.adapter, tmp_path, preferred.split) == [tmp_path / preferred.file_name]
    assert preferred.adapter.read(tmp_path, preferred.split) == alone


def test_mlvu_asks_without_the_options_that_its_text_repeats(tmp_path: Path) -> None:
    found = MLVU_PARQUET.read(tmp_path, MLVU_PARQUET.rows).questions
    assert [question.question for question in found] == [
        "What does the hand do?",
        "Arrange: (1) They paddle; (2) They stop.",
    ]


@pytest.mark.parametrize(
    "text", ["Which?\n(A) Delivers it\n(B) Shakes", "(A) Delivers it\n(B) Shakes\n(C) Points", "Is it\n(A) or not?"]
)
def test_a_question_that_repeats_other_options_stays_as_it_is(tmp_path: Path, text: str) -> None:
    rows = [MLVU_PARQUET.rows[0] | {"question": text}, MLVU_PARQUET.rows[1]]
    assert MLVU_PARQUET.read(tmp_path, rows).questions[0].question == text


def test_mlvu_of_seven_files_is_one_split_with_the_mean_of_its_tasks(tmp_path: Path) -> None:
    for task, folder in mlvu.FOLDERS.items():
        rows = [row | {"question_type": task} for row in MLVU_JSON.rows]
        (tmp_path / f"{folder}.json").write_text(json.dumps(rows))
    found = mlvu.read(tmp_path, "dev")
    assert found.rejected == [] and len({question.question_id for question in found.questions}) == 14
    assert {question.question_type for question in found.questions} == set(mlvu.FOLDERS)
    assert len(mlvu.files(tmp_path, "dev")) == 7 and mlvu.headline == "mean_of_groups"
    # Videos of two tasks may have one name: each is looked for in its task's folder first.
    assert len(found.videos) == 14 and found.videos[0].path == "1_plotQA/count_122.mp4"
    assert found.videos[0].other_paths[-1] == "count_122.mp4"
    assert [question.question_id for question in mlvu.read(tmp_path, "ego").questions] == ["ego#0", "ego#1"]
    (tmp_path / "3_ego.json").unlink()
    with pytest.raises(MissingSourceError, match=r"3_ego\.json: missing"):
        mlvu.read(tmp_path, "dev")


def test_egoschema_takes_the_public_answers_that_lie_beside_its_questions(tmp_path: Path) -> None:
    for layout in (EGOSCHEMA_JSON, EGOSCHEMA_PARQUET):
        layout.read(tmp_path, [row | {"answer": None} for row in layout.rows])
        (tmp_path / egoschema.ANSWERS_FILE).write_text('{"001934bb-81bd": 0, "another": 3}')
        found = egoschema.read(tmp_path / layout.file_name, "test")
        assert [question.answer_index for question in found.questions] == [0, None]
        assert [question.question_id for question in found.questions] == ["001934bb-81bd", "04c06e07-3e45"]
        assert egoschema.files(tmp_path / layout.file_name, "test")[1:] == [tmp_path / egoschema.ANSWERS_FILE]


@pytest.mark.parametrize("content", ["", "[1, 2]", "{", "<html>"])
def test_public_answers_that_are_something_else_are_one_clear_error(tmp_path: Path, content: str) -> None:
    (tmp_path / egoschema.ANSWERS_FILE).write_text(content)
    with pytest.raises(SchemaError, match=egoschema.ANSWERS_FILE):
        EGOSCHEMA_JSON.read(tmp_path, EGOSCHEMA_JSON.rows)


def test_the_listing_counts_the_questions_of_every_layout_in_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for layout in (LONGVIDEOBENCH_JSON, LONGVIDEOBENCH_PARQUET):
        (tmp_path / layout.file_name).write_bytes(
            content if isinstance(content := layout.content(layout.rows), bytes) else content.encode()
        )
    assert main(["datasets", "longvideobench", "--annotations", f"longvideobench={tmp_path}"]) == 0
    text = capsys.readouterr().out
    assert "lvb_val.json: 2 questions, 2 with a known answer, 2 with moments, about 2 videos; 0 rows rejected" in text
    assert "validation-00000-of-00001.parquet: 2 questions, 2 with a known answer, 0 with moments" in text
