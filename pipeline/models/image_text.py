"""Image-text-to-text models in Hugging Face folders: from pictures and a text to a reply or log-probabilities of letters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from cache.errors import CheckpointError
from pipeline.loaded_models import make_room

# Tokens of a letter at the start of a reply or after a space, in byte-level and SentencePiece vocabularies.
PIECES = ("{}", "\u0120{}", "\u2581{}")


class Written(NamedTuple):
    """A model's reply without special tokens, and its number of tokens."""

    text: str
    n_tokens: int


class ImageTextModel:
    """A model and its processor on a device, in evaluation mode; it takes one text with its pictures at a time."""

    def __init__(self, folder: Path, device: str, precision: str) -> None:
        """Load both without running code of the folder.

        Raises:
            CheckpointError: the folder has no image-text-to-text model of the installed transformers, or no chat template.
        """
        self.device = device
        make_room(sum(path.stat().st_size for path in folder.glob("*.safetensors")), device)
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            self._processor = _processor(folder, config)
            model = AutoModelForImageTextToText.from_pretrained(
                folder, dtype=getattr(torch, precision), trust_remote_code=False
            )
        except (ImportError, KeyError, OSError, RuntimeError, StrictDataclassError, TypeError, ValueError) as error:
            problem = str(error).strip().split("\n")[0]
            raise CheckpointError(
                f"{folder}: is no image-text-to-text model that transformers loads: {problem}"
            ) from error
        if not self._processor.chat_template and not self._processor.tokenizer.chat_template:
            raise CheckpointError(f"{folder}: has no chat template, which is needed to format pictures and questions")
        self._model = model.eval().to(device)
        self.most_tokens: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)

    def inputs(self, text: str, pictures: Sequence[Path]) -> dict[str, Any]:
        """Return the model's inputs for pictures, in order, followed by a text: `input_ids` [1, L], pixels and others."""
        content = [*({"type": "image", "image": _picture(path)} for path in pictures), {"type": "text", "text": text}]
        inputs = self._processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            sanitize_control_tokens=True,  # a question may hold "<image>"
        )
        return dict(inputs.to(self.device, self._model.dtype))

    @torch.inference_mode()
    def letters(self, inputs: dict[str, Any], letters: Sequence[str]) -> np.ndarray:
        """Return the log-probability of each letter, with or without a space, as the reply's first token: [letters]."""
        log_probabilities = self._model(**inputs).logits[0, -1].float().log_softmax(dim=-1)
        values = [log_probabilities[self._ids(letter)].logsumexp(dim=0) for letter in letters]
        return torch.stack(values).cpu().numpy()

    @torch.inference_mode()
    def write(self, inputs: dict[str, Any], max_new_tokens: int) -> Written:
        """Return the model's greedy reply."""
        written = self._model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1)
        new = written[0, inputs["input_ids"].shape[1] :]
        return Written(self._processor.tokenizer.decode(new, skip_special_tokens=True), len(new))

    def _ids(self, letter: str) -> list[int]:
        vocabulary = self._processor.tokenizer.get_vocab()
        ids = [vocabulary[piece.format(letter)] for piece in PIECES if piece.format(letter) in vocabulary]
        if not ids:
            raise CheckpointError(f"the model's tokenizer has no token {letter!r}; set readout = 'generation'")
        return ids


def _picture(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _processor(folder: Path, config: Any) -> Any:
    """Return a model's processor for pictures and texts, without its video processor, which resizes with Pillow.

    Video processors need torchvision, which may be missing; where it is installed, its resized pictures would differ from
    Pillow's.
    """
    kind: Any = PROCESSOR_MAPPING[type(config)]

    def check(self: Any, name: str, value: Any) -> Any:
        return type(None) if value is None else kind.check_argument_for_proper_class(self, name, value)

    partial_kind: Any = type(kind.__name__, (kind,), {"check_argument_for_proper_class": check})
    loaders = {
        "image_processor": lambda: AutoImageProcessor.from_pretrained(folder, backend="pil"),
        "tokenizer": lambda: kind._load_tokenizer_from_pretrained("tokenizer", folder, subfolder=""),
    }
    arguments = [loaders[name]() if name in loaders else None for name in kind.get_attributes()]
    description, unused = kind.get_processor_dict(folder)
    return partial_kind.from_args_and_dict(arguments, description, **unused)
