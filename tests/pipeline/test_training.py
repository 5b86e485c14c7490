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
    DiesOnceIn,
    ToyTask,
    job,
    with_a_broken_point,
    with_broken_points_only,
    with_little_memory,
    without_dropout,
)

ROOT = Path(__file__).parents[2]
N_STEPS = 15
# A process that has computed nothing yet forks children cheaply; each is ended, as kill -9 would, before the n-th operation
# that changes what is on the disk or steps the optimizer, and the last one runs to the end.
KILLED = """
import os, sys
import torch, torch._dynamo, accelerate, transformers.optimization  # what children would import one by one
from pathlib import Path
from pipeline.training.task import train
from tests.pipeline.toy_training import (
    N_SAMPLES,
    TINY,
    DiesOnceIn,
    ToyTask,
    job,
    with_a_broken_point,
    with_broken_points_only,
    with_little_memory,
    without_dropout,
)

def counted(operation, left):
    def run(*arguments, **options):
        left[0] -= 1
        if left[0] == 0:
            os._exit(9)
        return operation(*arguments, **options)
    return run

def child(folder, point):
    left = [point]
    for name in ("replace", "fsync", "unlink", "mkdir"):
        setattr(os, name, counted(getattr(os, name), left))
    torch.optim.AdamW.step = counted(torch.optim.AdamW.step, left)
    train(job(Path(folder), checkpoint_minutes=0))
    os._exit(0)

for argument in sys.argv[1:]:
    folder, *points = argument.split(",")
    for point in [*map(int, points), 10**9]:
        pid = os.fork()
        if pid == 0:
            child(folder, point)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def same(found: Trained, wanted: Trained) -> None:
    assert found.weights.keys() == wanted.weights.keys()
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in wanted.weights.items())
    assert found.validation == wanted.validation
    timed = [
        [row._replace(frames_per_second=0) for row in trained.curves] for trained in (found, wanted)
    ]  # by the clock
    assert timed[0] == timed[1]


def test_every_step_has_its_row_and_every_epoch_its_validation(tmp_path: Path) -> None:
    trained = train(job(tmp_path))
    assert [row.step for row in trained.curves] == list(range(1, N_STEPS + 1))
    assert [row.epoch for row in trained.curves] == [0] * 5 + [1] * 5 + [2] * 5
    assert [(row.step, row.epoch, row.figure) for row in trained.validation] == [
        (5, 0, "accuracy"),
        (10, 1, "accuracy"),
        (15, 2, "accuracy"),
    ]
    assert all(row.frames_per_second > 0 and row.gradient_norm > 0 for row in trained.curves)


def test_learning_rate_rises_linearly_and_falls_as_a_cosine(tmp_path: Path) -> None:
    found = [row.learning_rate for row in train(job(tmp_path)).curves]
    warmup, peak = TINY.warmup_steps, TINY.learning_rate
    falls = [(step - warmup) / (N_STEPS - warmup) for step in range(warmup, N_STEPS)]
    wanted = [peak * step / warmup for step in range(warmup)]
    wanted += [peak * (1 + math.cos(math.pi * share)) / 2 for share in falls]
    assert found == pytest.approx(wanted)


def test_parameters_of_one_dimension_do_not_decay() -> None:
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


def test_equal_trainings_are_equal_to_the_bit_and_leave_the_random_stream_alone(tmp_path: Path) -> None:
    torch.manual_seed(7)
    wanted = torch.rand(1)
    torch.manual_seed(7)
    first = train(job(tmp_path / "a"))
    assert torch.equal(torch.rand(1), wanted)
    same(train(job(tmp_path / "b")), first)
    other = train(job(tmp_path / "c", cfg=TINY.model_copy(update={"seed": 2})))
    assert not torch.equal(other.weights["0.weight"], first.weights["0.weight"])


@pytest.mark.parametrize("size", [1, 2])
def test_micro_batches_make_the_same_steps_as_the_whole_batch(tmp_path: Path, size: int) -> None:
    found = []
    for micro_batch_size in (5, size):
        cfg = TINY.model_copy(update={"micro_batch_size": micro_batch_size})
        found.append(train(job(tmp_path / str(micro_batch_size), without_dropout, cfg=cfg)))
    whole, cut = found
    for name in ("loss", "gradient_norm"):
        assert [getattr(row, name) for row in cut.curves] == pytest.approx(
            [getattr(row, name) for row in whole.curves], rel=1e-6
        )
    for name, tensor in whole.weights.items():
        torch.testing.assert_close(cut.weights[name], tensor, rtol=1e-5, atol=1e-6)


def test_the_loss_is_the_mean_over_the_target_tokens_of_the_whole_batch(tmp_path: Path) -> None:
    task = ToyTask(0.0)
    batch = batches_of(task.n_samples, TINY.batch_size, TINY.seed, 0)[0]
    with torch.no_grad():
        wanted = float(task.loss(batch)) / sum(number % 3 + 1 for number in batch)
    found = train(job(tmp_path, without_dropout)).curves[0].loss
    assert found == pytest.approx(wanted, rel=1e-6)


def test_a_killed_training_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    wanted = train(job(tmp_path / "whole"))
    points = np.random.default_rng(0).integers(1, 30, (2, 4)).tolist()
    folders = [tmp_path / str(number) for number in range(len(points))]
    orders = [",".join(map(str, [folder, *killed])) for folder, killed in zip(folders, points, strict=True)]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *orders],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.stdout.split() == ["9", "9", "9", "9", "0"] * len(points), f"{points}: {done.stdout} {done.stderr}"
    for folder, killed in zip(folders, points, strict=True):
        same(train(job(folder)), wanted)
        assert not list(folder.rglob("*.part")), killed


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_state_is_told_and_the_one_before_it_taken(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = train(job(tmp_path / "whole"))
    train(job(tmp_path / "broken"))
    before, newest = sorted((tmp_path / "broken" / "snapshots").glob("*.state"))
    content = bytearray(newest.read_bytes())
    if damage == "gone":
        newest.unlink()
    else:
        content[len(content) // 2] ^= 1
        newest.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    same(train(job(tmp_path / "broken")), wanted)
    assert f"{newest.name}: damaged" in caplog.text and before.exists()


def test_a_loss_that_is_not_finite_stops_with_its_place_and_keeps_the_state(tmp_path: Path) -> None:
    cfg = TINY.model_copy(update={"learning_rate": 1e38})
    with pytest.raises(SevilaError, match=r"toy: epoch 1, step \d of 15: loss .*point \d+.*learning_rate") as caught:
        train(job(tmp_path, cfg=cfg, checkpoint_minutes=0))
    kept = sorted((tmp_path / "snapshots").glob("*.state"))
    assert f"The state of step {int(kept[-1].stem)} is kept in {kept[-1].parent}" in str(caught.value)
    assert all(tensor.isfinite().all() for tensor in torch.load(kept[-1], weights_only=True)["weights"].values())


def test_a_loss_that_is_not_finite_from_the_start_says_that_no_state_is_kept_yet(tmp_path: Path) -> None:
    cfg = TINY.model_copy(update={"learning_rate": 1e38})
    with pytest.raises(SevilaError, match=r"too early for a kept state"):
        train(job(tmp_path, cfg=cfg))
    assert not list((tmp_path / "snapshots").glob("*.state"))


@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_sample_without_a_finite_loss_from_the_start_is_left_out_of_every_epoch(
    batch_size: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = TINY.model_copy(update={"batch_size": batch_size})
    found = train(job(tmp_path / "one", with_a_broken_point, cfg=cfg))
    assert found.n_left_out == 1 and all(tensor.isfinite().all() for tensor in found.weights.values())
    assert all(math.isfinite(row.loss) for row in found.curves)
    n_steps = 3 * math.ceil(N_SAMPLES / batch_size)
    assert len(found.curves) == (n_steps - 3 if batch_size == 1 else n_steps) and found.curves[-1].step <= n_steps
    told = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert told == ["toy: left out, because the weights as given have no finite loss for them: point 4"]
    same(train(job(tmp_path / "again", with_a_broken_point, cfg=cfg)), found)


def test_weights_that_give_no_finite_loss_at_all_are_said_to_be_broken(tmp_path: Path) -> None:
    with pytest.raises(SevilaError, match=r"no finite loss before any step, with the weights as given.*give others"):
        train(job(tmp_path, with_broken_points_only))


def test_more_processes_than_gpus_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    found = [processes(RunContext(Store(tmp_path), device=device)) for device in ("auto", "cuda", "cuda:1", "cpu")]
    assert found == [2, 2, 1, 1] and processes(RunContext(Store(tmp_path), device="cpu", processes=3)) == 3
    for device, wanted in (("auto", 2), ("cuda:1", 1)):
        with pytest.raises(SevilaError, match=rf"3 processes on device {device}: .* {wanted} wanted at most"):
            processes(RunContext(Store(tmp_path), device=device, processes=3))


def test_out_of_memory_names_the_keys_that_need_less(tmp_path: Path) -> None:
    cfg = TINY.model_copy(update={"micro_batch_size": 3})
    wanted = r"toy: out of memory on cpu with 3 questions at once.*smaller micro_batch_size.*gradient_checkpointing"
    with pytest.raises(SevilaError, match=wanted):
        train(job(tmp_path, with_little_memory, cfg=cfg))
    assert len(train(job(tmp_path / "smaller", with_little_memory)).curves) == N_STEPS


def test_the_best_epochs_weights_are_kept_if_asked_for(tmp_path: Path) -> None:
    cfg = TINY.model_copy(update={"keep": "best", "learning_rate": 0.3, "epochs": 6, "seed": 0})
    best = train(job(tmp_path / "best", cfg=cfg))
    values = [row.value for row in best.validation]
    wanted = train(job(tmp_path / "last", cfg=cfg.model_copy(update={"keep": "last"})))
    assert values == [row.value for row in wanted.validation]
    assert values.index(max(values)) < 5, values  # else this would show nothing
    assert not torch.equal(best.weights["0.weight"], wanted.weights["0.weight"])
    task = ToyTask(0.0)
    task.module.load_state_dict(best.weights)
    counts = sum(task.judge(list(batch.rows)) for batch in task.validation())
    assert task.figures(counts.tolist())["accuracy"] == max(values)


def test_long_gradients_are_clipped_if_asked_for(tmp_path: Path) -> None:
    cfg = TINY.model_copy(update={"weight_decay": 0.0})
    free = train(job(tmp_path / "free", cfg=cfg))
    # So short that Adam's epsilon stands out beside it, and nothing moves.
    clipped = train(job(tmp_path / "clipped", cfg=cfg.model_copy(update={"clip_gradient_norm": 1e-15})))
    assert clipped.curves[0].gradient_norm == free.curves[0].gradient_norm > 1e-3
    start = ToyTask(0.5).module.state_dict()
    torch.testing.assert_close(clipped.weights, start, rtol=0, atol=1e-6)
    assert (free.weights["0.weight"] - start["0.weight"]).abs().max() > 1e-3


def test_a_warm_up_longer_than_the_training_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(job(tmp_path, cfg=TINY.model_copy(update={"warmup_steps": 1000})))
    assert "warmup_steps = 1000, but there are only 15 steps" in caplog.text


class CountsCuts(ToyTask):
    """Notes every call of `cut`."""

    def __init__(self, cuts: list[Any]) -> None:
        super().__init__(0.5)
        self._cuts = cuts

    def cut(self, samples: Sequence[int], epoch: int) -> list[MicroBatch]:
        self._cuts.append((epoch, tuple(samples)))
        return super().cut(samples, epoch)


def test_each_batch_is_cut_once_an_epoch(tmp_path: Path) -> None:
    cuts: list[Any] = []
    train(replace(job(tmp_path), make_task=lambda run: CountsCuts(cuts)))
    trained_on = [cut for cut in cuts if cut[1][0] < N_SAMPLES]
    assert trained_on == [
        (epoch, tuple(batch)) for epoch in range(3) for batch in batches_of(N_SAMPLES, 5, TINY.seed, epoch)
    ]


@pytest.mark.slow
def test_a_process_without_a_micro_batch_does_no_harm(tmp_path: Path) -> None:
    cfg = TINY.model_copy(update={"micro_batch_size": 5, "epochs": 1})
    found = train(job(tmp_path / "two", without_dropout, cfg=cfg, processes=2))
    wanted = train(job(tmp_path / "one", without_dropout, cfg=cfg))
    assert [row.loss for row in found.curves] == pytest.approx([row.loss for row in wanted.curves], rel=1e-6)


def test_curves_are_written_for_tensorboard_too(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train(job(tmp_path, tensorboard=tmp_path / "events"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "events" / "toy-v1-0")).Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, N_STEPS + 1))
    assert [event.step for event in events.Scalars("accuracy")] == [5, 10, 15]


def test_trainings_of_both_precisions_follow_each_other_in_one_process(tmp_path: Path) -> None:
    exact = train(job(tmp_path / "exact", without_dropout))
    rounded = train(job(tmp_path / "rounded", without_dropout, cfg=TINY.model_copy(update={"precision": "bfloat16"})))
    assert rounded.weights["0.weight"].dtype == torch.float32
    assert rounded.curves[0].loss == pytest.approx(exact.curves[0].loss, rel=1e-2)
    assert rounded.curves[0].loss != exact.curves[0].loss


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_and_two_go_on_later_to_the_steps_of_one(tmp_path: Path) -> None:
    make_task = DiesOnceIn(tmp_path / "died")
    with pytest.raises(SevilaError, match=r"process 2 of 2 was ended by SIGKILL.*goes on from it"):
        train(job(tmp_path, make_task, processes=2))
    states = sorted((tmp_path / "snapshots").glob("*.state"))
    assert [int(state.stem) for state in states] == [5]  # the end of the first epoch
    one = train(job(tmp_path / "one"))  # with the same dropout
    two = train(job(tmp_path, make_task, processes=2))
    for name in ("loss", "gradient_norm"):
        assert [getattr(row, name) for row in two.curves] == pytest.approx(
            [getattr(row, name) for row in one.curves], rel=1e-6
        )
    for name, tensor in one.weights.items():
        torch.testing.assert_close(two.weights[name], tensor, rtol=1e-5, atol=1e-6)
    assert two.validation == one.validation
