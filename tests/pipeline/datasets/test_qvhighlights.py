from pathlib import Path

import numpy as np
import pytest

from cache.errors import SchemaError
from pipeline.datasets import qvhighlights
from pipeline.datasets.question import Moment, Question, Video
from pipeline.models.prompts import PROMPT_STYLES
from reports.moment_files import read_annotations
from tests.pipeline.datasets.layouts import QVHIGHLIGHTS

REAL = Path(__file__).parents[4] / "shared" / "data" / "qvhighlights"


def test_a_line_becomes_a_query_with_moments_and_without_options(tmp_path: Path) -> None:
    annotations = QVHIGHLIGHTS.read(tmp_path, QVHIGHLIGHTS.rows)
    assert annotations.questions[1] == Question(
        question_id="2579",
        video_id="NUsG9BgSes0_210.0_360.0",
        question="A girl and her mother cooked",
        moments=(Moment(82.0, 150.0), Moment(10.0, 12.5)),
    )
    assert annotations.videos[1] == Video("NUsG9BgSes0_210.0_360.0", "NUsG9BgSes0_210.0_360.0.mp4")


def test_the_moment_prompt_needs_no_options(tmp_path: Path) -> None:
    question = QVHIGHLIGHTS.read(tmp_path, QVHIGHLIGHTS.rows).questions[1]
    text = PROMPT_STYLES["moment"].localize(question.question, question.options, "necessary_details")
    assert text.startswith("Question: A girl and her mother cooked. Option A: yes. Option B: no. Does the information")


def test_a_test_split_has_no_moments(tmp_path: Path) -> None:
    labels = ("relevant_windows", "relevant_clip_ids", "saliency_scores")
    rows = [{key: value for key, value in row.items() if key not in labels} for row in QVHIGHLIGHTS.rows]
    annotations = QVHIGHLIGHTS.read(tmp_path, rows)
    assert [question.moments for question in annotations.questions] == [(), ()]
    assert annotations.rejected == []


def test_a_reversed_window_is_swapped_with_a_note(tmp_path: Path) -> None:
    (question,) = QVHIGHLIGHTS.read(tmp_path, [QVHIGHLIGHTS.rows[0] | {"relevant_windows": [[16, 2]]}]).questions
    assert question.moments == (Moment(2.0, 16.0),)
    assert question.note == "start 16 s lies after end 2 s: swapped"


@pytest.mark.parametrize("windows", [[[0, float("nan")]], [[0]], [0, 16], "0-16", [[None, 3]], [["a", 3]], [[0, True]]])
def test_an_invalid_window_rejects_its_row(tmp_path: Path, windows: object) -> None:
    (rejected,) = QVHIGHLIGHTS.read(
        tmp_path, [QVHIGHLIGHTS.rows[0] | {"relevant_windows": windows}, QVHIGHLIGHTS.rows[1]]
    ).rejected
    assert rejected.line == 1


@pytest.mark.parametrize(
    ("window", "duration", "is_used"),
    [
        ([100, 126], 126, True),
        ([100, 150], 126, True),  # accepted by the benchmark's evaluator
        ([100, 152], 126, True),
        ([100, 152.5], 126, False),
        ([126, 130], 126, False),
        ([-1, 3], 126, False),
        ([500, 504], 150, False),
    ],
)
def test_windows_outside_the_video_are_rejected_like_by_the_evaluator(
    tmp_path: Path, window: list[float], duration: float, is_used: bool
) -> None:
    labels = {"duration": duration, "relevant_windows": [window], "saliency_scores": [[1, 1, 1]] * 3}
    rows = [QVHIGHLIGHTS.rows[0] | labels, QVHIGHLIGHTS.rows[1] | {"saliency_scores": [[1, 1, 1]]}]
    annotations = QVHIGHLIGHTS.read(tmp_path, rows)
    assert [question.question_id for question in annotations.questions] == ["8737", "2579"][not is_used :]
    if is_used:
        assert ("reaches past the video's" in annotations.questions[0].note) == (window[1] > duration)
        assert len(read_annotations(tmp_path / QVHIGHLIGHTS.file_name)) == 2
    else:
        assert "lies outside the video (0 to " in annotations.rejected[0].reason
        with pytest.raises(SchemaError, match="lies outside the video"):
            read_annotations(tmp_path / QVHIGHLIGHTS.file_name)


@pytest.mark.parametrize("duration", [0, -3, "long", float("nan"), True])
def test_an_invalid_duration_rejects_its_row(tmp_path: Path, duration: object) -> None:
    rows = [QVHIGHLIGHTS.rows[0] | {"duration": duration}, QVHIGHLIGHTS.rows[1]]
    (rejected,) = QVHIGHLIGHTS.read(tmp_path, rows).rejected
    assert rejected.line == 1 and "duration" in rejected.reason


RATED = {
    "duration": 9,
    "relevant_windows": [[2, 6]],
    "relevant_clip_ids": [1, 2],
    "saliency_scores": [[4, 3, 2], [1, 0, 2]],
}


def test_clips_without_ratings_are_rated_zero(tmp_path: Path) -> None:
    first, second = QVHIGHLIGHTS.read(tmp_path, [QVHIGHLIGHTS.rows[0] | RATED, QVHIGHLIGHTS.rows[1]]).questions
    assert first.ratings == ((0, 0, 0), (4, 3, 2), (1, 0, 2), (0, 0, 0)) and first.note == ""
    assert second.ratings == () and second.note == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"relevant_clip_ids": [1, 4]},
        {"relevant_clip_ids": [1]},
        {"relevant_clip_ids": [True, 2]},
        {"saliency_scores": [[4, 3], [1, 0, 2]]},
        {"saliency_scores": [[4, 3, "2"], [1, 0, 2]]},
        {"saliency_scores": [[4, 3, float("nan")], [1, 0, 2]]},
        {"saliency_scores": "none"},
    ],
)
def test_invalid_ratings_are_noted_and_moments_kept(tmp_path: Path, changes: dict[str, object]) -> None:
    (question,) = QVHIGHLIGHTS.read(tmp_path, [QVHIGHLIGHTS.rows[0] | RATED | changes]).questions
    assert question.ratings == () and question.moments == (Moment(2.0, 6.0),)
    assert question.note.startswith("ratings not used: ")


@pytest.mark.skipif(not REAL.exists(), reason="the benchmark's files lie outside the repository")
def test_ratings_of_the_published_file_match_the_evaluator() -> None:
    expected = {str(row.qid): row.ratings for row in read_annotations(REAL / "highlight_val_release.jsonl")}
    ratings = {question.question_id: question.ratings for question in qvhighlights.read(REAL, "val").questions}
    assert ratings.keys() == expected.keys()
    for id, expected_ratings in expected.items():
        np.testing.assert_array_equal(ratings[id], expected_ratings)
