"""Strict loading of foreign and own weights: every tensor of a part is used, and every parameter is set.

A directory is read as a Hugging Face BLIP-2, a file by official names (SeViLA's or BLIP-2's).
Modules are built on the meta device and receive the tensors one by one, each in its dtype and on its device.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
import transformers
from safetensors.torch import save
from torch import Tensor, nn

from cache.errors import CheckpointError
from pipeline.loaded_models import make_room
from pipeline.models import keys
from pipeline.models.config import ModelConfig
from pipeline.models.language import Language
from pipeline.models.tensors import TensorReaders, open_checkpoint
from pipeline.models.verbalizer import Verbalizer
from pipeline.models.vision import VisionEncoder
from pipeline.models.visual_prompt import VisualPrompt

PromptPart = Literal["blip2", "localizer", "answerer"]

VISION_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
FILE_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
LANGUAGE_DTYPES = (torch.float32, torch.bfloat16)  # Flan-T5's hidden states overflow float16; the same for all kinds

OFFICIAL_PROMPTS = {
    "blip2": keys.OFFICIAL_ANSWERER,  # BLIP-2's own names; the SeViLA fork kept them for its Answerer
    "answerer": keys.OFFICIAL_ANSWERER,
    "localizer": keys.OFFICIAL_LOCALIZER,
}


def check_blip2(config: ModelConfig, folder: Path) -> None:
    """Check that a Hugging Face directory has exactly the tensors of ViT, language model and Q-Former.

    Reads names only, to reject a wrong directory before hours of decoding; shapes are checked on loading.

    Raises:
        CheckpointError: missing or unexpected tensors.
    """
    readers = open_checkpoint(folder)
    with torch.device("meta"):
        parts: list[tuple[nn.Module, str, keys.KeyTable, Mapping[str, str]]] = [
            (VisionEncoder(config.vision), "ViT", keys.HUGGING_FACE_VISION, {}),
            (_empty_language(config), "language model", keys.HUGGING_FACE_LANGUAGE, config.kind.copies_in(config.text)),
            (_empty_prompt(config), "blip2", keys.HUGGING_FACE_PROMPT, {}),
        ]
    for module, part, table, copies in parts:
        tensor_sources(folder, part, table, readers, [own for own in module.state_dict() if own not in copies], copies)


def count_parameters(config: ModelConfig) -> tuple[int, int]:
    """Return the numbers of frozen parameters (ViT and language model) and of trainable ones in a Localizer or Answerer."""
    with torch.device("meta"):
        vision, prompt = VisionEncoder(config.vision), _empty_prompt(config)
        language, copies = _empty_language(config).state_dict(), config.kind.copies_in(config.text)
    frozen = [*vision.state_dict().values(), *(language[name] for name in language if name not in copies)]
    return sum(tensor.numel() for tensor in frozen), sum(tensor.numel() for tensor in prompt.parameters())


def load_vision_encoder(
    config: ModelConfig, path: Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> VisionEncoder:
    """Return the frozen ViT from a Hugging Face directory or an official file.

    Raises:
        CheckpointError: missing, unexpected or misshapen tensors; a dtype other than float32, float16 and bfloat16.
    """
    _check_dtype("the ViT", dtype, VISION_DTYPES)
    with torch.device("meta"):
        module = VisionEncoder(config.vision)
    table = keys.HUGGING_FACE_VISION if path.is_dir() else keys.OFFICIAL_VISION
    fill(module, path, "ViT", table, dtype, device)
    return module.eval().requires_grad_(False)


def vision_fingerprint(config: ModelConfig, folder: Path) -> str:
    """Return 20 hexadecimal digits that identify the ViT of a Hugging Face directory: its sizes and its weights as float32.

    BLIP-2 models of one size class have the same ViT and can therefore share features.
    """
    readers = open_checkpoint(folder)
    with torch.device("meta"):
        names = list(VisionEncoder(config.vision).state_dict())
    sources = tensor_sources(folder, "ViT", keys.HUGGING_FACE_VISION, readers, names, {})
    vision = config.vision
    sizes = [vision.image_size, vision.patch_size, vision.num_attention_heads, vision.layer_norm_eps, vision.hidden_act]
    digest = hashlib.sha256(json.dumps(sizes).encode())
    for own in names:
        tensor = read_tensor(folder, readers, sources[own]).float().contiguous()
        digest.update(json.dumps([own, *tensor.shape]).encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()[:20]


def load_language(
    config: ModelConfig,
    path: Path,
    verbalizer: Verbalizer,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Language:
    """Return the frozen language model from a Hugging Face directory or, for Flan-T5, an official file.

    `lm_head` is in float32 and, unless the configuration ties it, separate from the embeddings: transformers 5 ties those of a
    Flan-T5, and a plain `load_state_dict` or `tie_weights` would overwrite one with the other.

    Raises:
        CheckpointError: missing, unexpected or misshapen tensors; a dtype other than float32 and bfloat16; a verbalizer
            of another model.
    """
    kind = config.kind
    _check_dtype(kind.title, dtype, LANGUAGE_DTYPES)
    model, copies = _empty_language(config), kind.copies_in(config.text)
    table = keys.HUGGING_FACE_LANGUAGE if path.is_dir() else keys.OFFICIAL_LANGUAGE
    fill(model, path, "language model", table, dtype, device, copies=copies, float32=("lm_head.weight",))
    embeddings = model.get_input_embeddings()
    model.set_input_embeddings(embeddings)  # share one tensor again
    if "lm_head.weight" not in copies:
        assert model.lm_head.weight.data_ptr() != embeddings.weight.data_ptr(), (
            "transformers tied lm_head to the embeddings"
        )
    return kind.language(model, verbalizer)


def load_verbalizer(config: ModelConfig, folder: Path) -> Verbalizer:
    """Return the verbalizer of the language model in a Hugging Face directory; raise `CheckpointError` if it is invalid."""
    return config.kind.tokenizer(folder / "tokenizer.json", config.text)


def _empty_language(config: ModelConfig) -> Any:
    """Return the language model on the meta device, except for computed buffers such as rotary frequencies."""
    with torch.device("meta"):
        model: Any = getattr(transformers, config.kind.model)(config.text)
    for name, module in list(model.named_modules()):
        if list(module.buffers(recurse=False)) and not list(module.parameters()):
            model.set_submodule(name, type(module)(config.text))
    return model


def load_visual_prompt(
    config: ModelConfig, path: Path, part: PromptPart, device: str | torch.device = "cpu"
) -> VisualPrompt:
    """Return one part's LayerNorm, query tokens, Q-Former and projection, float32, in evaluation mode.

    Args:
        part: "blip2" from a Hugging Face directory or an official BLIP-2 file; "localizer" or "answerer" from an
            official SeViLA file.

    Raises:
        CheckpointError: missing, unexpected or misshapen tensors; a directory and a part other than "blip2".
    """
    if path.is_dir() and part != "blip2":
        raise CheckpointError(
            f"{path}: a Hugging Face directory has BLIP-2's own Q-Former and no SeViLA {part}; name the official file, "
            f"or use BLIP-2's own with `--set init_{part}.weights=''`"
        )
    return _prompt(config, path, part, keys.HUGGING_FACE_PROMPT if path.is_dir() else OFFICIAL_PROMPTS[part], device)


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as float32 safetensors; equal values give equal bytes. Raises OSError, for example if the disk is full."""
    path.write_bytes(save({name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}))


def load_saved_visual_prompt(config: ModelConfig, path: Path, device: str | torch.device = "cpu") -> VisualPrompt:
    """Return a prompt whose `state_dict` `save_tensors` has written, in evaluation mode.

    Raises:
        CheckpointError: missing, unexpected or misshapen tensors.
    """
    return _prompt(config, path, "visual prompt", keys.OWN, device)


def _prompt(
    config: ModelConfig, path: Path, part: str, table: keys.KeyTable, device: str | torch.device
) -> VisualPrompt:
    with torch.device("meta"):
        module = _empty_prompt(config)
    fill(module, path, part, table, torch.float32, device)
    return module.eval()


def _empty_prompt(config: ModelConfig) -> VisualPrompt:
    return VisualPrompt(config.qformer, config.num_query_tokens, config.text.hidden_size)


def fill(
    module: nn.Module,
    path: Path,
    part: str,
    table: keys.KeyTable,
    dtype: torch.dtype,
    device: str | torch.device,
    copies: Mapping[str, str] = MappingProxyType({}),
    float32: Sequence[str] = (),
) -> None:
    """Load every parameter of `module`, built on the meta device, from `path`.

    Args:
        part: the module's name in errors.
        copies: parameters that equal another one, which files may have under either name or both.
        float32: parameters that are float32 regardless of `dtype`.
    """
    readers = open_checkpoint(path)
    shapes = {own: parameter.shape for own, parameter in module.state_dict().items() if own not in copies}
    sources = tensor_sources(path, part, table, readers, list(shapes), copies)
    make_room(sum(shape.numel() for shape in shapes.values()) * dtype.itemsize, str(device))
    state: dict[str, Tensor] = {}
    misshapen: list[str] = []
    for own, shape in shapes.items():
        tensor = read_tensor(path, readers, sources[own])
        if tensor.shape != shape:
            misshapen.append(f"{' + '.join(sources[own])} is {list(tensor.shape)}, expected {list(shape)}")
            continue
        state[own] = tensor.to(device, torch.float32 if own in float32 else dtype, copy=True)
    if misshapen:
        raise CheckpointError(f"{path}: the size of the {part} differs from config.json: {_listed(misshapen, '; ')}")
    module.load_state_dict({**state, **{copy: state[original] for copy, original in copies.items()}}, assign=True)
    for name, buffer in list(module.named_buffers()):
        owner, _, own_name = name.rpartition(".")
        if buffer.is_meta and own_name == "position_ids":  # 0, 1, ..., not stored in our files
            positions = torch.arange(buffer.shape[-1], device=device).expand(buffer.shape)
            module.get_submodule(owner).register_buffer(own_name, positions, persistent=False)
    assert not any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())), "a buffer was not loaded"


def tensor_sources(
    path: Path, part: str, table: keys.KeyTable, readers: TensorReaders, names: list[str], copies: Mapping[str, str]
) -> dict[str, list[str]]:
    """Return the foreign tensors of each parameter in `names`, by our name.

    Raises:
        CheckpointError: a parameter has no tensor, or a tensor of the part no parameter; a copy differs from its original.
    """
    sources, unexpected = table.resolve(readers)
    for copy, original in copies.items():
        copied = sources.pop(copy, [])
        kept = sources.setdefault(original, copied)
        if copied and copied != kept and not torch.equal(readers[copied[0]](), readers[kept[0]]()):
            raise CheckpointError(f"{path}: {copied[0]} differs from {kept[0]}; expected a copy in this {part}")
    unexpected += [name for own, foreign in sources.items() if own not in names for name in foreign]
    missing = [own for own in names if not sources.get(own)]
    if missing or unexpected:
        raise CheckpointError(
            f"{path}: does not have exactly the tensors of this model's {part}: "
            f"{len(missing)} missing, by our names ({_listed(missing, ', ')}), "
            f"{len(unexpected)} unexpected ({_listed(unexpected, ', ')}); check that the file and config.json belong together"
        )
    return sources


def read_tensor(path: Path, readers: TensorReaders, names: list[str]) -> Tensor:
    """Return the tensor of one name, or for two biases [D] the joint bias (q_bias, zeros, v_bias), [3 D].

    The official ViT has no bias on its keys.

    Raises:
        CheckpointError: a tensor's dtype is no floating point type, or the two shapes differ.
    """
    tensors = [readers[name]() for name in names]
    for name, tensor in zip(names, tensors, strict=True):
        if tensor.dtype not in FILE_DTYPES:
            raise CheckpointError(
                f"{path}: {name} has dtype {tensor.dtype}; expected a floating point type; download it again"
            )
    if len(tensors) == 1:
        return tensors[0]
    if len(tensors) != 2 or tensors[0].shape != tensors[1].shape:
        shapes = [list(tensor.shape) for tensor in tensors]
        raise CheckpointError(f"{path}: {' and '.join(names)} have shapes {shapes}; expected two equal ones")
    q_bias, v_bias = tensors
    return torch.cat([q_bias, torch.zeros_like(v_bias), v_bias])


def _listed(names: Sequence[str], separator: str, most: int = 32) -> str:
    return separator.join(names[:most]) + (f"{separator}and {len(names) - most} more" if len(names) > most else "")


def _check_dtype(model: str, dtype: torch.dtype, allowed: Sequence[torch.dtype]) -> None:
    if dtype not in allowed:
        names = ", ".join(str(choice).removeprefix("torch.") for choice in allowed)
        raise CheckpointError(f"{model} cannot run in {str(dtype).removeprefix('torch.')}; choose one of {names}")
