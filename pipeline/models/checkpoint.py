"""Foreign and own weights into our modules, strictly: every tensor of a part is used, and every parameter is filled.

A directory is read as a Hugging Face BLIP-2, a file as official names (SeViLA's or BLIP-2's own).
Modules are built without memory and receive the tensors one by one, each already in its dtype and on its device.
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
LANGUAGE_DTYPES = (torch.float32, torch.bfloat16)  # Flan-T5's hidden states overflow float16, and one choice serves all

OFFICIAL_PROMPTS = {
    "blip2": keys.OFFICIAL_ANSWERER,  # BLIP-2's own names; the SeViLA fork kept them for its Answerer
    "answerer": keys.OFFICIAL_ANSWERER,
    "localizer": keys.OFFICIAL_LOCALIZER,
}


def check_blip2(config: ModelConfig, folder: Path) -> None:
    """Check that a Hugging Face directory names exactly the tensors that ViT, language model and Q-Former need.

    Reads names only, so that a wrong directory is found before hours of decoding; shapes are checked when loading.

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
    for module, what, table, copies in parts:
        tensor_sources(folder, what, table, readers, [own for own in module.state_dict() if own not in copies], copies)


def count_parameters(config: ModelConfig) -> tuple[int, int]:
    """Return how many parameters are frozen, ViT and language model, and how many a Localizer or an Answerer has of its own."""
    with torch.device("meta"):
        vision, prompt = VisionEncoder(config.vision), _empty_prompt(config)
        language, copies = _empty_language(config).state_dict(), config.kind.copies_in(config.text)
    frozen = [*vision.state_dict().values(), *(language[name] for name in language if name not in copies)]
    return sum(each.numel() for each in frozen), sum(each.numel() for each in prompt.parameters())


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

    Every BLIP-2 of one size class has the same ViT, so that features made for one of them serve the others.
    """
    readers = open_checkpoint(folder)
    with torch.device("meta"):
        wanted = list(VisionEncoder(config.vision).state_dict())
    sources = tensor_sources(folder, "ViT", keys.HUGGING_FACE_VISION, readers, wanted, {})
    vision = config.vision
    sizes = [vision.image_size, vision.patch_size, vision.num_attention_heads, vision.layer_norm_eps, vision.hidden_act]
    digest = hashlib.sha256(json.dumps(sizes).encode())
    for own in wanted:
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
    """Return the frozen language model from a Hugging Face directory or, a Flan-T5, an official file.

    `lm_head` is in float32 and, unless it is a copy of the embeddings, loaded as it is in the file: transformers 5 ties the two
    of a Flan-T5, and a plain `load_state_dict` or `tie_weights` would overwrite one with the other.

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
    model.set_input_embeddings(embeddings)  # one tensor again, on any device it is moved to
    if "lm_head.weight" not in copies:
        assert model.lm_head.weight.data_ptr() != embeddings.weight.data_ptr(), (
            "transformers tied lm_head to the embeddings"
        )
    return kind.language(model, verbalizer)


def load_verbalizer(config: ModelConfig, folder: Path) -> Verbalizer:
    """Return what makes ids of texts for the language model in a Hugging Face directory; raises `CheckpointError`."""
    return config.kind.tokenizer(folder / "tokenizer.json", config.text)


def _empty_language(config: ModelConfig) -> Any:
    """Return the language model without memory, but for what it counts rather than learns: rotary positions."""
    with torch.device("meta"):
        model: Any = getattr(transformers, config.kind.model)(config.text)
    for name, module in list(model.named_modules()):
        if list(module.buffers(recurse=False)) and not list(module.parameters()):
            model.set_submodule(name, type(module)(config.text))
    return model


def load_visual_prompt(
    config: ModelConfig, path: Path, part: PromptPart, device: str | torch.device = "cpu"
) -> VisualPrompt:
    """Return the LayerNorm, query tokens, Q-Former and projection of one part, float32, in evaluation mode.

    Args:
        part: "blip2" from a Hugging Face directory or an official BLIP-2 file; "localizer" or "answerer" from an
            official SeViLA file.

    Raises:
        CheckpointError: missing, unexpected or misshapen tensors; a directory and a part other than "blip2".
    """
    if path.is_dir() and part != "blip2":
        raise CheckpointError(
            f"{path}: a Hugging Face directory holds BLIP-2's own Q-Former, no SeViLA {part}; name the official file, "
            f"or take BLIP-2's own with `--set init_{part}.weights=''`"
        )
    return _prompt(config, path, part, keys.HUGGING_FACE_PROMPT if path.is_dir() else OFFICIAL_PROMPTS[part], device)


def save_visual_prompt(prompt: VisualPrompt, path: Path) -> None:
    """Write the parameters as float32 safetensors under our own names, the same bytes for the same values."""
    save_tensors(prompt.state_dict(), path)


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as float32 safetensors, the same bytes for the same values; a full disk is an `OSError`, as of any file."""
    path.write_bytes(save({name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}))


def load_saved_visual_prompt(config: ModelConfig, path: Path, device: str | torch.device = "cpu") -> VisualPrompt:
    """Return what `save_visual_prompt` wrote, in evaluation mode.

    Raises:
        CheckpointError: missing, unexpected or misshapen tensors.
    """
    return _prompt(config, path, "visual prompt", keys.OWN, device)


def _prompt(
    config: ModelConfig, path: Path, what: str, table: keys.KeyTable, device: str | torch.device
) -> VisualPrompt:
    with torch.device("meta"):
        module = _empty_prompt(config)
    fill(module, path, what, table, torch.float32, device)
    return module.eval()


def _empty_prompt(config: ModelConfig) -> VisualPrompt:
    return VisualPrompt(config.qformer, config.num_query_tokens, config.text.hidden_size)


def fill(
    module: nn.Module,
    path: Path,
    what: str,
    table: keys.KeyTable,
    dtype: torch.dtype,
    device: str | torch.device,
    copies: Mapping[str, str] = MappingProxyType({}),
    float32: Sequence[str] = (),
) -> None:
    """Give every parameter of `module`, built on the meta device, its tensor from `path`.

    Args:
        copies: parameters that equal another one, which files may hold under either name or both.
        float32: parameters that stay float32 whatever `dtype` is.
    """
    readers = open_checkpoint(path)
    wanted = {own: parameter.shape for own, parameter in module.state_dict().items() if own not in copies}
    sources = tensor_sources(path, what, table, readers, list(wanted), copies)
    state: dict[str, Tensor] = {}
    misshapen: list[str] = []
    for own, shape in wanted.items():
        tensor = read_tensor(path, readers, sources[own])
        if tensor.shape != shape:
            misshapen.append(f"{' + '.join(sources[own])} is {list(tensor.shape)}, wanted {list(shape)}")
            continue
        state[own] = tensor.to(device, torch.float32 if own in float32 else dtype, copy=True)
    if misshapen:
        raise CheckpointError(f"{path}: {what} of another size than config.json says: {_listed(misshapen, '; ')}")
    module.load_state_dict({**state, **{copy: state[original] for copy, original in copies.items()}}, assign=True)
    for name, buffer in list(module.named_buffers()):
        owner, _, own_name = name.rpartition(".")
        if buffer.is_meta and own_name == "position_ids":  # counted, and in no file of ours
            positions = torch.arange(buffer.shape[-1], device=device).expand(buffer.shape)
            module.get_submodule(owner).register_buffer(own_name, positions, persistent=False)
    assert not any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())), "a buffer was not loaded"


def tensor_sources(
    path: Path, what: str, table: keys.KeyTable, readers: TensorReaders, wanted: list[str], copies: Mapping[str, str]
) -> dict[str, list[str]]:
    """Return, per parameter, the foreign names its tensor is made of; nothing missing, nothing left over."""
    sources, unexpected = table.resolve(readers)
    for copy, original in copies.items():
        names = sources.pop(copy, [])
        kept = sources.setdefault(original, names)
        if names and names != kept and not torch.equal(readers[names[0]](), readers[kept[0]]()):
            raise CheckpointError(f"{path}: {names[0]} differs from {kept[0]}, whose copy it should be; wanted {what}")
    unexpected += [name for own, names in sources.items() if own not in wanted for name in names]
    missing = [own for own in wanted if not sources.get(own)]
    if missing or unexpected:
        raise CheckpointError(
            f"{path}: does not hold exactly the {what} of this model: "
            f"{len(missing)} missing, by our names ({_listed(missing, ', ')}), "
            f"{len(unexpected)} unexpected ({_listed(unexpected, ', ')}); check that the file and config.json belong together"
        )
    return sources


def read_tensor(path: Path, readers: TensorReaders, names: list[str]) -> Tensor:
    """Return the one tensor of that name, or of two [D] the joint bias (q_bias, zeros, v_bias), [3 D].

    The official ViT has no bias on its keys.

    Raises:
        CheckpointError: it holds no floating point numbers, or the two have different shapes.
    """
    tensors = [readers[name]() for name in names]
    for name, tensor in zip(names, tensors, strict=True):
        if tensor.dtype not in FILE_DTYPES:
            raise CheckpointError(
                f"{path}: {name} holds {tensor.dtype}, wanted floating point numbers; download it again"
            )
    if len(tensors) == 1:
        return tensors[0]
    if len(tensors) != 2 or tensors[0].shape != tensors[1].shape:
        shapes = [list(tensor.shape) for tensor in tensors]
        raise CheckpointError(f"{path}: {' and '.join(names)} are {shapes}, wanted two of one shape")
    q_bias, v_bias = tensors
    return torch.cat([q_bias, torch.zeros_like(v_bias), v_bias])


def _listed(names: Sequence[str], separator: str, most: int = 32) -> str:
    return separator.join(names[:most]) + (f"{separator}and {len(names) - most} more" if len(names) > most else "")


def _check_dtype(what: str, dtype: torch.dtype, allowed: Sequence[torch.dtype]) -> None:
    if dtype not in allowed:
        names = ", ".join(str(each).removeprefix("torch.") for each in allowed)
        raise CheckpointError(f"{what} cannot run in {str(dtype).removeprefix('torch.')}; choose one of {names}")
