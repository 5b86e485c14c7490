"""Damaged weights, configs and tokenizers raise one error and need no more memory than their size justifies."""

import json
import pickle
import random
import resource
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cache.digests import DigestCache
from cache.errors import CheckpointError, MissingSourceError, SevilaError
from pipeline.engine.sources import Sources
from pipeline.models.checkpoint import (
    check_blip2,
    load_language,
    load_vision_encoder,
    load_visual_prompt,
    vision_fingerprint,
)
from pipeline.models.config import read_blip2_config
from pipeline.models.tensors import open_checkpoint
from pipeline.models.verbalizer import Verbalizer

N_MUTATIONS = 40
MAX_BYTES = 64 << 20


def load(folder: Path) -> None:
    """Load a BLIP-2 like the stages do."""
    config = read_blip2_config(folder)
    verbalizer = Verbalizer(folder / "tokenizer.json")
    check_blip2(config, folder)
    vision_fingerprint(config, folder)
    load_vision_encoder(config, folder)
    load_language(config, folder, verbalizer)
    load_visual_prompt(config, folder, "blip2")


def as_pickle(folder: Path, in_zip: bool) -> Path:
    source = folder / "model.safetensors"
    torch.save(load_file(source), folder / "pytorch_model.bin", _use_new_zipfile_serialization=in_zip)
    source.unlink()
    return folder / "pytorch_model.bin"


TARGETS: dict[str, Callable[[Path], Path]] = {
    "config.json": lambda folder: folder / "config.json",
    "safetensors": lambda folder: folder / "model.safetensors",
    "zip": lambda folder: as_pickle(folder, True),
    "oldest pickle": lambda folder: as_pickle(folder, False),
}


@pytest.mark.parametrize("kind", TARGETS)
def test_a_changed_byte_gives_other_numbers_or_one_error(kind: str, tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "tiny")
    target = TARGETS[kind](folder)
    load(folder)
    intact, draw = target.read_bytes(), random.Random(kind)
    ends = [min(16_000, len(intact)), len(intact)]  # half of the changes where sizes and names are
    n_errors = 0
    for number in range(N_MUTATIONS):
        place = draw.randrange(ends[number % 2])
        changed = bytearray(intact)
        match number % 4:
            case 0 | 1:
                changed[place] ^= 1 << draw.randrange(8)
            case 2:
                changed[place] = draw.randrange(256)
            case _:
                del changed[place:]
        target.write_bytes(changed)
        try:
            load(folder)
        except SevilaError as error:
            assert "\n" not in str(error), error
            n_errors += 1
    assert n_errors >= N_MUTATIONS // 4


class Calls:
    """Its pickle calls a function that torch allows in a state dict."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.function, self.arguments


def huge_bytearray(path: Path) -> None:
    replace_pickle(path, pickle.dumps({"a": Calls(bytearray, 4 << 30)}, protocol=2))


def huge_bytearray_in_the_oldest_format(path: Path) -> None:
    path.write_bytes(pickle.dumps({"a": Calls(bytearray, 4 << 30)}, protocol=2))


def one_number_repeated(path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(1 << 20, 1 << 12)}, path)


def one_tensor_under_many_names(path: Path) -> None:
    tensor = torch.zeros(1 << 20)
    torch.save({f"a{number}": tensor for number in range(1_000)}, path)


def compressed(path: Path) -> None:
    torch.save({"a": torch.zeros(1 << 24)}, path)
    rewrite_zip(path, zipfile.ZIP_DEFLATED, {})


def replace_pickle(path: Path, data: bytes) -> None:
    torch.save({"a": torch.zeros(1)}, path)
    rewrite_zip(path, zipfile.ZIP_STORED, {"data.pkl": data})


def rewrite_zip(path: Path, compression: int, replaced: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path) as source:
        content = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w", compression) as target:
        for name, data in content.items():
            target.writestr(name, replaced.get(Path(name).name, data))


@pytest.mark.parametrize(
    "write",
    [huge_bytearray, huge_bytearray_in_the_oldest_format, one_number_repeated, one_tensor_under_many_names, compressed],
    ids=lambda write: write.__name__,
)
def test_a_hostile_checkpoint_needs_little_memory(write: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "official.pth"
    write(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=r"official\.pth: "):
        open_checkpoint(path)
    assert 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < MAX_BYTES


@pytest.mark.parametrize("dtype", ["I32", "U8", "BOOL", "C64"])
def test_weights_of_another_type_than_floating_point_are_refused(dtype: str, tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "tiny")
    path = folder / "model.safetensors"
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    entry = header["vision_model.embeddings.class_embedding"]
    n_bytes = {"I32": 4, "U8": 1, "BOOL": 1, "C64": 8}[dtype]
    entry["dtype"], entry["shape"] = dtype, [1, 1, 4 * entry["shape"][-1] // n_bytes]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    with pytest.raises(CheckpointError, match=r"class_embedding has dtype .*; expected a floating point type"):
        load(folder)


def test_a_tensor_in_two_shards_is_refused(
    tmp_path: Path,
) -> None:
    save_file({"a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "one.safetensors")
    save_file({"b": torch.ones(1)}, tmp_path / "two.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"b is in two\.safetensors as listed and also in one\.safetensors"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "", "x" * 400, "-x", "a/b"])
def test_an_index_with_an_invalid_file_name_is_one_error(name: str, tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "tiny")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    weights = Sources(DigestCache(tmp_path / "digests.json"), {"weights": [f"tiny-blip2={folder}"]}).weights(
        "tiny-blip2"
    )
    assert "expected one beside it; nothing of it is read" in weights.problem


def test_an_impossible_file_name_is_a_missing_source(tmp_path: Path) -> None:
    with pytest.raises(MissingSourceError, match="cannot be read"):
        DigestCache(tmp_path / "digests.json").identify(tmp_path / "a\0b")
