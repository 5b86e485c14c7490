import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.datasets import sevila_json, star
from pipeline.datasets.adapter import headline_of
from pipeline.datasets.question import Annotations, Moment, Question, Video
from pipeline.models.prompts import PROMPT_STYLES
from tests.pipeline.datasets.layouts import SEVILA_NEXTQA, SEVILA_TVQA, SEVILA_VLEP, options

# Annotations read by the official code, with its texts and labels (tests/golden/README.md).
FOLDER = Path(__file__).parents[2] / "golden" / "parity"
PARITY = json.loads((FOLDER / "inputs.json").read_text())
GOLDEN = json.loads((FOLDER / "golden.json").read_text())
OFFICIAL = {item["question_id"]: item for item in [*PARITY["samples"], *GOLDEN["vlep_items"], *GOLDEN["qvh_items"]]}


def read(folder: Path, rows: list[dict[str, Any]]) -> Annotations:
    return SEVILA_NEXTQA.read(folder, json.dumps(rows))


def test_an_object_becomes_a_question_with_unchanged_texts(tmp_path: Path) -> None:
    annotations = read(tmp_path, SEVILA_NEXTQA.rows)
    assert annotations.questions[0] == Question(
        question_id="CH_4010069381_6",
        video_id="1164/4010069381",
        question="how?",
        options=("roll the handle.", "tap their feet.", "strum the string."),
        answer_index=0,
        question_type="CH",
    )
    assert annotations.videos[0] == Video("1164/4010069381", "1164/4010069381.mp4")


@pytest.mark.parametrize(
    ("key", "style"),
    [("annotations", "multiple_choice"), ("vlep_annotations", "next_event"), ("qvh_annotations", "moment")],
)
def test_prompts_match_the_official_code(tmp_path: Path, key: str, style: str) -> None:
    annotations = read(tmp_path, PARITY[key])
    assert annotations.rejected == []
    for question in annotations.questions:
        texts = PROMPT_STYLES[style]
        expected = OFFICIAL[question.question_id]
        assert texts.localize(question.question, question.options, "necessary_details") == expected["loc_input"]
        assert texts.answer(question.question, question.options) == expected["qa_input"]


def test_frame_labels_match_the_official_code(tmp_path: Path) -> None:
    for question, labels in zip(
        read(tmp_path, PARITY["qvh_annotations"]).questions, GOLDEN["qvh_frame_labels"], strict=True
    ):
        inside = [
            any(moment.start_seconds <= index / PARITY["qvh_fps"] <= moment.end_seconds for moment in question.moments)
            for index in PARITY["qvh_indices"]
        ]
        assert ["yes" if yes else "no" for yes in inside] == labels.split("_")


def test_queries_have_their_moments(tmp_path: Path) -> None:
    first, second = read(tmp_path, PARITY["qvh_annotations"]).questions
    assert first.moments == (Moment(0.0, 5.0), Moment(9.9, 12.1))
    assert (second.question_id, second.options, second.moments) == ("QVHighlight_1", (), (Moment(4.0, 8.0),))


@pytest.mark.parametrize(
    ("question_id", "video", "question_type", "group"),
    [
        ("TP_4010069381_6", "1164/4010069381", "TP", "Temporal"),
        ("Feasibility_T6_9", "6H78U", "Feasibility", "Feasibility"),
        ("HOW2QA_17", "29752", "", ""),
        ("TVQA_17", "house_s07e19_seg02_clip_12", "House M.D.", "House M.D."),
        ("VLEP_17", "house_s07e19_seg02_clip_12_ep", "TV show", "TV show"),
        ("VLEP_18", "x_00:01:00_ep", "YouTube", "YouTube"),
    ],
)
def test_the_question_id_determines_the_type(
    tmp_path: Path, question_id: str, video: str, question_type: str, group: str
) -> None:
    row = SEVILA_NEXTQA.rows[0] | {"qid": question_id, "video": video}
    (question,) = read(tmp_path, [row]).questions
    assert question.question_type == question_type
    assert sevila_json.group(question_type) == group


def test_videos_of_tvqa_and_vlep_have_the_paths_of_those_data_sets(tmp_path: Path) -> None:
    clip = "grey_s01e02_seg02_clip_10"
    tvqa = read(tmp_path, SEVILA_TVQA.rows).videos[0]
    assert tvqa == Video(clip, f"{clip}.mp4", (f"grey_frames/{clip}", clip))
    assert read(tmp_path, SEVILA_VLEP.rows).videos[0].path == "friends_frames/friends_s03e09_seg02_clip_07"


def test_num_option_limits_the_options(tmp_path: Path) -> None:
    row = SEVILA_NEXTQA.rows[0] | options("one", "two", "three", "four")
    assert read(tmp_path, [row | {"num_option": 2}]).questions[0].options == ("one", "two")
    del row["num_option"]
    assert len(read(tmp_path, [row]).questions[0].options) == 4


@pytest.mark.parametrize("count", [0, 1, 27, 5, "3", 2.0, True])
def test_an_invalid_number_of_options_rejects_its_row(tmp_path: Path, count: Any) -> None:
    (rejected,) = read(tmp_path, [SEVILA_NEXTQA.rows[0] | {"num_option": count}, SEVILA_NEXTQA.rows[1]]).rejected
    assert "options, 2 to 26 were wanted" in rejected.reason or rejected.reason.endswith("a3 is missing or empty")


def test_files_with_star_questions_report_the_mean_of_its_types(tmp_path: Path) -> None:
    row = SEVILA_NEXTQA.rows[0]
    of_star = [row | {"qid": f"{kind}_T1_{number}"} for number, kind in enumerate(star.TYPES)]
    types = {question.question_type for question in read(tmp_path, of_star).questions}
    assert types == set(star.TYPES) and headline_of(sevila_json, types) == headline_of(star, types) == "mean_of_groups"
    others = {question.question_type for question in read(tmp_path, SEVILA_NEXTQA.rows).questions}
    assert (
        headline_of(sevila_json, others) == headline_of(sevila_json, {""}) == headline_of(sevila_json, ()) == "overall"
    )
