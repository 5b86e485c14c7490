"""Results do not depend on environment variables."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.toy_training import job, without_dropout

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# Set by batch systems, launchers and users; each can change the weights or raise an error.
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
    "PYTORCH_TUNABLEOP_ENABLED": "1",
    "NVIDIA_TF32_OVERRIDE": "1",
    "OPENBLAS_CORETYPE": "Prescott",
    "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3",
    "BLIS_ARCH_TYPE": "generic",
    "MKL_DEBUG_CPU_TYPE": "4",
    "MKL_NUM_STRIPES": "4",
    "CUBLASLT_WORKSPACE_SIZE": "0",
    "TORCH_DISABLE_NATIVE_JIT": "1",
    "TRANSFORMERS_SDPA_FORCE_GQA": "1",
    "HDF5_DRIVER": "core",
    "HDF5_VOL_CONNECTOR": "other",
    "HDF5_PLUGIN_PRELOAD": "::",
}
TORCHRUN = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "GROUP_RANK": "0",
    "ROLE_RANK": "0",
    "WORLD_SIZE": "2",
    "LOCAL_WORLD_SIZE": "2",
    "ROLE_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29401",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_RESTART_COUNT": "0",
}
SET_AFTER_START = {
    "gradients": {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"},
    "torchrun": TORCHRUN,
    "rank of a node": {"LOCAL_RANK": "0"},
    "other rank": {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"},
    "address": {"MASTER_ADDR": "node17", "MASTER_PORT": "x"},
    "Intel MPI": {"PMI_SIZE": "2", "PMI_RANK": "1", "MPI_LOCALNRANKS": "2", "MPI_LOCALRANKID": "1"},
    "Open MPI": {f"OMPI_COMM_WORLD_{name}": "2" for name in ("SIZE", "LOCAL_SIZE", "RANK", "LOCAL_RANK")},
    "MVAPICH": {f"MV2_COMM_WORLD_{name}": "2" for name in ("SIZE", "LOCAL_SIZE", "RANK", "LOCAL_RANK")},
    "Slurm": {"SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NTASKS": "2", "WORLD_SIZE": "2"},
}
READ_BY_TORCH_ON_IMPORT = {"TORCH_CUDA_SANITIZER": "1"}
ALL_SETTINGS = {name: value for settings in (HOSTILE, *SET_AFTER_START.values()) for name, value in settings.items()}
TRAIN = """
import sys
from pathlib import Path
from tests.pipeline.test_environment import print_weights
print_weights(Path(sys.argv[1]), int(sys.argv[2]))
"""


def print_weights(folder: Path, processes: int) -> None:
    from pipeline.training.task import train

    trained = train(job(folder, without_dropout, processes=processes))
    content = b"".join(tensor.numpy().tobytes() for tensor in trained.weights.values())
    print(hashlib.sha256(content).hexdigest())


def run(code: str, *arguments: object, environment: dict[str, str] | None = None) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    inherited = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=inherited | (environment or {}), capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("processes", [1, 2])
def test_a_training_gives_the_same_bytes_under_a_hostile_environment(tmp_path: Path, processes: int) -> None:
    expected = run(TRAIN, tmp_path / "plain", processes)
    assert run(TRAIN, tmp_path / "hostile", processes, environment=ALL_SETTINGS) == expected


@pytest.mark.parametrize("settings", SET_AFTER_START.values(), ids=SET_AFTER_START)
def test_variables_set_after_start_do_not_change_a_training(
    settings: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_weights(tmp_path / "plain", 1)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    print_weights(tmp_path / "hostile", 1)
    plain, hostile = capsys.readouterr().out.split()
    assert plain == hostile


WATCH = """
import importlib, os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name in ("numpy", "torch", "scipy"):
            print(name, *sorted(set(sys.argv[2:]) & set(os.environ)))
sys.meta_path.insert(0, Watch())
importlib.import_module(sys.argv[1])
"""


@pytest.mark.parametrize("program", ["cli", "flows", "pipeline.video.decode_worker", "pipeline.training.launch"])
def test_variables_are_removed_before_numerical_libraries_are_imported(program: str) -> None:
    settings = ALL_SETTINGS | READ_BY_TORCH_ON_IMPORT
    lines = run(WATCH, program, *settings, environment=settings).splitlines()
    assert lines and set(lines) <= {"numpy", "torch", "scipy"}
