"""A frame or question with non-finite model output is a failed row in all later tables; if none is finite, the run stops."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cache.store import Store
from pipeline.engine.stage import RunContext
from pipeline.inference.not_finite import ANSWERS, FEATURES, SCORES
from pipeline.models.vision import VisionEncoder
from stages.finetune_answerer import FinetuneAnswerer
from tests.stages.runs import UNIFORM, artifact, sevila
from tests.stages.test_label_frames import labels


@pytest.fixture
def broken_frame(finished: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A video and the index of one of its frames, for which the patched ViT returns infinity."""
    frames = artifact(finished, "frames")
    video = next(row for row in frames.rows("videos") if row["status"] == "ok")
    from pipeline.models.vision import pixels

    bad = pixels(torch.from_numpy(frames.open().read(video["video_id"], slice(3, 4))))[0]
    original = VisionEncoder.forward

    def forward(self: VisionEncoder, images: torch.Tensor) -> torch.Tensor:
        features = original(self, images)
        features[[bool((image == bad).all()) for image in images]] = torch.inf
        return features

    monkeypatch.setattr(VisionEncoder, "forward", forward)
    index = int(frames.frame_indices()[video["video_id"]][3])
    return {"video_id": video["video_id"], "frame_index": index}


def by_question(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["question_id"]: row for row in rows}


@pytest.mark.parametrize("more", [(), UNIFORM])
def test_a_frame_without_finite_features_fails_only_its_video(
    broken_frame: dict[str, Any], finished: Path, demo: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    assert sevila("run", demo, tmp_path, "--shard-megabytes", "1", *more) == 0
    expected_videos = {row["video_id"]: row for row in artifact(finished, "features").rows("videos")}
    videos = {row["video_id"]: row for row in artifact(tmp_path, "features").rows("videos")}
    failed = videos.pop(broken_frame["video_id"])
    assert failed["status"] == "failed" and failed["n_frames"] == 0
    assert failed["reason"].startswith(f"{FEATURES}: frame {broken_frame['frame_index']}: ")
    assert artifact(tmp_path, "features").record.dropped == {FEATURES: 1}
    assert videos == {id: row for id, row in expected_videos.items() if id in videos}
    answers = by_question(artifact(tmp_path, "answers").rows("answers"))
    lost = {id for id, row in answers.items() if row["reason"].split(":")[0] == FEATURES}
    assert {answers[id]["video_id"] for id in lost} == {broken_frame["video_id"]} and len(lost) == 3
    if not more:
        expected_answers = by_question(artifact(finished, "answers").rows("answers"))
        assert {id: row for id, row in answers.items() if id not in lost} == {
            id: row for id, row in expected_answers.items() if id not in lost
        }
    metrics = artifact(tmp_path, "metrics")
    assert metrics.rows("metrics")[0]["n_questions"] == 30 and metrics.rows("metrics")[0]["n_unanswered"] == 9
    assert broken_frame["video_id"] in {row["video_id"] for row in metrics.rows("missing_videos")}
    ids = sorted(Store(tmp_path))
    assert sevila("run", demo, tmp_path, *more) == 0 and sorted(Store(tmp_path)) == ids  # failed rows are final


def edited_weights(demo: Path, folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """A copy of the demo whose model's tensors `edit` has changed."""
    shutil.copytree(demo, folder)
    path = folder / "tiny-blip2" / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, {"format": "pt"})
    return folder


@pytest.fixture
def broken_word(demo: Path, tmp_path: Path) -> Path:
    """The demo with a model whose embedding of a word in every third question is NaN."""
    from pipeline.models.verbalizer import Verbalizer

    word = Verbalizer(demo / "tiny-blip2" / "tokenizer.json").word_id("Where")

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors["language_model.shared.weight"][word] = torch.nan

    return edited_weights(demo, tmp_path / "world", edit)


@pytest.mark.parametrize("more", [(), UNIFORM, (*UNIFORM, "--set", "answer_questions.method=vote")])
def test_a_question_without_finite_logits_fails_alone(broken_word: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    store = tmp_path / "store"
    assert sevila("run", broken_word, store, "--shard-megabytes", "1", *more) == 0
    answers = artifact(store, "answers").rows("answers")
    code = ANSWERS if more else SCORES
    failed = [row for row in answers if row["reason"].split(":")[0] == code]
    assert len(failed) == 8 and all(row["prediction"] is None and row["option_logits"] == [] for row in failed)
    assert len([row for row in answers if row["status"] == "ok"]) == 16
    metrics = artifact(store, "metrics")
    overall = metrics.rows("metrics")[0]
    assert overall["n_questions"] == 30 and overall["n_unanswered"] == 14
    assert code in {row["reason"] for row in metrics.rows("coverage")}
    assert code not in {row["reason"].split(":")[0] for row in metrics.rows("missing_videos")}
    if not more:
        scores = artifact(store, "frame_scores")
        assert scores.record.dropped == {SCORES: 8}
        assert "frame 3: the scorer gave [nan, nan, nan]" in failed[0]["reason"]
    else:
        pseudo_labels = labels(store, broken_word)
        assert pseudo_labels.record.dropped[ANSWERS] == 8
        labelled = {row["question_id"] for row in pseudo_labels.rows("pseudo_labels")}
        assert not {row["question_id"] for row in failed} & labelled


def test_many_consecutive_non_finite_questions_do_not_stop_the_stage(broken_word: Path, tmp_path: Path) -> None:
    path = broken_word / "questions.csv"
    header, *lines = path.read_text().splitlines()
    broken = next(line for line in lines if ",Where " in line)
    video = broken.split(",")[0]
    finite = next(line for line in lines if line.startswith(video) and line != broken)
    names = [f"copy{number:02d}" for number in range(21)]
    for name in names:
        shutil.copy(broken_word / "videos" / f"{video}.mp4", broken_word / "videos" / f"{name}.mp4")
    copies = [line.replace(video, name, 1) for line, name in zip([broken] * 20 + [finite], names, strict=True)]
    path.write_text("\n".join([header, *copies]) + "\n")
    assert sevila("run", broken_word, tmp_path / "store", "--shard-megabytes", "0.001", *UNIFORM) == 0
    answers = artifact(tmp_path / "store", "answers")
    assert answers.record.dropped == {ANSWERS: 20} and [row["status"] for row in answers.rows("answers")][20:] == ["ok"]


@pytest.mark.parametrize(
    ("tensor", "problem"),
    [
        (
            "language_model.lm_head.weight",
            "the Localizer gave no question finite scores; weights or features are broken",
        ),
        ("vision_model.embeddings.class_embedding", "the ViT gave values that float16 cannot hold, for every video"),
    ],
)
def test_a_run_without_any_finite_output_stops_with_the_reason_each_time(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tensor: str, problem: str
) -> None:
    world = edited_weights(demo, tmp_path / "world", lambda tensors: tensors[tensor].fill_(torch.nan))
    for _ in range(2):
        assert sevila("run", world, tmp_path / "store") == 1
        assert problem in capsys.readouterr().err


def test_questions_without_features_are_excluded_from_training(
    broken_frame: dict[str, Any], demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.engine.build import build
    from stages.finetune_answerer import finetune_answerer
    from tests.stages.test_label_frames import context

    assert sevila("run", demo, tmp_path, *UNIFORM) == 0
    names = ("questions", "keyframes", "features", "backbone", "answerer_weights")
    run: RunContext = context(tmp_path, demo)
    cfg = FinetuneAnswerer(epochs=1, batch_size=8, warmup_steps=0, held_out_percent=0)
    trained = build(finetune_answerer, cfg, run, [artifact(tmp_path, name) for name in names])
    assert trained.record.dropped[FEATURES] == 3
    assert np.isfinite([row["loss"] for row in trained.rows("curves")]).all()
