"""Reading tensors from checkpoint files one at a time: 15 GB of weights never lie in memory twice.

Pickles are opened with `weights_only`: a checkpoint is data, never code.
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
# What the pickles of a state dict name. torch allows more, some of which takes any amount of memory: a bytearray of a length.
CALLED = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor|tensor_v2|parameter)|(builtins|__builtin__) set"
    r"|torch (\w+Storage|Size|device|(b?float|u?int|complex)\w*|bool)"
)
MOST_NAMES_OF_A_TENSOR = 4  # T5's embeddings have four in some files: shared, encoder, decoder, lm_head


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
    # Weights are identified by the shards' contents, not by their names: were both to hold it, a change of names would be unseen.
    twice = [(name, shard) for shard in shards for name in shards[shard] if file_of.get(name, shard) != shard]
    if twice:
        name, shard = twice[0]
        raise CheckpointError(
            f"{index}: promises {name} in {file_of[name]}, and {shard} holds one as well; wanted it once: download all again"
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
        message = str(error).strip().split("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"{path}: not readable as tensors alone ({path.stat().st_size} bytes): {message}; "
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
