"""Inherited state of a process that would change results under the same ids: settings that libraries read, closed streams."""

from __future__ import annotations

import logging
import os
import sys

log = logging.getLogger("sevila")

# Each would change what is computed, or whether: by another arithmetic, another share of a gradient, another kind of training.
# Where and how fast something runs (CUDA_VISIBLE_DEVICES, OMP_NUM_THREADS, NCCL_*) stays the user's.
IGNORED = (
    "ACCELERATE_",
    "DEEPSPEED_",
    "FP8_",
    "FSDP_",
    "MEGATRON_LM_",
    "PARALLELISM_CONFIG_",
    "CUBLAS_EMULAT",  # CUBLAS_EMULATE_SINGLE_PRECISION, CUBLAS_EMULATION_STRATEGY
    "CUBLASLT_",
    "NVIDIA_TF32_OVERRIDE",
    "PYTORCH_TUNABLEOP_",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_BLAS_PREFER_",
    "TORCH_CUDA_SANITIZER",
    "TORCH_CUDNN_",
    "TORCH_DISABLE_NATIVE_JIT",
    "TORCH_LINALG_PREFER_",
    "TORCH_LINEAR_FLATTEN_3D",
    "TORCH_MKLDNN_",
    "TORCH_NATIVE_",
    "TORCH_ROCM_FA_PREFER_CK",
    "ATEN_CPU_CAPABILITY",
    "BLIS_ARCH_",
    "DNNL_",
    "FLEXIBLAS",
    "LIBXSMM_TARGET",
    "MKL_CBWR",
    "MKL_DEBUG_CPU_TYPE",
    "MKL_DISABLE_FAST_MM",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_NUM_STRIPES",
    "NPY_DISABLE_CPU_FEATURES",
    "NPY_ENABLE_CPU_FEATURES",
    "ONEDNN_",
    "OPENBLAS_CORETYPE",
    "XLA_DOWNCAST_BF16",
    "XLA_USE_BF16",
    "TRANSFORMERS_SDPA_",
    "DECORD_",
    "HDF5_DRIVER",  # and with another one no file can be read
    "HDF5_PLUGIN_PRELOAD",
    "HDF5_VOL_CONNECTOR",
    "MKL_VERBOSE",  # it prints into what commands print
    # Of launchers: who the peers of a process are. `launch.py` sets them for the processes of a training, after this was cleared.
    "FORK_LAUNCHED",
    "HYDRA_",
    "MPI_LOCAL",
    "MV2_COMM_WORLD_",
    "OMPI_COMM_WORLD_",
    "PMI_",
    "PMIX_",
    "SLURM_LOCALID",
    "SLURM_NTASKS",
    "SLURM_PROCID",
    "TORCHELASTIC_",
)
IGNORED_NAMES = {
    f"{whose}{what}" for whose in ("", "LOCAL_", "GROUP_", "NODE_", "ROLE_") for what in ("RANK", "WORLD_SIZE")
}
IGNORED_NAMES |= {"MASTER_ADDR", "MASTER_PORT"}


# How threads of OpenMP wait: for some tenth of a millisecond busily, then asleep. Its own limit is some 30 times as much, during
# which a thread that waits for one that another program keeps from its core does nothing but keep others from theirs.
SPIN_COUNT = "10000"
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def bound_waiting() -> None:
    """Have threads that wait for each other fall asleep soon, unless the user says how they wait; no result depends on it."""
    if not any(name in os.environ for name in WAITING):
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT


def clear_settings() -> None:
    """Remove from the environment what libraries would read there and what would change results; what it was is logged."""
    os.environ.pop("RUST_BACKTRACE", None)  # pages of it would stand before our one line on a damaged tokenizer
    names = sorted(name for name in os.environ if name.startswith(IGNORED) or name in IGNORED_NAMES)
    for name in names:
        del os.environ[name]
    if names:
        log.warning("%s: not used, because results must not depend on the environment", ", ".join(names))


def open_standard_streams() -> None:
    """Let what was started without standard input, output or error have /dev/null there.

    The next file that a process opens would take the place of a closed one: its bytes and what a library writes to standard
    error would meet in one file, and decord's own reports could not be read.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115 - for good
