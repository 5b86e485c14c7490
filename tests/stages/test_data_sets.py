"""The forward chain on every layout of annotation files, with mp4 files and folders of frames."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from cache.store import Store
from cli import main
from pipeline.datasets.question import Video
from stages.answer_questions import Answers
from stages.list_questions import Questions
from stages.retrieve_moments import Moments
from stages.sample_frames import Frames
from stages.score_frames import FrameScores
from tests.pipeline.datasets.layouts import LAYOUTS, QVHIGHLIGHTS, Layout
from tests.small_world import SMALL
from tests.tiny_blip2 import write_tiny_blip2
from tests.videos import make_image_folder, make_video

REAL = Path(__file__).parents[3] / "shared" / "data" / "videos" / "nasa_13013.mp4"


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    write_tiny_blip2(folder, seed=0)
    return folder


def write_video(folder: Path, video: Video, number: int) -> None:
    """Write a file or a folder of frames at the first path where the data set looks for a video."""
    path = folder / video.path
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix != ".mp4":
        make_image_folder(path)
    elif number == 0 and REAL.exists():
        shutil.copy(REAL, path)
    else:
        make_video(path)


def artifact(store: Path, kind: type[Any]) -> Any:
    (id,) = [id for id in Store(store) if Store(store).record(id).kind == kind.kind]
    return kind(Store(store), id)


def run(layout: Layout, tmp_path: Path, weights: Path, *arguments: str) -> int:
    annotations = layout.read(tmp_path, layout.rows)
    for number, video in enumerate(annotations.videos):
        write_video(tmp_path / "videos", video, number)
    name = layout.adapter.name
    style = "next_event" if "events" in layout.rows[0] or "VLEP" in str(layout.rows[0].get("qid")) else ""
    prompts = [f"{stage}.prompt={style}" for stage in ("score_frames", "answer_questions") if style]
    settings = [f"list_questions.dataset={name}", f"list_questions.split={layout.split}", *prompts]
    places = ["--annotations", f"{name}={tmp_path}", "--videos", f"{name}={tmp_path / 'videos'}"]
    places += ["--weights", f"tiny-blip2={weights}", "--store", f"{tmp_path / 'store'}", "--device", "cpu"]
    return main(["run", SMALL, *places, *(f"--set={setting}" for setting in settings), *arguments])


@pytest.mark.parametrize(
    "layout", [layout for layout in LAYOUTS if layout is not QVHIGHLIGHTS], ids=lambda layout: layout.name
)
def test_every_layout_runs_through_the_forward_chain(layout: Layout, tmp_path: Path, weights: Path) -> None:
    assert run(layout, tmp_path, weights) == 0
    store = tmp_path / "store"
    videos = artifact(store, Frames).rows("videos")
    assert [video["status"] for video in videos] == ["ok", "ok"]
    n_options = {row["question_id"]: len(row["options"]) for row in artifact(store, Questions).rows("questions")}
    answers = artifact(store, Answers).rows("answers")
    assert len(answers) == 2
    for answer in answers:
        assert (answer["status"], len(answer["option_logits"])) == ("ok", n_options[answer["question_id"]])


def test_queries_for_moments_are_scored_without_options(tmp_path: Path, weights: Path) -> None:
    assert run(QVHIGHLIGHTS, tmp_path, weights, "--set=score_frames.prompt=moment") == 0
    store = tmp_path / "store"
    scores = artifact(store, FrameScores).rows("frame_scores")
    assert {row["question_id"] for row in scores} == {str(row["qid"]) for row in QVHIGHLIGHTS.rows}
    assert len(artifact(store, Questions).rows("moments")) == 3
    assert [id for id in Store(store) if id.startswith("evaluate_localization")]
    query_ids = {row["question_id"] for row in artifact(store, Moments).rows("queries")}
    assert query_ids == {str(row["qid"]) for row in QVHIGHLIGHTS.rows}


def test_subtitles_run_to_moments_evaluated_by_their_times(tmp_path: Path, weights: Path) -> None:
    for name in ("a/one", "two"):
        path = tmp_path / "subtitles" / f"{name}.srt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1\n00:00:00,500 --> 00:00:01,500\nIt begins.\n\n2\n00:00:02,000 --> 00:00:03,000\n[Music]\n")
        write_video(tmp_path / "videos", Video(name, f"{name}.mp4"), 1)
    settings = ("list_questions.dataset=timed_text", "score_frames.prompt=moment")
    places = ["--annotations", f"{tmp_path / 'subtitles'}", "--videos", f"{tmp_path / 'videos'}"]
    places += ["--weights", f"tiny-blip2={weights}", "--store", f"{tmp_path / 'store'}", "--device", "cpu"]
    assert main(["run", SMALL, *places, *(f"--set={setting}" for setting in settings)]) == 0
    store = tmp_path / "store"
    questions = artifact(store, Questions)
    assert [row["question_id"] for row in questions.rows("moments")] == ["a/one#0", "two#0"]
    assert [row["reason"] for row in questions.rows("rejected")] == ["'[Music]': no words"] * 2
    assert [row["status"] for row in artifact(store, Moments).rows("queries")] == ["ok", "ok"]
    assert [id for id in Store(store) if id.startswith("evaluate_moments")]
