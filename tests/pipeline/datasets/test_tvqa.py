from pathlib import Path

import pytest

from pipeline.datasets import tvqa
from pipeline.datasets.question import Question, Video
from tests.pipeline.datasets.layouts import TVQA


def test_a_line_becomes_a_question_about_part_of_a_clip(tmp_path: Path) -> None:
    annotations = TVQA.read(tmp_path, TVQA.rows)
    assert annotations.questions[1] == Question(
        question_id="122039",
        video_id="s03e02_seg02_clip_10",
        question="Why is Howard frustrated?",
        options=("Sheldon is rude.", "He is tired.", "They argue.", "He wants to be alone.", "He has no money."),
        answer_index=2,
        question_type="The Big Bang Theory",
        start_seconds=20.16,
        end_seconds=25.12,
    )
    clip = "s03e02_seg02_clip_10"
    assert annotations.videos[1] == Video(clip, f"bbt_frames/{clip}", (clip,))


@pytest.mark.parametrize(
    ("clip", "show", "path"),
    [
        ("met_s06e22_seg01_clip_02", "How I Met You Mother", "met_frames/met_s06e22_seg01_clip_02"),
        ("castle_s02e24_seg02_clip_26", "Castle", "castle_frames/castle_s02e24_seg02_clip_26"),
        ("house_s07e19_seg02_clip_12", "House M.D.", "house_frames/house_s07e19_seg02_clip_12"),
        ("s03e21_seg02_clip_08", "The Big Bang Theory", "bbt_frames/s03e21_seg02_clip_08"),
        ("lost_s01e01_seg02_clip_08", "", "lost_s01e01_seg02_clip_08"),
        ("street_demo1", "", "street_demo1"),
    ],
)
def test_the_clip_name_determines_show_and_folder(tmp_path: Path, clip: str, show: str, path: str) -> None:
    annotations = TVQA.read(tmp_path, [TVQA.rows[0] | {"vid_name": clip}])
    assert annotations.questions[0].question_type == show
    assert tvqa.group(show) == show
    assert annotations.videos[0].path == path


def test_trailing_spaces_of_options_are_kept(tmp_path: Path) -> None:
    (question,) = TVQA.read(tmp_path, [TVQA.rows[0] | {"a0": "The yogurt manufacturer. "}]).questions
    assert question.options[0] == "The yogurt manufacturer. "
