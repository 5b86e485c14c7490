"""The Localizer of several frames: neighbouring frames are one long image to the Q-Former."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.engine.build import build
from pipeline.engine.recipe import load
from pipeline.inference.load_models import load_localizer
from pipeline.inference.long_images import long_images, stretches_of
from pipeline.recipes.checks import check_chain
from pipeline.training.localizer_training import LabelledClip, LocalizerTask
from pipeline.training.prompt_training import HeldOutSplit
from stages.all import STAGES
from stages.pretrain_localizer import PretrainLocalizer
from tests.stages.training import World, make_world, weights_of


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), videos=3)


def score_frames(world: World, store: Path, localizer: Any, **config: Any) -> Any:
    stage = STAGES["score_frames"]
    inputs = [*(world.inputs[name] for name in ("questions", "frames", "features", "backbone")), localizer]
    return build(stage, stage.config(**config), world.run(store), inputs)


def test_a_short_last_stretch_repeats_its_last_frame() -> None:
    assert stretches_of(7, 3).tolist() == [[0, 1, 2], [3, 4, 5], [6, 6, 6]]
    assert stretches_of(2, 4).tolist() == [[0, 1, 1, 1]]
    assert stretches_of(3, 1).tolist() == [[0], [1], [2]]


def test_a_long_image_of_one_repeated_frame_equals_it_and_frame_order_does_not_matter(
    world: World, tmp_path: Path
) -> None:
    localizer = load_localizer(world.run(tmp_path), world.inputs["backbone"], world.inputs["localizer"], "float32")
    reader = world.inputs["features"].open()
    features = reader.read(next(iter(reader.videos)), slice(4))
    stretches = np.array([[2, 2, 2], [0, 1, 3], [3, 0, 1]])
    images = localizer.visual(torch.from_numpy(long_images(features, stretches)))
    single = localizer.visual(torch.from_numpy(features.copy()))
    torch.testing.assert_close(images[0], single[2], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(images[1], images[2], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(images[1], single[0], atol=1e-3)


def test_frames_of_a_stretch_share_one_score_and_the_best_stretch_is_selected_whole(
    world: World, tmp_path: Path
) -> None:
    scores = score_frames(world, tmp_path, world.inputs["localizer"], frames_at_once=4)
    table = scores.columns("frame_scores", "question_id", "position", "logit_yes")
    logits = table["logit_yes"].reshape(-1, 2, 4)  # 8 frames a clip
    assert len(logits) == 9 and (logits == logits[..., :1]).all() and (logits[:, 0] != logits[:, 1]).all()
    stage = STAGES["select_keyframes"]
    inputs = [world.inputs["questions"], world.inputs["frames"], scores, None]
    kept = build(stage, stage.config(k=4), world.run(tmp_path), inputs).rows("keyframes")
    best = logits[:, :, 0].argmax(axis=1)
    assert [row["positions"] for row in kept] == [list(range(4 * which, 4 * which + 4)) for which in best]


def test_the_default_frames_at_once_does_not_change_artifact_ids(world: World, tmp_path: Path) -> None:
    for name in ("score_frames", "pretrain_localizer", "refine_localizer"):
        assert "frames_at_once" not in STAGES[name].config(frames_at_once=1).model_dump()
        assert STAGES[name].config(frames_at_once=4).model_dump()["frames_at_once"] == 4
    assert score_frames(world, tmp_path, world.inputs["localizer"]).id.startswith("score_frames-v1-")


def test_a_stretch_with_a_yes_frame_is_trained_as_one_yes_image(world: World, tmp_path: Path) -> None:
    video_id = world.inputs["questions"].rows("questions")[0]["video_id"]
    labels = np.array([False] * 5 + [True] + [False] * 2)
    clip = LabelledClip("one", video_id, "Is it there?", np.arange(8), labels)
    inputs = [world.inputs[name] for name in ("features", "backbone", "localizer")]
    cfg = PretrainLocalizer(frames_at_once=4)
    task = LocalizerTask(cfg, HeldOutSplit([clip], []), *inputs, world.run(tmp_path))
    (batch,) = task.cut([0], 0)
    rows = {row.stored: row.target for row in batch.rows}
    assert rows == {(0, 1, 2, 3): 0, (4, 5, 6, 7): 1} and batch.n_frames == 4 * len(batch.rows)
    trained = [
        world.train("pretrain_localizer", tmp_path / name, frames_at_once=4, epochs=6) for name in ("one", "again")
    ]
    losses = [row["loss"] for row in trained[0].rows("curves")]
    assert losses[-1] < losses[0] and weights_of(trained[0]) == weights_of(trained[1])


def test_scoring_more_frames_at_once_than_in_training_logs_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        check_chain(load("demo", STAGES, ["score_frames.frames_at_once=4", "pretrain_localizer.frames_at_once=4"]))
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "--set refine_localizer.frames_at_once=4" in warning
