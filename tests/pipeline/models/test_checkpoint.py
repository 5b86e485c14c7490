from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cache.errors import CheckpointError
from pipeline.models.checkpoint import (
    load_language,
    load_saved_visual_prompt,
    load_vision_encoder,
    load_visual_prompt,
    save_tensors,
)
from pipeline.models.config import ModelConfig, read_blip2_config
from pipeline.models.language import Language
from pipeline.models.verbalizer import Verbalizer
from tests.reference import Reference

Tensors = dict[str, Tensor]


def tensors_of(module: torch.nn.Module) -> Tensors:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def assert_equal_tensors(tensors: Tensors, expected: Tensors) -> None:
    assert tensors.keys() == expected.keys()
    for name in expected:
        assert torch.equal(tensors[name], expected[name]), name


def tensors_of_parts(config: ModelConfig, path: Path, verbalizer: Verbalizer) -> list[Tensors]:
    """Return the tensors of the three parts of a BLIP-2 checkpoint."""
    return [
        tensors_of(load_vision_encoder(config, path)),
        tensors_of(load_visual_prompt(config, path, "blip2")),
        tensors_of(load_language(config, path, verbalizer).model),
    ]


def changed(source: Path, folder: Path, change: Callable[[Tensors], None]) -> Path:
    """Copy a BLIP-2 directory with its tensors changed."""
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(source / name, folder / name)
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


def in_shards(tensors: Tensors, folder: Path, pattern: str, save: Callable[[Tensors, Path], Any]) -> None:
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate((names[::2], names[1::2]), start=1):
        save({name: tensors[name] for name in shard}, folder / pattern.format(number))
        weight_map |= {name: pattern.format(number) for name in shard}
    index = pattern.replace("-{:05d}-of-00002", "") + ".index.json"
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


DIRECTORY_LAYOUTS: dict[str, Callable[[Tensors, Path], Any]] = {
    "safetensors": lambda tensors, folder: save_file(tensors, folder / "model.safetensors"),
    "pickle": lambda tensors, folder: torch.save(tensors, folder / "pytorch_model.bin"),
    "old pickle": lambda tensors, folder: torch.save(
        tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False
    ),
    "safetensors in shards": lambda tensors, folder: in_shards(
        tensors, folder, "model-{:05d}-of-00002.safetensors", save_file
    ),
    "pickles in shards": lambda tensors, folder: in_shards(
        tensors, folder, "pytorch_model-{:05d}-of-00002.bin", torch.save
    ),
}


@pytest.mark.parametrize("layout", DIRECTORY_LAYOUTS)
def test_every_hugging_face_layout_gives_the_same_tensors(
    layout: str, tiny: Path, language: Language, tmp_path: Path
) -> None:
    shutil.copy(tiny / "config.json", tmp_path)
    DIRECTORY_LAYOUTS[layout](load_file(tiny / "model.safetensors"), tmp_path)
    config = read_blip2_config(tmp_path)
    expected = tensors_of_parts(read_blip2_config(tiny), tiny, language.verbalizer)
    for tensors, part in zip(tensors_of_parts(config, tmp_path, language.verbalizer), expected, strict=True):
        assert_equal_tensors(tensors, part)


@pytest.mark.parametrize("wrap", [lambda tensors: {"model": tensors, "epoch": 3, "config": {"run": {}}}, dict])
def test_official_pth_and_safetensors_give_the_same_tensors(
    wrap: Callable[[Tensors], dict[str, Any]], reference: Reference, tmp_path: Path
) -> None:
    path = tmp_path / "sevila.pth"
    torch.save(wrap(load_file(reference.weights)), path)
    config = reference.config
    for part in ("localizer", "answerer"):
        loaded, expected = (load_visual_prompt(config, source, part) for source in (path, reference.weights))
        assert_equal_tensors(tensors_of(loaded), tensors_of(expected))


def test_official_localizer_and_answerer_have_different_weights(reference: Reference) -> None:
    localizer, answerer = tensors_of(reference.localizer.prompt), tensors_of(reference.answerer.prompt)
    assert localizer.keys() == answerer.keys()
    assert not any(torch.equal(localizer[name], answerer[name]) for name in localizer)


def test_official_weights_written_as_hugging_face_load_unchanged(reference: Reference, tmp_path: Path) -> None:
    prompt = tensors_of(reference.answerer.prompt)
    vision = tensors_of(load_vision_encoder(reference.config, reference.weights))
    written = {"query_tokens": prompt.pop("query_tokens")}
    written |= {f"vision_model.{name}": tensor for name, tensor in vision.items()}
    foreign = {"layer_norm": "vision_model.post_layernorm", "projection": "language_projection", "qformer": "qformer"}
    for name, tensor in prompt.items():
        first, rest = name.split(".", 1)
        written[f"{foreign[first]}.{rest}"] = tensor
    language = tensors_of(reference.answerer.language.model)
    written |= {f"language_model.{name}": tensor.clone() for name, tensor in language.items()}
    save_file(written, tmp_path / "model.safetensors")
    parts = tensors_of_parts(reference.config, tmp_path, reference.verbalizer)
    assert_equal_tensors(parts[0], vision)
    assert_equal_tensors(parts[1], prompt | {"query_tokens": written["query_tokens"]})
    assert_equal_tensors(parts[2], language)


def test_a_saved_visual_prompt_loads_unchanged_with_deterministic_bytes(reference: Reference, tmp_path: Path) -> None:
    prompt = reference.localizer.prompt
    for name in ("a", "b"):
        save_tensors(prompt.state_dict(), tmp_path / f"{name}.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    loaded = load_saved_visual_prompt(reference.config, tmp_path / "a.safetensors")
    assert_equal_tensors(tensors_of(loaded), tensors_of(prompt))
    assert all(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("present", [("encoder",), ("encoder", "decoder")])
def test_copies_of_the_embeddings_are_accepted(
    present: tuple[str, ...], tiny: Path, language: Language, tmp_path: Path
) -> None:
    def add(tensors: Tensors) -> None:
        for side in present:
            copy = tensors["language_model.shared.weight"].clone()
            tensors[f"language_model.{side}.embed_tokens.weight"] = copy

    folder = changed(tiny, tmp_path, add)
    loaded = load_language(read_blip2_config(folder), folder, language.verbalizer)
    assert_equal_tensors(tensors_of(loaded.model), tensors_of(language.model))


def test_embeddings_stored_only_under_the_encoder_are_accepted(tiny: Path, language: Language, tmp_path: Path) -> None:
    def rename(tensors: Tensors) -> None:
        tensors["language_model.encoder.embed_tokens.weight"] = tensors.pop("language_model.shared.weight")

    folder = changed(tiny, tmp_path, rename)
    loaded = load_language(read_blip2_config(folder), folder, language.verbalizer)
    assert_equal_tensors(tensors_of(loaded.model), tensors_of(language.model))


def test_a_copy_that_differs_from_the_embeddings_is_refused(tiny: Path, language: Language, tmp_path: Path) -> None:
    def add(tensors: Tensors) -> None:
        tensors["language_model.decoder.embed_tokens.weight"] = tensors["language_model.shared.weight"] + 1

    folder = changed(tiny, tmp_path, add)
    with pytest.raises(CheckpointError, match=r"decoder\.embed_tokens\.weight differs from .*shared\.weight"):
        load_language(read_blip2_config(folder), folder, language.verbalizer)


def test_a_checkpoint_without_lm_head_is_refused(tiny: Path, language: Language, tmp_path: Path) -> None:
    folder = changed(tiny, tmp_path, lambda tensors: tensors.pop("language_model.lm_head.weight"))
    with pytest.raises(CheckpointError, match=r"1 missing, by our names \(lm_head\.weight\), 0 unexpected"):
        load_language(read_blip2_config(folder), folder, language.verbalizer)


def test_missing_and_unexpected_tensors_are_both_listed(tiny: Path, tmp_path: Path) -> None:
    def rename(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.startswith("qformer.encoder.layer.0.")]:
            tensors[name.replace("layer.0", "layer.7")] = tensors.pop(name)

    folder = changed(tiny, tmp_path, rename)
    with pytest.raises(CheckpointError) as error:
        load_visual_prompt(read_blip2_config(folder), folder, "blip2")
    message = str(error.value)
    assert "26 missing, by our names (qformer.encoder.layer.0.attention" in message
    assert "26 unexpected (qformer.encoder.layer.7.attention" in message
    assert message.count("layer.0.") == message.count("layer.7.") == 26


def test_an_unknown_official_tensor_is_refused(reference: Reference, tmp_path: Path) -> None:
    tensors = load_file(reference.weights)
    tensors["Qformer_loc.bert.embeddings.word_embeddings.weight"] = torch.zeros(4, 4)
    save_file(tensors, tmp_path / "more.safetensors")
    load_visual_prompt(reference.config, tmp_path / "more.safetensors", "answerer")  # not part of the answerer
    with pytest.raises(CheckpointError, match=r"1 unexpected \(Qformer_loc\.bert\.embeddings\.word_embeddings"):
        load_visual_prompt(reference.config, tmp_path / "more.safetensors", "localizer")


def test_a_tensor_of_another_shape_is_named_with_both_shapes(tiny: Path, tmp_path: Path) -> None:
    folder = changed(tiny, tmp_path, lambda tensors: tensors.update(query_tokens=torch.zeros(1, 7, 32)))
    with pytest.raises(CheckpointError, match=r"query_tokens is \[1, 7, 32\], expected \[1, 4, 32\]"):
        load_visual_prompt(read_blip2_config(folder), folder, "blip2")


def test_a_hugging_face_directory_has_no_localizer(tiny: Path) -> None:
    with pytest.raises(CheckpointError, match="no SeViLA localizer"):
        load_visual_prompt(read_blip2_config(tiny), tiny, "localizer")


class NotATensor:
    """An object that a pickle can contain besides tensors."""


BROKEN_FILES: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "cut short": (
        "a.safetensors",
        lambda path: path.write_bytes(b"\x10\0\0\0\0\0\0\0{}"),
        "not a complete safetensors",
    ),
    "a pointer": (
        "a.safetensors",
        lambda path: path.write_text("version https://git-lfs"),
        "not a complete safetensors",
    ),
    "empty": ("a.pth", lambda path: path.touch(), r"cannot be read as tensors only \(0 bytes\)"),
    "garbage": ("a.pth", lambda path: path.write_bytes(b"garbage"), "cannot be read as tensors only"),
    "code": ("a.pth", lambda path: torch.save({"model": NotATensor()}, path), "cannot be read as tensors only"),
    "no tensors": ("a.pth", lambda path: torch.save({"step": 3}, path), "expected {name: tensor}"),
    "absent": ("a.pth", lambda path: None, "not found"),
}


@pytest.mark.parametrize("kind", BROKEN_FILES)
def test_a_file_without_weights_is_refused_with_its_reason(kind: str, tmp_path: Path, reference: Reference) -> None:
    name, write, reason = BROKEN_FILES[kind]
    write(tmp_path / name)
    with pytest.raises(CheckpointError, match=reason):
        load_visual_prompt(reference.config, tmp_path / name, "localizer")


def test_a_directory_with_a_missing_shard_is_refused(tiny: Path, tmp_path: Path) -> None:
    DIRECTORY_LAYOUTS["safetensors in shards"](load_file(tiny / "model.safetensors"), tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors: not found"):
        load_vision_encoder(read_blip2_config(tiny), tmp_path)


def test_a_directory_without_weights_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no weight file in it; expected one of model"):
        load_vision_encoder(read_blip2_config(tiny), tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_vit_loads_and_runs_in_each_precision(dtype: torch.dtype, reference: Reference) -> None:
    vision = load_vision_encoder(reference.config, reference.weights, dtype)
    assert vision.dtype == dtype
    features = vision(reference.videos[0])
    assert features.dtype == dtype
    expected = reference.features[0]
    torch.testing.assert_close(features.float(), expected, rtol=0, atol=0.03 * expected.abs().max().item())


def test_the_vit_has_no_final_norm_and_no_trainable_parameters(reference: Reference) -> None:
    vision = load_vision_encoder(reference.config, reference.weights)
    assert not any("post_layernorm" in name for name in vision.state_dict())
    assert not any(parameter.requires_grad for parameter in vision.parameters())


def test_the_vit_in_float64_is_refused(reference: Reference) -> None:
    with pytest.raises(CheckpointError, match="the ViT cannot run in float64"):
        load_vision_encoder(reference.config, reference.weights, torch.float64)


def test_frames_of_another_size_are_not_encoded(reference: Reference) -> None:
    vision = load_vision_encoder(reference.config, reference.weights)
    with pytest.raises(AssertionError):
        vision(torch.zeros(1, 3, reference.config.image_size - 14, reference.config.image_size - 14))
