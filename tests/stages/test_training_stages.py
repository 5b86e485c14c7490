"""The three training stages on a few rendered videos, with a tiny BLIP-2 of random weights."""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cache.errors import SevilaError
from cache.pool_reader import PoolReader
from cache.store import Store
from cli import main
from pipeline.engine.snapshots import Snapshots
from pipeline.training.answerer_training import AnswererTask
from pipeline.training.localizer_training import LabelledClip, LocalizerTask
from pipeline.training.prompt_training import HeldOutSplit, split_by_video, visual_tokens
from pipeline.training.task import Task, TrainingJob, train
from stages.finetune_answerer import FinetuneAnswerer
from stages.pretrain_localizer import PretrainLocalizer
from tests.stages.training import FEW_STEPS, INPUTS, World, make_world, weights_of

ROOT = Path(__file__).parents[2]
KILLED = """
import pickle, sys
import torch, torch._dynamo, accelerate, transformers.optimization  # imported once, before the children are forked
import stages.chain, pipeline.models.checkpoint
from pathlib import Path
from tests.crash_points import run_to_each

world = pickle.loads(Path(sys.argv[1]).read_bytes())
for argument in sys.argv[2:]:
    name, folder, *points = argument.split(",")
    run_to_each(points, lambda: world.train(name, Path(folder), {"checkpoint_minutes": 0}))
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def silent(name: str, total: int, done: int) -> Iterator[Callable[[int, dict[str, float]], None]]:
    yield lambda step, figures: None


def localizer_task(world: World, **config: Any) -> LocalizerTask:
    """Six questions about two videos, every other frame labelled yes."""
    clips = world.inputs["frames"].clips()
    questions = world.inputs["questions"].rows("questions")[:6]
    samples = []
    for row in questions:
        stored = clips[row["video_id"], row["clip_id"]]["row"]
        labels = np.arange(len(stored)) % 2 == 0
        samples.append(LabelledClip(row["question_id"], row["video_id"], row["question"], stored, labels))
    cfg = PretrainLocalizer(**{**FEW_STEPS, **config})
    inputs = [world.inputs[name] for name in ("features", "backbone", "localizer")]
    return LocalizerTask(cfg, HeldOutSplit(samples, []), *inputs, world.run(world.folder / "store"))


def gradients(task: Task, samples: list[int], n_micro_batches: int) -> tuple[float, dict[str, Tensor]]:
    """Summed loss and gradients of one batch, dropout off."""
    task.module.eval().zero_grad()
    micro_batches = task.cut(samples, 0)
    assert len(micro_batches) == n_micro_batches
    total = 0.0
    for micro_batch in micro_batches:
        loss = task.loss(task.load(micro_batch))
        loss.backward()
        total += loss.item()
    return total, {name: parameter.grad.clone() for name, parameter in task.module.named_parameters()}


def assert_same_gradients(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, rtol=0, atol=1e-6 * max(1.0, float(gradient.abs().max())))


@pytest.mark.parametrize("name", list(INPUTS))
def test_every_training_lowers_its_loss_and_writes_its_curves(world: World, tmp_path: Path, name: str) -> None:
    trained = world.train(name, tmp_path, epochs=12, held_out_percent=13)
    losses = [row["loss"] for row in trained.rows("curves")]
    assert len(losses) == 36 and losses[-1] < losses[0] - 0.5  # 7 videos, 21 questions, 3 batches an epoch
    figures = [row["figure"] for row in trained.rows("validation") if row["epoch"] == 11]
    assert figures == (["accuracy"] if name == "finetune_answerer" else ["accuracy", "balanced_accuracy", "yes_share"])
    assert trained.record.dropped == {"truncated": 3, "empty": 3}
    assert not list(trained.path.rglob("*.state"))
    prompt = trained.load(world.run(tmp_path), world.inputs["backbone"], "float32")
    before = world.inputs["localizer"].load(world.run(tmp_path), world.inputs["backbone"], "float32").state_dict()
    assert all(not torch.equal(tensor, before[key]) for key, tensor in prompt.state_dict().items())


def test_training_changes_its_module_and_nothing_else(world: World, tmp_path: Path) -> None:
    task = localizer_task(world)
    language = task.language
    before = {name: tensor.clone() for name, tensor in language.model.state_dict().items()}
    own = {name: tensor.clone() for name, tensor in task.module.state_dict().items()}
    run = world.run(tmp_path)
    cfg = PretrainLocalizer(**FEW_STEPS)
    train(TrainingJob("toy", "toy", cfg, run, Snapshots(tmp_path / "s"), lambda *arguments: task, silent))
    assert all(torch.equal(tensor, before[name]) for name, tensor in language.model.state_dict().items())
    assert all(not torch.equal(tensor, own[name]) for name, tensor in task.module.state_dict().items())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in language.model.parameters())
    assert not any(module.training for module in language.model.modules())
    parts = {name.split(".")[0] for name in own}
    assert parts == {"layer_norm", "query_tokens", "qformer", "projection"}


def test_the_q_former_trains_with_dropout_and_t5_without(world: World) -> None:
    task = localizer_task(world)
    (data,) = map(task.load, task.cut([0, 1, 2], 0))
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        task.module.train()
        losses.append(task.loss(data).item())
    assert losses[0] == losses[1] != losses[2]
    task.module.eval()
    torch.manual_seed(0)
    once = task.loss(data).item()
    assert task.loss(data).item() == once


def test_micro_batches_sum_to_the_loss_and_gradients_of_their_batch(world: World) -> None:
    samples = [3, 0, 4, 1]
    loss, expected = gradients(localizer_task(world), samples, 1)
    summed_loss, summed = gradients(localizer_task(world, micro_batch_size=1), samples, 4)
    assert summed_loss == pytest.approx(loss, rel=1e-6)
    assert_same_gradients(summed, expected)


def test_a_frame_of_several_questions_is_encoded_once(world: World) -> None:
    task = localizer_task(world, frames_per_question=8)
    samples = [0, 1, 2]  # of one video
    (data,) = map(task.load, task.cut(samples, 0))
    assert len(data.rows) == 24 and len(data.features) == 8


def test_each_epoch_draws_one_frame_from_each_part_of_the_clip(world: World) -> None:
    task = localizer_task(world)

    def drawn(epoch: int) -> list[int]:
        (batch,) = task.cut([0], epoch)
        return [row.stored[0] for row in batch.rows]

    draws = [drawn(epoch) for epoch in range(20)]
    assert draws[0] == drawn(0) and len({tuple(draw) for draw in draws}) > 5
    assert all([row // 2 for row in draw] == [0, 1, 2, 3] for draw in draws)  # 8 frames, 4 parts of 2
    assert {row for draw in draws for row in draw} == set(range(8))


def test_gradient_checkpointing_saves_memory_and_changes_no_gradient(world: World) -> None:
    def saved_bytes_and_gradients(checkpointing: bool) -> tuple[int, dict[str, Tensor]]:
        task = localizer_task(world, gradient_checkpointing=checkpointing)
        task.module.eval()
        (data,) = map(task.load, task.cut([0, 1, 2, 3], 0))
        sizes = []

        def pack(tensor: Tensor) -> Tensor:
            sizes.append(tensor.untyped_storage().nbytes())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = task.loss(data)
        loss.backward()
        return sum(sizes), {name: parameter.grad for name, parameter in task.module.named_parameters()}

    (plain_bytes, plain), (saving_bytes, saving) = saved_bytes_and_gradients(False), saved_bytes_and_gradients(True)
    assert saving_bytes < 0.7 * plain_bytes
    assert all(torch.equal(saving[name], gradient) for name, gradient in plain.items())


def test_saving_memory_shares_weights_and_leaves_the_language_model_unchanged(world: World) -> None:
    language = localizer_task(world).language
    modules = list(language.model.modules())
    saving = language.saving_memory()
    assert saving.model is language.model and list(language.model.modules()) == modules
    assert not any("forward" in vars(module) for module in modules)


def test_held_out_videos_are_a_fixed_share_and_not_trained_on() -> None:
    samples = [LabelledClip(f"q{n}", f"v{n // 3}", "", np.zeros(1, int), np.zeros(1, bool)) for n in range(300)]
    split = split_by_video(samples, 5.0, 0, "toy")
    videos = [{sample.video_id for sample in part} for part in (split.train, split.held_out)]
    assert len(videos[0]) == 95 and len(videos[1]) == 5 and not videos[0] & videos[1]
    assert len(split.held_out) == 15 and split == split_by_video(samples, 5.0, 0, "toy")
    assert split.held_out != split_by_video(samples, 5.0, 1, "toy").held_out
    assert not split_by_video(samples[:9], 5.0, 0, "toy").held_out


def test_voting_trains_on_each_keyframe_separately(world: World, tmp_path: Path) -> None:
    together = world.train("finetune_answerer", tmp_path)
    alone = world.train("finetune_answerer", tmp_path, method="vote")
    assert together.id != alone.id and weights_of(together) != weights_of(alone)
    inputs = [world.inputs[name] for name in ("features", "backbone", "answerer")]
    for method, shapes in (("concatenate", [(2, 3)]), ("vote", [(6, 1)])):
        cfg = FinetuneAnswerer(method=method)
        row = world.inputs["keyframes"].rows("keyframes")[0]
        question = world.answered(row)
        split = HeldOutSplit([question] * 2, [])
        task = AnswererTask(cfg, split, *inputs, world.run(tmp_path), alone=method == "vote")
        data = list(map(task.load, task.cut([0, 1], 0)))
        assert [batch.where.shape for batch in data] == shapes


@pytest.mark.parametrize("stage", ["pretrain_localizer", "finetune_answerer"])
def test_held_out_rows_without_finite_logits_are_counted_and_not_in_the_figures(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    module = f"pipeline.training.{'answerer' if stage == 'finetune_answerer' else 'localizer'}_training"
    original = visual_tokens

    def first_is_broken(model: Any, data: Any) -> Tensor:
        visual = original(model, data)
        return visual if model.prompt.training else torch.cat([visual[:1] * math.nan, visual[1:]])

    intact = world.train(stage, tmp_path / "whole", held_out_percent=30.0)
    monkeypatch.setattr(f"{module}.visual_tokens", first_is_broken)
    trained = world.train(stage, tmp_path / "broken", held_out_percent=30.0)
    figures = {row["figure"]: row["value"] for row in trained.rows("validation") if row["epoch"] == 1}
    assert figures.pop("not_finite") >= 1 and all(0 <= value <= 1 for value in figures.values())
    assert figures.keys() == {row["figure"] for row in intact.rows("validation")}
    assert weights_of(trained) == weights_of(intact)


def test_accuracy_is_nan_when_no_held_out_logits_are_finite() -> None:
    figures = AnswererTask.figures(None, [0, 0, 4])  # type: ignore[arg-type]
    assert math.isnan(figures["accuracy"]) and figures["not_finite"] == 4
    assert math.isnan(LocalizerTask.figures(None, [0, 0, 0, 0, 4])["balanced_accuracy"])  # type: ignore[arg-type]


def test_untrainable_questions_are_counted_by_reason(world: World, tmp_path: Path) -> None:
    bare = make_world(tmp_path / "bare", videos=3, moments=False, answers=1)
    with pytest.raises(SevilaError, match=r"no question to train on: .*no_moments.*expected questions with labelled"):
        bare.train("pretrain_localizer", tmp_path / "store")
    trained = bare.train("finetune_answerer", tmp_path / "store")
    assert trained.record.dropped == {"no_answer": 8}


def test_features_too_large_for_memory_are_read_on_demand_with_the_same_result(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = world.train("pretrain_localizer", tmp_path / "held")
    monkeypatch.setattr("pipeline.training.prompt_training.HELD_BYTES", 1)
    read, asked_for = PoolReader.read, list[Any]()
    monkeypatch.setattr(PoolReader, "read", lambda self, id, rows: asked_for.append(rows) or read(self, id, rows))
    assert weights_of(world.train("pretrain_localizer", tmp_path / "read")) == weights_of(held)
    assert asked_for and slice(None) not in asked_for, "a whole video was read, however long"


def test_bfloat16_keeps_trained_weights_in_float32(world: World, tmp_path: Path) -> None:
    exact = world.train("finetune_answerer", tmp_path, learning_rate=1e-12)
    rounded = world.train("finetune_answerer", tmp_path, learning_rate=1e-12, precision="bfloat16")
    losses = [[row["loss"] for row in trained.rows("curves")] for trained in (exact, rounded)]
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=2e-2)
    prompt = rounded.load(world.run(tmp_path), world.inputs["backbone"], "float32")
    assert {parameter.dtype for parameter in prompt.parameters()} == {torch.float32}


@pytest.mark.slow
def test_a_killed_training_stage_resumes_to_the_same_weights(world: World, tmp_path: Path) -> None:
    (tmp_path / "world").write_bytes(pickle.dumps(world))
    points = np.random.default_rng(1).integers(1, 30, (3, 3)).tolist()
    orders = [",".join(map(str, [name, tmp_path / name, *kills])) for name, kills in zip(INPUTS, points, strict=True)]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "world"), *orders],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.stdout.split() == ["9", "9", "9", "0"] * 3, f"{points}: {done.stdout} {done.stderr}"
    for name in INPUTS:
        with one_thread():  # as in the killed processes: the number of threads changes the last bits of sums
            store, expected = tmp_path / name, world.train(name, tmp_path / "whole", {"checkpoint_minutes": 0})
        resumed = world.train(name, store)
        assert resumed.id == expected.id and weights_of(resumed) == weights_of(expected)
        assert resumed.record.files["validation.parquet"] == expected.record.files["validation.parquet"]
        assert not list((store / "artifacts").rglob("*.part")) and not list((store / "artifacts").rglob("*.state"))
        assert not list((store / "partial").iterdir())


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_and_record_their_own_memory(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world", videos=3)  # with dropout
    config = {"batch_size": 4, "micro_batch_size": 1}
    one = world.train("pretrain_localizer", tmp_path / "one", **config)
    held = np.ones(2 << 30, "uint8")  # memory of the parent process, which must not count
    two = world.train("pretrain_localizer", tmp_path / "two", {"processes": 2}, **config)
    assert one.id == two.id and 0 < two.record.peak_memory_bytes < len(held)
    for name in ("loss", "gradient_norm"):
        actual, expected = ([row[name] for row in trained.rows("curves")] for trained in (two, one))
        assert actual == pytest.approx(expected, rel=1e-6)


def test_plan_accepts_processes_and_tensorboard(tmp_path: Path) -> None:
    assert main(["plan", "nextqa", "--store", str(tmp_path), "--processes", "2", "--tensorboard", str(tmp_path)]) == 0
    assert not list(Store(tmp_path))
