"""The files in a folder of weights that are read, to identify the weights and to load them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cache.errors import CheckpointError
from cache.files import open_file
from cache.untrusted import is_name
from pipeline.downloads import HEAD_BYTES, gone_wrong, no_text

JSON_LIMIT_BYTES = 16 << 20  # ten times the largest index on the Hugging Face Hub

# In the order of preference of transformers; many downloads have both, with the same content.
_WHOLE_FILES = ("model.safetensors", "pytorch_model.bin")
_INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def checkpoint_files(path: Path) -> list[Path]:
    """Return the files that loading opens: `path` itself, or the config, tokenizer and tensors of a Hugging Face folder.

    Raises:
        CheckpointError: the folder has no weights, or an index that cannot be read.
    """
    if not path.is_dir():
        return [path]
    beside = [file for file in (path / "config.json", path / "tokenizer.json") if file.exists()]
    tensors = tensor_file(path)
    if not is_index(tensors):
        return [*beside, tensors]
    return [*beside, tensors, *(path / name for name in sorted(set(weight_map(tensors).values())))]


def files_of_vlm(path: Path) -> list[Path]:
    """Return the files that loading an image-text-to-text model may open: tensors, configs, tokenizer and templates.

    Raises:
        CheckpointError: `path` is not a folder, or as for `checkpoint_files`.
    """
    if not path.is_dir():
        raise CheckpointError(f"{path}: expected the folder of a model as Hugging Face has it, with its config.json")
    beside = (
        file for pattern in ("*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt") for file in path.glob(pattern)
    )
    configs = sorted(file for file in beside if file.is_file() and file.name not in _INDEX_FILES)
    return list(dict.fromkeys([*checkpoint_files(path), *configs]))


def tensor_file(folder: Path) -> Path:
    """Return the file that loading a Hugging Face folder starts with: the tensors, or an index of shards.

    Raises:
        CheckpointError: there is none.
    """
    for names in zip(_WHOLE_FILES, _INDEX_FILES, strict=True):
        for name in names:
            if (folder / name).exists():
                return folder / name
    raise CheckpointError(f"{folder}: no weight file in it; expected one of {', '.join(_WHOLE_FILES + _INDEX_FILES)}")


def is_index(file: Path) -> bool:
    """Return whether a `tensor_file` is an index of shards."""
    return file.name in _INDEX_FILES


def weight_map(index: Path) -> Mapping[str, str]:
    """Return the file name of each tensor, from an index of shards; raise `CheckpointError` if the index is invalid."""
    file_of: Any = read_model_json(index).get("weight_map")
    if not isinstance(file_of, dict) or not all(isinstance(name, str) for name in file_of.values()):
        raise CheckpointError(f"{index}: not an index of weight shards, it has no weight_map; download it again")
    outside = [name for name in file_of.values() if not is_name(name)]
    if outside:
        raise CheckpointError(f"{index}: names the file {outside[0]!r}, expected one beside it; nothing of it is read")
    return file_of


def refuse_downloads_gone_wrong(files: Iterable[Path]) -> None:
    """Raise `CheckpointError` for a placeholder instead of the downloaded file, such as a Git LFS pointer."""
    for file in files:
        try:
            with open_file(file) as stream:
                problem = gone_wrong(stream.read(HEAD_BYTES))
        except OSError as error:
            raise CheckpointError(f"{file}: cannot be read: {error.strerror or error}") from error
        if problem:
            raise CheckpointError(f"{file}: {problem}")


def read_model_json(path: Path, limit_bytes: int = JSON_LIMIT_BYTES) -> dict[str, Any]:
    """Return the object in a small JSON file beside weights; raise `CheckpointError` if it is not one."""
    try:
        with open_file(path) as stream:
            data = stream.read(limit_bytes + 1)
        if problem := no_text(data[:HEAD_BYTES]):
            raise ValueError(problem)
        if len(data) > limit_bytes:
            raise ValueError(f"it has more than {limit_bytes} bytes")
        content = json.loads(data.decode("utf-8").lstrip("\ufeff"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable as a JSON object: {error}; download it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not readable as a JSON object: it holds a {type(content).__name__}")
    return content
