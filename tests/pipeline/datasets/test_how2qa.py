import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.errors import MissingSourceError
from pipeline.datasets import how2qa
from pipeline.datasets.question import Question, Video
from tests.pipeline.datasets.layouts import HOW2QA_CSV, HOW2QA_JSONL


def test_a_csv_row_becomes_a_question_with_its_correct_option_among_the_others(tmp_path: Path) -> None:
    annotations = HOW2QA_CSV.read(tmp_path, HOW2QA_CSV.rows)
    assert annotations.questions[0] == Question(
        question_id="NOuQuofjk44[7.2:18.0]",
        video_id="NOuQuofjk44",
        question="how many knife is there?",
        options=("10", "12", "1", "16"),
        answer_index=2,
        start_seconds=7.2,
        end_seconds=18.0,
    )
    assert annotations.videos[0] == Video("NOuQuofjk44", "NOuQuofjk44.mp4")


def test_a_json_line_becomes_a_question_with_the_option_order_of_the_file(tmp_path: Path) -> None:
    question = HOW2QA_JSONL.read(tmp_path, HOW2QA_JSONL.rows).questions[0]
    assert question.question_id == "6821"
    assert question.options == ("Juice.", "Pearl ex pigment.", "Water.", "Paint.")
    assert (question.answer_index, question.start_seconds, question.end_seconds) == (1, 7.2, 27.9)


def test_the_position_of_the_correct_option_is_the_documented_digest_of_the_row() -> None:
    cells = ["NOuQuofjk44", "[7.2:18.0]", "10", "12", "16", "how many knife is there?", "1"]
    digest = int(hashlib.sha256(json.dumps(cells).encode()).hexdigest(), 16)
    assert how2qa.right_position(HOW2QA_CSV.rows[0]) == digest % 4 == 2


def test_a_question_does_not_depend_on_other_rows(tmp_path: Path) -> None:
    first, second = HOW2QA_CSV.read(tmp_path, HOW2QA_CSV.rows).questions
    assert HOW2QA_CSV.read(tmp_path, HOW2QA_CSV.rows[::-1]).questions == [second, first]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=7, max_size=7))
def test_any_row_has_a_position_for_its_correct_option(cells: list[str]) -> None:
    row = dict(zip(how2qa.COLUMNS, cells, strict=True))
    assert how2qa.right_position(row) in range(4)
    assert how2qa.right_position(row) == how2qa.right_position(dict(row))


def test_positions_of_correct_options_are_distributed_evenly(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [HOW2QA_CSV.rows[0] | {"q": f"question {number}?"} for number in range(400)]
    questions = HOW2QA_CSV.read(tmp_path, rows).questions
    counts = [sum(question.answer_index == index for question in questions) for index in range(4)]
    assert all(70 <= count <= 130 for count in counts)  # within 3.5 standard deviations of 100
    assert all(question.options[question.answer_index or 0] == "1" for question in questions)
    assert questions[-1].question_id == "NOuQuofjk44[7.2:18.0]#400"


def test_quoted_commas_are_text_and_unquoted_ones_reject_their_row(tmp_path: Path) -> None:
    content = HOW2QA_CSV.content([HOW2QA_CSV.rows[0] | {"right": 'one, "I think"'}])
    annotations = HOW2QA_CSV.read(tmp_path, content + "DQ6wpOD-h7g,[43.5:60.0],Word, or so,Access,Excel,What?,Calc\n")
    assert annotations.questions[0].options[annotations.questions[0].answer_index or 0] == 'one, "I think"'
    (rejected,) = annotations.rejected
    assert (rejected.line, rejected.reason[:7]) == (2, "8 cells")


def test_a_header_line_is_rejected_as_a_row(tmp_path: Path) -> None:
    content = "video,clip,a,b,c,question,right\n" + HOW2QA_CSV.content(HOW2QA_CSV.rows)
    annotations = HOW2QA_CSV.read(tmp_path, content)
    assert [rejected.line for rejected in annotations.rejected] == [1]
    assert len(annotations.questions) == 2


def test_two_layouts_in_one_folder_are_refused_unless_one_is_given(tmp_path: Path) -> None:
    HOW2QA_CSV.read(tmp_path, HOW2QA_CSV.rows)
    (tmp_path / HOW2QA_JSONL.file_name).write_text(HOW2QA_JSONL.content(HOW2QA_JSONL.rows))
    with pytest.raises(MissingSourceError, match=r"how2QA_val_release\.csv and how2qa_val_release\.jsonl, two layouts"):
        how2qa.read(tmp_path, "val")
    assert how2qa.read(tmp_path / HOW2QA_JSONL.file_name, "val").questions[0].question_id == "6821"
