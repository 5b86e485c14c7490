"""A small model trains on one thread and gives the same bits for any number of threads."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from pipeline.shapes.backbone import ShapesBackbone
from pipeline.shapes.optimising import ShowStep
from pipeline.threads import SMALL_PARAMETERS, as_suits, side_by_side


@pytest.fixture
def n_threads() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(before)


@contextmanager
def no_bar(description: str, steps: int, done: int) -> Iterator[ShowStep]:
    yield lambda step, figures: None


def test_a_small_model_uses_one_thread_and_a_large_one_all(n_threads: int) -> None:
    with as_suits(SMALL_PARAMETERS - 1):
        assert side_by_side([torch.get_num_threads] * 2) == [1, 1]
    with as_suits(SMALL_PARAMETERS):
        assert torch.get_num_threads() == n_threads
    assert torch.get_num_threads() == n_threads


def digest_of_training(folder: Path, n_threads: int) -> str:
    """Return the digest of a backbone whose training started with `n_threads` threads."""
    torch.set_num_threads(n_threads)
    folder.mkdir()
    backbone = ShapesBackbone(folder, 0)
    backbone.train("read", 8, 32, no_bar)
    digest = hashlib.sha256()
    for _, tensor in sorted(backbone.model.state_dict().items()):
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def test_the_demos_backbone_has_the_same_bits_on_any_number_of_threads(n_threads: int, tmp_path: Path) -> None:
    assert digest_of_training(tmp_path / "a", n_threads) == digest_of_training(tmp_path / "b", 3 - n_threads)


@pytest.mark.parametrize(
    ("environment", "value"), [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")]
)
def test_waiting_threads_spin_briefly_unless_the_user_configures_it(environment: dict[str, str], value: str) -> None:
    inherited = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    code = "import pipeline, os; print(os.environ.get('GOMP_SPINCOUNT'))"
    result = subprocess.run([sys.executable, "-c", code], env=inherited | environment, capture_output=True, text=True)
    assert result.stdout.strip() == value
