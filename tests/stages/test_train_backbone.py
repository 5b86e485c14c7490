"""Training of the tiny backbone: results of a small budget, and resuming after a kill."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from cache.errors import CorruptArtifactError
from cache.store import Store
from pipeline.datasets.registry import adapter_names
from pipeline.engine.build import build
from pipeline.engine.stage import RunContext
from pipeline.inference.backbone import FILES
from pipeline.models.checkpoint import load_visual_prompt
from stages.train_backbone import TrainBackbone, TrainedBackbone, train_backbone
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

BRIEF = TrainBackbone(reading_steps=2, seeing_steps=2, telling_steps=2, batch_size=8)


def train(folder: Path, cfg: TrainBackbone) -> tuple[TrainedBackbone, RunContext]:
    run = RunContext(Store(folder), device="cpu")
    backbone = build(train_backbone, cfg, run, [])
    assert isinstance(backbone, TrainedBackbone)
    return backbone, run


def test_the_trained_backbone_is_read_like_any_other(tmp_path: Path) -> None:
    backbone, run = train(tmp_path, BRIEF)
    config = backbone.config(run)
    assert backbone.feature_shape() == config.feature_shape
    assert backbone.vision_encoder(run, "float32").image_size == config.image_size
    assert len(backbone.language(run, "float32").verbalizer.letter_ids) >= 5
    with backbone.folder(run) as folder:
        assert load_visual_prompt(config, folder, "blip2").query_tokens.shape[1] == config.num_query_tokens
    assert {path.name for path in backbone.path.iterdir()} >= {"record.json", *FILES}
    assert not (backbone.path / "generation_config.json").exists()
    assert sum((backbone.path / name).stat().st_size for name in FILES) < 10e6
    assert "shapes" in adapter_names()


def test_equal_configs_give_equal_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    one, two, other = (
        train(tmp_path / name, cfg)[0]
        for name, cfg in {"1": BRIEF, "2": BRIEF, "3": BRIEF.model_copy(update={"seed": 1})}.items()
    )
    assert one.record.files == two.record.files
    assert one.record.files["model.safetensors"] != other.record.files["model.safetensors"]


def test_training_killed_between_phases_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    uninterrupted, _ = train(tmp_path / "whole", BRIEF)
    process = multiprocessing.get_context("spawn").Process(target=train, args=(tmp_path / "killed", BRIEF))
    process.start()
    after_seeing = Path("partial", uninterrupted.record.id, "progress", "snapshots", "000000002.json")
    wait_until((tmp_path / "killed" / after_seeing).exists, problem=lambda: not process.is_alive())
    process.kill()  # the next phase renders thousands of images, so it has not ended
    process.join()
    assert not Store(tmp_path / "killed").exists(uninterrupted.record.id)
    resumed, _ = train(tmp_path / "killed", BRIEF)
    assert set(resumed.record.phase_seconds) == {"tell"}
    assert resumed.record.files == uninterrupted.record.files


def test_a_changed_weight_file_is_refused(tmp_path: Path) -> None:
    backbone, run = train(tmp_path, BRIEF)
    path = backbone.path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CorruptArtifactError, match="train_backbone"), backbone.folder(run):
        pass


def test_a_small_budget_trains_it_above_chance(tmp_path: Path) -> None:
    budget = TrainBackbone(reading_steps=300, seeing_steps=80, telling_steps=150, batch_size=64)
    backbone, _ = train(tmp_path, budget)
    shares = {row["figure"]: row["share"] for row in backbone.rows("figures")}
    assert shares["yes or no"] > 0.65  # chance: 0.5
    assert shares["letter, one frame"] > 0.27  # chance: 0.2
    assert shares["colour"] > 0.8  # chance: 0.11
