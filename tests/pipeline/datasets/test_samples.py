"""Samples of the published files, where available: every row loads."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.datasets.registry import adapter_named

DATA = Path(__file__).parents[4] / "shared" / "data"


@pytest.mark.parametrize(
    ("name", "split", "n_questions", "n_videos", "n_answered"),
    [
        ("nextqa", "val", 400, 286, 400),
        ("how2qa", "val", 300, 106, 300),
        ("tvqa", "test_public", 200, 188, 0),
        ("vlep", "dev", 300, 110, 300),
        ("qvhighlights", "val", 1550, 1519, 0),
        ("longvideobench", "val", 80, 57, 80),
        ("videomme", "test", 180, 60, 180),
        ("mlvu", "dev", 91, 87, 91),
        ("egoschema", "test", 61, 61, 0),
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
    noted = [(question.question_id, question.start_seconds) for question in annotations.questions if question.note]
    assert noted == ([("137648", None)] if name == "tvqa" else [])  # its times are "NaN-NaN"
    assert all(question.moments for question in annotations.questions) == (name == "qvhighlights")
    assert all(question.moment_frames for question in annotations.questions) == (name == "longvideobench")


@pytest.mark.parametrize("name", ["longvideobench", "videomme"])
def test_both_layouts_of_a_sample_give_equal_questions(name: str) -> None:
    if not (DATA / name).is_dir():
        pytest.skip(f"no {name} beside this repository")
    (first, second), *_ = adapter_named(name).about.splits.values()
    of_json, of_parquet = (adapter_named(name).read(DATA / name / file.name, "") for file in (first, second))
    by_id = {question.question_id: replace(question, moment_frames=()) for question in of_json.questions}
    shared = [question for question in of_parquet.questions if question.question_id in by_id]
    assert len(shared) > 3 and of_parquet.rejected == []
    assert shared == [by_id[question.question_id] for question in shared]
