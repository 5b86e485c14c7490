"""Results are the same whatever the environment says."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.toy_training import job, without_dropout

ROOT = Path(__file__).parents[2]
# As batch systems, other projects' launchers and their users set them; each changed the weights or ended in a traceback.
HOSTILE = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_USE_FSDP": "true",
    "ACCELERATE_USE_MEGATRON_LM": "true",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "true",
    "ACCELERATE_DYNAMO_BACKEND": "EAGER",
    "ACCELERATE_TORCH_DEVICE": "meta",
    "ACCELERATE_USE_SAGEMAKER": "true",
    "ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE": "DATA_PARALLEL",
    "PARALLELISM_CONFIG_TP_SIZE": "2",
    "FSDP_VERSION": "7",
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1",
    "NVIDIA_TF32_OVERRIDE": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "PMI_SIZE": "2",
}
TRAIN = """
import sys
from pathlib import Path
from tests.pipeline.test_environment import print_weights
print_weights(Path(sys.argv[1]), int(sys.argv[2]))
"""


def print_weights(folder: Path, processes: int) -> None:
    from pipeline.training import train

    trained = train(job(folder, without_dropout, processes=processes))
    content = b"".join(tensor.numpy().tobytes() for tensor in trained.weights.values())
    print(hashlib.sha256(content).hexdigest())


def run(code: str, *arguments: object, environment: dict[str, str] | None = None) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    inherited = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=inherited | (environment or {}), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_training_gives_the_same_bytes_under_a_hostile_environment(tmp_path: Path, processes: int) -> None:
    wanted = run(TRAIN, tmp_path / "plain", processes)
    assert run(TRAIN, tmp_path / "hostile", processes, environment=HOSTILE) == wanted


def test_settings_made_after_the_start_change_no_training_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    print_weights(tmp_path / "plain", 1)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    print_weights(tmp_path / "hostile", 1)
    plain, hostile = capsys.readouterr().out.split()
    assert plain == hostile
