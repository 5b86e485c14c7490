from pathlib import Path

import pytest

from cache.errors import SchemaError
from pipeline.datasets import star
from pipeline.datasets.question import Question, Video
from tests.pipeline.datasets.layouts import STAR, choices


def test_an_object_becomes_a_question_about_part_of_a_video(tmp_path: Path) -> None:
    annotations = STAR.read(tmp_path, STAR.rows)
    assert annotations.questions[0] == Question(
        question_id="Interaction_T1_13",
        video_id="6H78U",
        question="Which object was tidied up by the person?",
        options=("The closet/cabinet.", "The blanket.", "The table.", "The clothes."),
        answer_index=0,
        question_type="Interaction",
        start_seconds=11.1,
        end_seconds=19.6,
    )
    assert annotations.videos[0] == Video("6H78U", "6H78U.mp4")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("The door.", "the text of none of the options"),
        ("the blanket.", "none of the options"),
        ("The blanket.", "the text of the options [1, 3] at once"),
    ],
)
def test_an_answer_that_is_not_one_option_rejects_its_row(tmp_path: Path, answer: str, message: str) -> None:
    options = choices("The table.", "The blanket.", "The clothes.", "The blanket.")
    (rejected,) = STAR.read(tmp_path, [STAR.rows[0] | options | {"answer": answer}, STAR.rows[1]]).rejected
    assert rejected.reason.startswith("object 1: answer is") and message in rejected.reason


@pytest.mark.parametrize("value", [None, [], ["a", "b"], [{"choice": "a"}], [{"choice": "a"}, {"text": "b"}], "ab"])
def test_invalid_choices_reject_their_row(tmp_path: Path, value: object) -> None:
    (rejected,) = STAR.read(tmp_path, [STAR.rows[0] | {"choices": value}, STAR.rows[1]]).rejected
    assert "choice" in rejected.reason


def test_rejections_of_a_one_line_file_name_the_object(tmp_path: Path) -> None:
    content = STAR.content([STAR.rows[0], STAR.rows[1] | {"question": ""}, STAR.rows[0]]).replace("\n", "")
    first, second = STAR.read(tmp_path, content).rejected
    assert (first.line, first.reason) == (1, "object 2: question is missing or empty")
    assert second.reason == "object 3: question_id 'Interaction_T1_13' is already object 1 on line 1"


def test_a_truncated_file_is_refused_with_the_position(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"STAR_val\.json: .*cut short or damaged \(object 2 on line 2: .*download"):
        STAR.read(tmp_path, STAR.content(STAR.rows)[:-40])


def test_the_headline_is_the_mean_of_the_four_types() -> None:
    assert star.headline == "mean_of_groups"
    assert [star.group(kind) for kind in (*star.TYPES, "Other")] == [*star.TYPES, ""]
