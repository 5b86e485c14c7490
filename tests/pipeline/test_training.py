"""The optimisation loop, on a network so small that a training takes a fraction of a second."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cache.errors import SevilaError
from cache.store import Store
from pipeline.engine.stage import RunContext
from pipeline.training.loop import batches_of, decay_groups
from pipeline.training.task import MicroBatch, Trained, processes, train
from tests.pipeline.toy_training import (
    N_SAMPLES,
    TINY,
    DiesOnceFactory,
    ToyTask,
    job,
    with_a_broken_point,
    with_broken_points_only,
    with_little_memory,
    without_dropout,
)

ROOT = Path(__file__).parents[2]
N_STEPS = 15
CRASHES = """
import sys
import torch, torch._dynamo, accelerate, transformers.optimization  # imported once for all children
from pathlib import Path
from pipeline.training.task import train
from tests.crash_points import run_to_each
from tests.pipeline.toy_training import job

for argument in sys.argv[1:]:
    folder, *points = argument.split(",")
    run_to_each(points, lambda: train(job(Path(folder), checkpoint_minutes=0)))
"""


def assert_equal_training(trained: Trained, expected: Trained) -> None:
    assert trained.weights.keys() == expected.weights.keys()
    assert all(torch.equal(trained.weights[name], tensor) for name, tensor in expected.weights.items())
    assert trained.validation == expected.validation
    # The frame rate depends on the clock.
    curves = [[row._replace(frames_per_second=0) for row in each.curves] for each in (trained, expected)]
    assert curves[0] == curves[1]


def assert_close_training(trained: Trained, expected: Trained) -> None:
    for name in ("loss", "gradient_norm"):
        values, expected_values = ([getattr(row, name) for row in each.curves] for each in (trained, expected))
        assert values == pytest.approx(expected_values, rel=1e-6)
    for name, tensor in expected.weights.items():
        torch.testing.assert_close(trained.weights[name], tensor, rtol=1e-5, atol=1e-6)


def test_training_records_every_step_and_validates_every_epoch(tmp_path: Path) -> None:
    trained = train(job(tmp_path))
    assert [row.step for row in trained.curves] == list(range(1, N_STEPS + 1))
    assert [row.epoch for row in trained.curves] == [0] * 5 + [1] * 5 + [2] * 5
    assert [(row.step, row.epoch, row.figure) for row in trained.validation] == [
        (5, 0, "accuracy"),
        (10, 1, "accuracy"),
        (15, 2, "accuracy"),
    ]
    assert all(row.frames_per_second > 0 and row.gradient_norm > 0 for row in trained.curves)


def test_the_learning_rate_warms_up_linearly_and_decays_as_a_cosine(tmp_path: Path) -> None:
    rates = [row.learning_rate for row in train(job(tmp_path)).curves]
    warmup, peak = TINY.warmup_steps, TINY.learning_rate
    falls = [(step - warmup) / (N_STEPS - warmup) for step in range(warmup, N_STEPS)]
    expected = [peak * step / warmup for step in range(warmup)]
    expected += [peak * (1 + math.cos(math.pi * share)) / 2 for share in falls]
    assert rates == pytest.approx(expected)


def test_one_dimensional_parameters_have_no_weight_decay() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2).requires_grad_(False))
    decayed, free = decay_groups(module, 0.05)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.05, 0.0)
    assert [tuple(parameter.shape) for parameter in decayed["params"]] == [(4, 3)]
    assert [tuple(parameter.shape) for parameter in free["params"]] == [(4,), (4,), (4,)]


def test_an_epoch_uses_every_sample_once_in_its_own_order() -> None:
    epochs = [batches_of(23, 5, seed=3, epoch=epoch) for epoch in (0, 1)]
    assert [[len(batch) for batch in batches] for batches in epochs] == [[5, 5, 5, 5, 3]] * 2
    orders = [[sample for batch in batches for sample in batch] for batches in epochs]
    assert [sorted(order) for order in orders] == [list(range(23))] * 2 and orders[0] != orders[1]
    assert epochs[0] == batches_of(23, 5, seed=3, epoch=0) != batches_of(23, 5, seed=4, epoch=0)


def test_training_is_deterministic_and_keeps_the_global_random_state(tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first = train(job(tmp_path / "a"))
    assert torch.equal(torch.rand(1), expected)
    assert_equal_training(train(job(tmp_path / "b")), first)
    other = train(job(tmp_path / "c", cfg=TINY.model_copy(update={"seed": 2})))
    assert not torch.equal(other.weights["0.weight"], first.weights["0.weight"])


@pytest.mark.parametrize("size", [1, 2])
def test_micro_batches_give_the_same_steps_as_the_whole_batch(tmp_path: Path, size: int) -> None:
    trainings = []
    for micro_batch_size in (5, size):
        cfg = TINY.model_copy(update={"micro_batch_size": micro_batch_size})
        trainings.append(train(job(tmp_path / str(micro_batch_size), without_dropout, cfg=cfg)))
    whole, cut = trainings
    assert_close_training(cut, whole)


def test_the_loss_is_the_mean_over_the_target_tokens_of_the_whole_batch(tmp_path: Path) -> None:
    task = ToyTask(0.0)
    batch = batches_of(task.n_samples, TINY.batch_size, TINY.seed, 0)[0]
    with torch.no_grad():
        expected = float(task.loss(batch)) / sum(number % 3 + 1 for number in batch)
    loss = train(job(tmp_path, without_dropout)).curves[0].loss
    assert loss == pytest.approx(expected, rel=1e-6)


def test_a_killed_training_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    expected = train(job(tmp_path / "whole"))
    points = np.random.default_rng(0).integers(1, 30, (2, 4)).tolist()
    folders = [tmp_path / str(number) for number in range(len(points))]
    arguments = [",".join(map(str, [folder, *numbers])) for folder, numbers in zip(folders, points, strict=True)]
    result = subprocess.run(
        [sys.executable, "-c", CRASHES, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.stdout.split() == ["9", "9", "9", "9", "0"] * len(points), f"{points}: {result}"
    for folder, numbers in zip(folders, points, strict=True):
        assert_equal_training(train(job(folder)), expected)
        assert not list(folder.rglob("*.part")), numbers


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_snapshot_is_reported_and_the_previous_one_used(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = train(job(tmp_path / "whole"))
    train(job(tmp_path / "broken"))
    previous, newest = sorted((tmp_path / "broken" / "snapshots").glob("*.state"))
    content = bytearray(newest.read_bytes())
    if damage == "gone":
        newest.unlink()
    else:
        content[len(content) // 2] ^= 1
        newest.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    assert_equal_training(train(job(tmp_path / "broken")), expected)
    assert f"{newest.name}: damaged" in caplog.text and previous.exists()


def test_a_loss_that_is_not_finite_stops_training_and_keeps_the_last_snapshot(tmp_path: Path) -> None:
    cfg = TINY.model_copy(update={"learning_rate": 1e38})
    with pytest.raises(SevilaError, match=r"toy: epoch 1, step \d of 15: loss .*point \d+.*learning_rate") as error:
        train(job(tmp_path, cfg=cfg, checkpoint_minutes=0))
    snapshots = sorted((tmp_path / "snapshots").glob("*.state"))
    assert f"The state of step {int(snapshots[-1].stem)} is kept in {snapshots[-1].parent}" in str(error.value)
    assert all(tensor.isfinite().all() for tensor in torch.load(snapshots[-1], weights_only=True)["weights"].values())


def test_a_loss_that_is_not_finite_before_the_first_snapshot_is_an_error(tmp_path: Path) -> None:
    cfg = TINY.model_copy(update={"learning_rate": 1e38})
    with pytest.raises(SevilaError, match=r"too early for a kept state"):
        train(job(tmp_path, cfg=cfg))
    assert not list((tmp_path / "snapshots").glob("*.state"))


@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_sample_without_a_finite_initial_loss_is_left_out_of_every_epoch(
    batch_size: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = TINY.model_copy(update={"batch_size": batch_size})
    trained = train(job(tmp_path / "one", with_a_broken_point, cfg=cfg))
    assert trained.n_left_out == 1 and all(tensor.isfinite().all() for tensor in trained.weights.values())
    assert all(math.isfinite(row.loss) for row in trained.curves)
    n_steps = 3 * math.ceil(N_SAMPLES / batch_size)
    assert len(trained.curves) == (n_steps - 3 if batch_size == 1 else n_steps) and trained.curves[-1].step <= n_steps
    messages = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert messages == ["toy: left out, because the weights as given have no finite loss for them: point 4"]
    assert_equal_training(train(job(tmp_path / "again", with_a_broken_point, cfg=cfg)), trained)


def test_initial_weights_without_any_finite_loss_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SevilaError, match=r"no finite loss before any step, with the weights as given.*give others"):
        train(job(tmp_path, with_broken_points_only))


def test_more_processes_than_gpus_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    counts = [processes(RunContext(Store(tmp_path), device=device)) for device in ("auto", "cuda", "cuda:1", "cpu")]
    assert counts == [2, 2, 1, 1] and processes(RunContext(Store(tmp_path), device="cpu", processes=3)) == 3
    for device, maximum in (("auto", 2), ("cuda:1", 1)):
        with pytest.raises(SevilaError, match=rf"3 processes on device {device}: .* expected at most {maximum}"):
            processes(RunContext(Store(tmp_path), device=device, processes=3))


def test_an_out_of_memory_error_names_the_keys_that_reduce_memory(tmp_path: Path) -> None:
    cfg = TINY.model_copy(update={"micro_batch_size": 3})
    message = r"toy: out of memory on cpu with 3 questions at once.*smaller micro_batch_size.*gradient_checkpointing"
    with pytest.raises(SevilaError, match=message):
        train(job(tmp_path, with_little_memory, cfg=cfg))
    assert len(train(job(tmp_path / "smaller", with_little_memory)).curves) == N_STEPS


def test_keep_best_keeps_the_weights_of_the_best_epoch(tmp_path: Path) -> None:
    cfg = TINY.model_copy(update={"keep": "best", "learning_rate": 0.3, "epochs": 6, "seed": 0})
    best = train(job(tmp_path / "best", cfg=cfg))
    values = [row.value for row in best.validation]
    last = train(job(tmp_path / "last", cfg=cfg.model_copy(update={"keep": "last"})))
    assert values == [row.value for row in last.validation]
    assert values.index(max(values)) < 5, values  # otherwise the last epoch is the best
    assert not torch.equal(best.weights["0.weight"], last.weights["0.weight"])
    task = ToyTask(0.0)
    task.module.load_state_dict(best.weights)
    counts = sum(task.judge(list(batch.rows)) for batch in task.validation())
    assert task.figures(counts.tolist())["accuracy"] == max(values)


def test_gradients_are_clipped_to_the_configured_norm(tmp_path: Path) -> None:
    cfg = TINY.model_copy(update={"weight_decay": 0.0})
    free = train(job(tmp_path / "free", cfg=cfg))
    # Adam's epsilon dominates gradients this short, so the weights do not move.
    clipped = train(job(tmp_path / "clipped", cfg=cfg.model_copy(update={"clip_gradient_norm": 1e-15})))
    assert clipped.curves[0].gradient_norm == free.curves[0].gradient_norm > 1e-3
    start = ToyTask(0.5).module.state_dict()
    torch.testing.assert_close(clipped.weights, start, rtol=0, atol=1e-6)
    assert (free.weights["0.weight"] - start["0.weight"]).abs().max() > 1e-3


def test_a_warm_up_longer_than_the_training_logs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(job(tmp_path, cfg=TINY.model_copy(update={"warmup_steps": 1000})))
    assert "warmup_steps = 1000, but there are only 15 steps" in caplog.text


class CountsCuts(ToyTask):
    """Records every call of `cut`."""

    def __init__(self, cuts: list[Any]) -> None:
        super().__init__(0.5)
        self._cuts = cuts

    def cut(self, samples: Sequence[int], epoch: int) -> list[MicroBatch]:
        self._cuts.append((epoch, tuple(samples)))
        return super().cut(samples, epoch)


def test_each_batch_is_cut_once_per_epoch(tmp_path: Path) -> None:
    cuts: list[Any] = []
    train(replace(job(tmp_path), make_task=lambda run: CountsCuts(cuts)))
    trained_on = [cut for cut in cuts if cut[1][0] < N_SAMPLES]
    assert trained_on == [
        (epoch, tuple(batch)) for epoch in range(3) for batch in batches_of(N_SAMPLES, 5, TINY.seed, epoch)
    ]


@pytest.mark.slow
def test_a_process_without_a_micro_batch_does_not_change_the_loss(tmp_path: Path) -> None:
    cfg = TINY.model_copy(update={"micro_batch_size": 5, "epochs": 1})
    two = train(job(tmp_path / "two", without_dropout, cfg=cfg, processes=2))
    one = train(job(tmp_path / "one", without_dropout, cfg=cfg))
    assert [row.loss for row in two.curves] == pytest.approx([row.loss for row in one.curves], rel=1e-6)


def test_curves_are_written_for_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train(job(tmp_path, tensorboard=tmp_path / "events"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "events" / "toy-v1-0")).Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, N_STEPS + 1))
    assert [event.step for event in events.Scalars("accuracy")] == [5, 10, 15]


def test_one_process_trains_in_both_precisions(tmp_path: Path) -> None:
    exact = train(job(tmp_path / "exact", without_dropout))
    rounded = train(job(tmp_path / "rounded", without_dropout, cfg=TINY.model_copy(update={"precision": "bfloat16"})))
    assert rounded.weights["0.weight"].dtype == torch.float32
    assert rounded.curves[0].loss == pytest.approx(exact.curves[0].loss, rel=1e-2)
    assert rounded.curves[0].loss != exact.curves[0].loss


@pytest.mark.slow
def test_training_stops_when_a_process_dies_and_resumes_to_the_steps_of_one_process(tmp_path: Path) -> None:
    make_task = DiesOnceFactory(tmp_path / "died")
    with pytest.raises(SevilaError, match=r"process 2 of 2 was ended by SIGKILL.*goes on from it"):
        train(job(tmp_path, make_task, processes=2))
    states = sorted((tmp_path / "snapshots").glob("*.state"))
    assert [int(state.stem) for state in states] == [5]  # the end of the first epoch
    one = train(job(tmp_path / "one"))  # with the same dropout
    two = train(job(tmp_path, make_task, processes=2))
    assert_close_training(two, one)
    assert two.validation == one.validation
