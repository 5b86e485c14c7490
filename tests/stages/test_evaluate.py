"""Evaluation beside the accuracy: intervals, coverage, and the data set's own headline."""

import json
from pathlib import Path

import pytest

from cli import main
from pipeline.metrics.accuracy import Outcome, accuracy_table
from pipeline.metrics.resampling import Resampling
from tests.stages.runs import artifact, built_since, records, sevila


def test_coverage_states_the_share_of_unusable_videos_and_lists_them(finished: Path) -> None:
    metrics = artifact(finished, "metrics")
    coverage = {row["reason"]: row for row in metrics.rows("coverage")}
    assert {reason: (row["n_questions"], row["n_videos"]) for reason, row in coverage.items()} == {
        "": (24, 8),
        "empty": (3, 1),
        "truncated": (3, 1),
    }
    assert coverage[""]["questions_percent"] == 80.0
    failed = [row for row in artifact(finished, "frames").rows("videos") if row["status"] == "failed"]
    assert {row["video_id"]: row["reason"] for row in metrics.rows("missing_videos")} == {
        row["video_id"]: row["reason"] for row in failed
    }


def test_the_json_file_holds_the_tables(finished: Path) -> None:
    metrics = artifact(finished, "metrics")
    assert json.loads((metrics.path / "metrics.json").read_text(encoding="utf-8")) == {
        name: metrics.rows(name) for name in metrics.tables
    }


def test_the_run_prints_intervals_and_coverage(store: Path, demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sevila("run", demo, store) == 0
    output = capsys.readouterr().out
    assert "95 % by video" in output and "95 % Wilson" in output and "10,000 resamples of videos" in output
    assert "coverage: 24 of 30 questions (80.0 %), 8 of 10 videos" in output
    assert "3 truncated (10.0 %)" in output and "3 empty (10.0 %)" in output


def test_the_interval_resamples_videos_or_questions_as_the_recipe_says(store: Path, demo: Path) -> None:
    questions = {row["question_id"]: row for row in artifact(store, "questions").rows("questions")}
    outcomes = [
        Outcome(questions[row["question_id"]]["answer_index"], row["prediction"], row["video_id"])
        for row in artifact(store, "answers").rows("answers")
    ]
    for unit in ("video", "question"):
        assert sevila("run", demo, store, "--set", f"evaluate.bootstrap={unit}", "--set", "evaluate.seed=7") == 0
        overall = artifact(store, "metrics").rows("metrics")[0]
        (expected,) = accuracy_table(outcomes, resampling=Resampling(unit, seed=7))
        assert overall["bootstrap_low_percent"] == expected.bootstrap_low_percent
        assert overall["bootstrap_high_percent"] == expected.bootstrap_high_percent


def test_another_seed_is_another_artifact_of_the_same_answers(store: Path, demo: Path) -> None:
    before = set(records(store))
    assert sevila("run", demo, store, "--set", "evaluate.seed=1") == 0
    assert built_since(before, store) == {"evaluate": 1}


RECIPE = """
[list_questions]
dataset = "star"
split = "val"
[sample_frames]
frames = 8
size = 28
[import_backbone]
weights = "tiny-blip2"
"""


def test_the_group_mean_is_the_headline_of_a_data_set_that_reports_it(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = sorted(path.stem for path in (demo / "videos").glob("*.mp4"))
    options = ["red", "green", "blue", "yellow"]
    kinds = ["Interaction"] * 6 + ["Sequence"] * 3 + ["Feasibility"]
    rows = [
        {
            "question_id": f"{kind}_T1_{number}",
            "question": "What colour is it?",
            "video_id": video,
            "start": 0.5,
            "end": 4.0,
            "answer": next(option for option in options if option in video),
            "choices": [{"choice_id": place, "choice": option} for place, option in enumerate(options)],
        }
        for number, (kind, video) in enumerate(zip(kinds, videos, strict=True))
    ]
    (tmp_path / "STAR_val.json").write_text(json.dumps(rows))
    (tmp_path / "small.toml").write_text(RECIPE)
    places = ["--annotations", str(tmp_path), "--videos", str(demo / "videos"), "--device", "cpu"]
    places += ["--weights", f"tiny-blip2={demo / 'tiny-blip2'}", "--store", str(tmp_path / "store")]
    assert main(["run", str(tmp_path / "small.toml"), *places]) == 0
    head, overall, *others = artifact(tmp_path / "store", "metrics").rows("metrics")
    groups = [row["accuracy_percent"] for row in others if row["scope"] == "group"]
    assert (head["name"], head["is_headline"], overall["is_headline"]) == ("mean of 3 groups", True, False)
    assert head["accuracy_percent"] == pytest.approx(sum(groups) / 3)
    table = capsys.readouterr().out.split("no known answer\n")[1]
    assert table.startswith("mean of 3 groups")
