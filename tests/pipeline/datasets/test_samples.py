"""The published files' beginnings, where they are: every row of them loads."""

from pathlib import Path

import pytest

from pipeline.datasets import adapter_named

DATA = Path(__file__).parents[4] / "shared" / "data"


@pytest.mark.parametrize(
    ("name", "split", "n_questions", "n_videos", "n_answered"),
    [
        ("nextqa", "val", 400, 286, 400),
        ("how2qa", "val", 300, 106, 300),
        ("tvqa", "test_public", 200, 188, 0),
        ("vlep", "dev", 300, 110, 300),
        ("qvhighlights", "val", 1550, 1519, 0),
    ],
)
def test_samples_of_the_published_files_load_completely(
    name: str, split: str, n_questions: int, n_videos: int, n_answered: int
) -> None:
    if not (DATA / name).is_dir():
        pytest.skip(f"no {name} beside this repository")
    annotations = adapter_named(name).read(DATA / name, split)
    assert annotations.rejected == []
    assert (len(annotations.questions), len(annotations.videos)) == (n_questions, n_videos)
    assert sum(question.answer_index is not None for question in annotations.questions) == n_answered
    odd = [(question.question_id, question.start_seconds) for question in annotations.questions if question.note]
    assert odd == ([("137648", None)] if name == "tvqa" else [])  # its times are "NaN-NaN"
    assert all(question.moments for question in annotations.questions) == (name == "qvhighlights")
