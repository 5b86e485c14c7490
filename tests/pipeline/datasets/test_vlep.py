from pathlib import Path
from typing import Any

import pytest

from pipeline.datasets import vlep
from pipeline.datasets.question import Question, Video
from pipeline.models.prompts import next_event_answer_prompt
from tests.pipeline.datasets.layouts import VLEP


def test_a_line_becomes_a_next_event_question(tmp_path: Path) -> None:
    annotations = VLEP.read(tmp_path, VLEP.rows)
    question = annotations.questions[0]
    assert question == Question(
        question_id="20142",
        video_id="friends_s03e09_seg02_clip_07_ep",
        question="Upon observing the provided frames, what is the most probable subsequent event?",
        options=("Ross will stop, turn and point.", "Ross will stop and ask Monica why."),
        answer_index=0,
        question_type="TV show",
        start_seconds=38.81,
        end_seconds=40.37,
    )
    assert next_event_answer_prompt(question.question, question.options).startswith(
        f"{question.question} Option A: Ross"
    )


def test_television_clips_have_tvqa_paths_and_youtube_clips_their_full_name(tmp_path: Path) -> None:
    television, youtube = VLEP.read(tmp_path, VLEP.rows).videos
    clip = "friends_s03e09_seg02_clip_07"
    assert television == Video(
        f"{clip}_ep", f"friends_frames/{clip}", (clip, f"friends_frames/{clip}_ep", f"{clip}_ep")
    )
    name = "OO9kSxcT9Rg_subs_012_00:13:00_00:14:00_ep"
    assert youtube == Video(name, f"{name}.mp4", (name,))


def test_questions_are_grouped_by_source(tmp_path: Path) -> None:
    types = [question.question_type for question in VLEP.read(tmp_path, VLEP.rows).questions]
    assert [vlep.group(kind) for kind in types] == types == ["TV show", "YouTube"]


@pytest.mark.parametrize(
    "changes", [{"ts": "38-40"}, {"ts": [1, 2, 3]}, {"events": ["one"]}, {"events": "ab"}, {"events": ["a", " "]}]
)
def test_invalid_times_and_events_reject_their_row(tmp_path: Path, changes: dict[str, Any]) -> None:
    (rejected,) = VLEP.read(tmp_path, [VLEP.rows[0] | changes, VLEP.rows[1]]).rejected
    assert rejected.reason.startswith(("ts is", "events is", "event 1 is"))
