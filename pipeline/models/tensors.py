"""Reading tensors from checkpoint files one at a time, so that 15 GB of weights are never in memory twice.

Pickles are opened with `weights_only`: a checkpoint cannot run code.
"""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cache.errors import CheckpointError
from pipeline.checkpoint_files import is_index, tensor_file, weight_map

TensorReaders = Mapping[str, Callable[[], Tensor]]
"""Tensor name -> a function that reads it."""

LEGACY_PICKLES = 5
# Names in the pickles of a state dict. torch allows more, of which some allocate any amount of memory, such as a bytearray.
CALLED = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor|tensor_v2|parameter)|(builtins|__builtin__) set"
    r"|torch (\w+Storage|Size|device|(b?float|u?int|complex)\w*|bool)"
)
MAX_NAMES_OF_A_TENSOR = 4  # T5's embeddings have four in some files: shared, encoder, decoder, lm_head


def open_checkpoint(path: Path) -> TensorReaders:
    """Return the tensors of one file, or of a Hugging Face directory (one file or shards).

    Raises:
        CheckpointError: the file or a shard is missing, truncated or malformed.
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
        raise CheckpointError(f"{index}: {absent[0]} is not in {file_of[absent[0]]} as listed; download both again")
    # Weights are identified by the contents of shards, not their names: with a duplicate, swapped names would be unnoticed.
    duplicates = [(name, shard) for shard in shards for name in shards[shard] if file_of.get(name, shard) != shard]
    if duplicates:
        name, shard = duplicates[0]
        raise CheckpointError(
            f"{index}: {name} is in {file_of[name]} as listed and also in {shard}; expected it once: download all again"
        )
    return {name: shards[shard][name] for name, shard in file_of.items()}


def _open_file(path: Path) -> TensorReaders:
    if not path.is_file():
        raise CheckpointError(f"{path}: not found; the download may be incomplete")
    return _open_safetensors(path) if path.suffix == ".safetensors" else _open_pickle(path)


def _open_safetensors(path: Path) -> TensorReaders:
    try:
        file = safe_open(path, framework="pt")
    except (SafetensorError, OSError, OverflowError, MemoryError) as error:
        raise CheckpointError(
            f"{path}: not a complete safetensors file ({path.stat().st_size} bytes): {error}; download it again"
        ) from error
    return {name: partial(file.get_tensor, name) for name in file.keys()}  # noqa: SIM118 (not a dict)


def _open_pickle(path: Path) -> TensorReaders:
    try:
        is_zip = zipfile.is_zipfile(path)
        _check_pickles(path, is_zip)
        # Mapped, tensors stay on disk until they are read; files of the oldest format cannot be mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:  # pickle, zip and torch raise many types for malformed bytes
        message = str(error).strip().split("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"{path}: cannot be read as tensors only ({path.stat().st_size} bytes): {message}; "
            "download it again, or convert it to .safetensors in an isolated environment"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]  # official layout: {"model": tensors, "config": ..., "epoch": ...}
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise CheckpointError(
            f'{path}: found a {type(content).__name__}; expected {{name: tensor}}, or that under "model"'
        )
    _check_sizes(path, content)
    return {str(name): tensor.detach for name, tensor in content.items()}


def _check_pickles(path: Path, is_zip: bool) -> None:
    """Raise `ValueError` if the pickles of a file name anything but the constructors of tensors."""
    with ExitStack() as stack:
        if is_zip:
            archive = stack.enter_context(zipfile.ZipFile(path))
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("its entries are compressed, which torch's never are")
            names = [name for name in archive.namelist() if name.endswith("data.pkl")]
            files = [io.BytesIO(archive.read(name)) for name in names]
        else:  # the oldest format: five pickles in sequence, then the tensors' bytes
            files = [stack.enter_context(path.open("rb"))] * LEGACY_PICKLES  # type: ignore[list-item]
        for file in files:
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "GLOBAL" and not CALLED.fullmatch(str(argument)):
                    raise ValueError(f"it names {argument!r}, which no tensor needs")


def _check_sizes(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise `CheckpointError` for tensors larger than the file, such as one number with stride 0."""
    size_bytes = path.stat().st_size
    total = 0
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            raise CheckpointError(f"{path}: {name} is no plain tensor; download it again")
        tensor_bytes = tensor.numel() * tensor.element_size()
        total += tensor_bytes
        if tensor_bytes > min(tensor.untyped_storage().nbytes(), size_bytes):
            raise CheckpointError(
                f"{path}: {name} claims {tensor_bytes} bytes, more than the file has of it; download it again"
            )
    if total > MAX_NAMES_OF_A_TENSOR * size_bytes:
        raise CheckpointError(f"{path}: its tensors claim {total} bytes, the file has {size_bytes}; download it again")
