"""Export of weights to files for other programs: official names, or a complete BLIP-2 in the Hugging Face layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor

from cache.errors import CheckpointError
from cache.files import published, write_atomically
from pipeline.checkpoint_files import read_model_json
from pipeline.models import keys
from pipeline.models.checkpoint import OFFICIAL_PROMPTS
from pipeline.models.config import read_blip2_config
from pipeline.models.tensors import TensorReaders, open_checkpoint

Part = Literal["localizer", "answerer"]

SUFFIXES: dict[Part, str] = {"localizer": "_loc", "answerer": ""}
FILE_SUFFIXES = (".safetensors", ".pth")
SHARD_BYTES = 4 << 30
# Other files of a Hugging Face folder.
COPIED_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "processor.json",
)


def write_official(parts: Mapping[Part, Mapping[str, Tensor]], path: Path) -> None:
    """Write Localizer, Answerer or both, given by our names, under official names: .safetensors, or .pth as published."""
    tensors: dict[str, Tensor] = {}
    for part, state in parts.items():
        named = {keys.official_name(own, SUFFIXES[part]): tensor.contiguous() for own, tensor in state.items()}
        sources, unknown = OFFICIAL_PROMPTS[part].resolve(named)
        assert not unknown and sources.keys() == state.keys(), "an official name does not map back to ours"
        tensors |= named
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".pth":
        with published(path) as file:
            torch.save({"model": tensors}, file)
    else:
        write_atomically(path, save(tensors))


def write_blip2(source: Path, state: Mapping[str, Tensor], folder: Path) -> None:
    """Write a copy of the BLIP-2 in the folder `source` with this Q-Former, LayerNorm and projection.

    All other tensors keep their bits. `config.json` is written last, as the folder is no valid model without it.

    Raises:
        CheckpointError: the folder is not empty, or `source` is no BLIP-2 of this size.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder}: exists already; expected a new or an empty folder")
    readers = open_checkpoint(source)
    own_tensors = {keys.hugging_face_name(own): tensor.contiguous() for own, tensor in state.items()}
    replaced = [name for name in readers if name in own_tensors]
    if len(replaced) != len(own_tensors):
        missing = sorted(own_tensors.keys() - set(replaced))
        raise CheckpointError(
            f"{source}: lacks {missing[0]} and {len(missing) - 1} other tensors; expected a BLIP-2 of this size"
        )
    folder.mkdir(parents=True, exist_ok=True)
    names: list[list[str]] = []
    for number, shard in enumerate(_shards(readers, own_tensors), start=1):
        write_atomically(folder / f"shard-{number}.safetensors", save(shard, metadata={"format": "pt"}))
        names.append(list(shard))
    _write_index(folder, names)
    for name in COPIED_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    config: dict[str, Any] = read_model_json(source / "config.json")
    # The settings with which these weights were trained.
    config["text_config"] = {**config.get("text_config", {}), **read_blip2_config(source).kind.exported}
    write_atomically(folder / "config.json", json.dumps(config, indent=2, sort_keys=True).encode() + b"\n")


def _shards(readers: TensorReaders, own_tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield all tensors in shards of at most `SHARD_BYTES`, cloned, as safetensors refuses tensors that share memory."""
    shard: dict[str, Tensor] = {}
    for name in sorted(readers):
        tensor = own_tensors[name] if name in own_tensors else readers[name]().clone().contiguous()
        if shard and sum(other.nbytes for other in shard.values()) + tensor.nbytes > SHARD_BYTES:
            yield shard
            shard = {}
        shard[name] = tensor
    yield shard


def _write_index(folder: Path, names: list[list[str]]) -> None:
    """Rename the shards as transformers expects, and write their index."""
    if len(names) == 1:
        (folder / "shard-1.safetensors").rename(folder / "model.safetensors")
        return
    files: dict[str, str] = {}
    size_bytes = 0
    for number, shard_names in enumerate(names, start=1):
        file = f"model-{number:05d}-of-{len(names):05d}.safetensors"
        (folder / f"shard-{number}.safetensors").rename(folder / file)
        size_bytes += (folder / file).stat().st_size
        files |= dict.fromkeys(shard_names, file)
    index = {"metadata": {"total_size": size_bytes}, "weight_map": files}
    write_atomically(folder / "model.safetensors.index.json", json.dumps(index, indent=1).encode())
