"""Protection against inherited process state that would change results: variables that libraries read, closed streams."""

from __future__ import annotations

import logging
import os
import sys

log = logging.getLogger("sevila")

# Prefixes of variables that would change or prevent a computation: its arithmetic, a share of a gradient, the kind of training.
# Variables of placement and speed (CUDA_VISIBLE_DEVICES, OMP_NUM_THREADS, NCCL_*) are left to the user.
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
    "HDF5_DRIVER",  # other drivers cannot read the files
    "HDF5_PLUGIN_PRELOAD",
    "HDF5_VOL_CONNECTOR",
    "MKL_VERBOSE",  # mixes with the output of commands
    # Ranks and peers, set by launchers. `launch.py` sets its own for the processes of a training, after these are removed.
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
    f"{scope}{name}" for scope in ("", "LOCAL_", "GROUP_", "NODE_", "ROLE_") for name in ("RANK", "WORLD_SIZE")
}
IGNORED_NAMES |= {"MASTER_ADDR", "MASTER_PORT"}


# OpenMP threads spin for about 0.1 ms before they sleep. The default is about 30 times as long, which wastes cores if other
# programs run on the machine: a thread spins while the one it waits for has no core.
SPIN_COUNT = "10000"
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def bound_waiting() -> None:
    """Limit the busy waiting of OpenMP threads, unless the user has set it; results do not depend on it."""
    if not any(name in os.environ for name in WAITING):
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT


def clear_settings() -> None:
    """Remove variables that would change results from the environment, and log a warning with their names."""
    os.environ.pop("RUST_BACKTRACE", None)  # would print pages before our one-line error for a damaged tokenizer
    names = sorted(name for name in os.environ if name.startswith(IGNORED) or name in IGNORED_NAMES)
    for name in names:
        del os.environ[name]
    if names:
        log.warning("%s: not used, because results must not depend on the environment", ", ".join(names))


def open_standard_streams() -> None:
    """Open closed standard streams as /dev/null.

    Otherwise the next file opened gets the number of a closed stream: libraries would write to it as standard error, and the
    error messages of decord could not be captured.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            descriptor = os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115 - stays open
