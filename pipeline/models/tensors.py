"""Reading tensors from checkpoint files one at a time: 15 GB of weights never lie in memory twice.

Pickles are opened with `weights_only`: a checkpoint is data, never code.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cache.errors import CheckpointError
from pipeline.checkpoint_files import is_index, tensor_file, weight_map

TensorReaders = Mapping[str, Callable[[], Tensor]]
"""Tensor name -> a function that reads it."""


def open_checkpoint(path: Path) -> TensorReaders:
    """Return the tensors of one file, or of a Hugging Face directory (whole or in shards).

    Raises:
        CheckpointError: nothing of the kind is there, a shard is missing, or a file is cut short or not what it seems.
    """
    if not path.is_dir():
        return _open_file(path)
    file = tensor_file(path)
    return _open_shards(file) if is_index(file) else _open_file(file)


def _open_shards(index: Path) -> TensorReaders:
    file_of = weight_map(index)
    shards = {name: _open_file(index.parent / name) for name in sorted(set(file_of.values()))}
    absent = [name for name, shard in file_of.items() if name not in shards[shard]]
    if absent:
        raise CheckpointError(
            f"{index}: promises {absent[0]} in {file_of[absent[0]]}, where it is not; download both again"
        )
    return {name: shards[shard][name] for name, shard in file_of.items()}


def _open_file(path: Path) -> TensorReaders:
    if not path.is_file():
        raise CheckpointError(f"{path}: not found; the download may be incomplete")
    return _open_safetensors(path) if path.suffix == ".safetensors" else _open_pickle(path)


def _open_safetensors(path: Path) -> TensorReaders:
    try:
        file = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: not a whole safetensors file ({path.stat().st_size} bytes): {error}; download it again"
        ) from error
    return {name: partial(file.get_tensor, name) for name in file.keys()}  # noqa: SIM118 (not a dict)


def _open_pickle(path: Path) -> TensorReaders:
    try:
        # Mapping leaves tensors on disk until they are read; files of the oldest format cannot be mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError, IndexError) as error:
        raise CheckpointError(
            f"{path}: not readable as tensors alone ({path.stat().st_size} bytes): {str(error).splitlines()[:1]}; "
            "download it again, or convert it to .safetensors in an environment that you trust it with"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]  # official layout: {"model": tensors, "config": ..., "epoch": ...}
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise CheckpointError(
            f'{path}: wanted {{name: tensor}}, or that under "model"; found a {type(content).__name__}'
        )
    return {name: partial(_given, tensor) for name, tensor in content.items()}


def _given(tensor: Tensor) -> Tensor:
    return tensor
