"""Reading tensors from checkpoint files one at a time: 15 GB of weights never lie in memory twice.

Pickles are opened with `weights_only`: a checkpoint is data, never code.
"""

from __future__ import annotations

import io
import json
import pickletools
import re
import zipfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cache.errors import CheckpointError

TensorReaders = Mapping[str, Callable[[], Tensor]]
"""Tensor name -> a function that reads it."""

JSON_LIMIT_BYTES = 16 << 20  # the largest index on hubs has a tenth of it

LEGACY_PICKLES = 5
# What the pickles of a state dict name. torch allows more, some of which takes any amount of memory: a bytearray of a length.
CALLED = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor|tensor_v2|parameter)|(builtins|__builtin__) set"
    r"|torch (\w+Storage|Size|device|(b?float|u?int|complex)\w*|bool)"
)
MOST_NAMES_OF_A_TENSOR = 4  # T5's embeddings have four in some files: shared, encoder, decoder, lm_head

# In the order of preference: both are there in many downloads, with the same content.
_WHOLE_FILES = ("model.safetensors", "pytorch_model.bin")
_INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def open_checkpoint(path: Path) -> TensorReaders:
    """Return the tensors of one file, or of a Hugging Face directory (whole or in shards).

    Raises:
        CheckpointError: nothing of the kind is there, a shard is missing, or a file is cut short or not what it seems.
    """
    if not path.is_dir():
        return _open_file(path)
    for whole, index in zip(_WHOLE_FILES, _INDEX_FILES, strict=True):
        if (path / whole).exists():
            return _open_file(path / whole)
        if (path / index).exists():
            return _open_shards(path / index)
    raise CheckpointError(f"{path}: no weights in it; wanted one of {', '.join(_WHOLE_FILES + _INDEX_FILES)}")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a small JSON file beside weights holds; raises `CheckpointError` for anything else."""
    try:
        size_bytes = path.stat().st_size
        if size_bytes > JSON_LIMIT_BYTES:
            raise ValueError(f"it has {size_bytes} bytes, more than any has")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable as a JSON object: {error}; download it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not readable as a JSON object: it holds a {type(content).__name__}")
    return content


def _open_shards(index: Path) -> TensorReaders:
    file_of: Any = read_json(index).get("weight_map")
    if not isinstance(file_of, dict) or not all(isinstance(name, str) for name in file_of.values()):
        raise CheckpointError(f"{index}: not an index of weight shards, it has no weight_map; download it again")
    outside = [name for name in file_of.values() if "/" in name or name.startswith(".")]
    if outside:
        raise CheckpointError(f"{index}: names the file {outside[0]!r}, wanted one beside it; nothing of it is read")
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
    except (SafetensorError, OSError, OverflowError, MemoryError) as error:
        raise CheckpointError(
            f"{path}: not a whole safetensors file ({path.stat().st_size} bytes): {error}; download it again"
        ) from error
    return {name: partial(file.get_tensor, name) for name in file.keys()}  # noqa: SIM118 (not a dict)


def _open_pickle(path: Path) -> TensorReaders:
    try:
        is_zip = zipfile.is_zipfile(path)
        _check_pickles(path, is_zip)
        # Mapping leaves tensors on disk until they are read; files of the oldest format cannot be mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:  # of any kind: pickle, zip and torch each raise their own about bytes that make no sense
        told = str(error).strip().split("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"{path}: not readable as tensors alone ({path.stat().st_size} bytes): {told}; "
            "download it again, or convert it to .safetensors in an environment that you trust it with"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]  # official layout: {"model": tensors, "config": ..., "epoch": ...}
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise CheckpointError(
            f'{path}: wanted {{name: tensor}}, or that under "model"; found a {type(content).__name__}'
        )
    _check_sizes(path, content)
    return {str(name): partial(_given, tensor) for name, tensor in content.items()}


def _check_pickles(path: Path, is_zip: bool) -> None:
    """Raise `ValueError` unless all that the pickles of a file would call makes tensors out of the file's own bytes."""
    with ExitStack() as stack:
        if is_zip:
            whole = stack.enter_context(zipfile.ZipFile(path))
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in whole.infolist()):
                raise ValueError("its entries are compressed, which torch's never are")
            names = [name for name in whole.namelist() if name.endswith("data.pkl")]
            files = [io.BytesIO(whole.read(name)) for name in names]
        else:  # the oldest format: five pickles one after the other, then the tensors' bytes
            files = [stack.enter_context(path.open("rb"))] * LEGACY_PICKLES  # type: ignore[list-item]
        for file in files:
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "GLOBAL" and not CALLED.fullmatch(str(argument)):
                    raise ValueError(f"it names {argument!r}, which no tensor needs")


def _check_sizes(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that claim more numbers than the file holds, as one number that is repeated without end."""
    size_bytes = path.stat().st_size
    total = 0
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            raise CheckpointError(f"{path}: {name} is no plain tensor; download it again")
        own = tensor.numel() * tensor.element_size()
        total += own
        if own > min(tensor.untyped_storage().nbytes(), size_bytes):
            raise CheckpointError(f"{path}: {name} claims {own} bytes, more than the file has of it; download it again")
    if total > MOST_NAMES_OF_A_TENSOR * size_bytes:
        raise CheckpointError(f"{path}: its tensors claim {total} bytes, the file has {size_bytes}; download it again")


def _given(tensor: Tensor) -> Tensor:
    return tensor
