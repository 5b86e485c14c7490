"""Any image-text-to-text model of a Hugging Face folder: pictures and a text in; a text, or log-probabilities of letters, out."""

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

# How a letter at the beginning of a reply or after a space is written in vocabularies of bytes, and of SentencePiece.
PIECES = ("{}", "\u0120{}", "\u2581{}")


class Written(NamedTuple):
    """What a model wrote, special tokens left out, and how many tokens it did."""

    text: str
    n_tokens: int


class ImageTextModel:
    """A model and its processor on a device, in evaluation mode; asked about one text and its pictures at a time."""

    def __init__(self, folder: Path, device: str, precision: str) -> None:
        """Load both; no code of the folder is run.

        Raises:
            CheckpointError: it holds no image-text-to-text model of the installed transformers, or no chat template.
        """
        self.device = device
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
            raise CheckpointError(f"{folder}: has no chat template, which says how pictures and questions are put")
        self._model = model.eval().to(device)
        self.most_tokens: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)

    def inputs(self, text: str, pictures: Sequence[Path]) -> dict[str, Any]:
        """Return what the model reads of pictures, in their order, followed by a text: `input_ids` [1, L], pixels and so on."""
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
        """Return the log-probability that the reply's first token is each of the letters, with or without a space: [letters]."""
        log_probabilities = self._model(**inputs).logits[0, -1].float().log_softmax(dim=-1)
        values = [log_probabilities[self._ids(letter)].logsumexp(dim=0) for letter in letters]
        return torch.stack(values).cpu().numpy()

    @torch.inference_mode()
    def write(self, inputs: dict[str, Any], max_new_tokens: int) -> Written:
        """Return the model's reply, greedily."""
        written = self._model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1)
        new = written[0, inputs["input_ids"].shape[1] :]
        return Written(self._processor.tokenizer.decode(new, skip_special_tokens=True), len(new))

    def _ids(self, letter: str) -> list[int]:
        vocabulary = self._processor.tokenizer.get_vocab()
        ids = [vocabulary[piece.format(letter)] for piece in PIECES if piece.format(letter) in vocabulary]
        if not ids:
            raise CheckpointError(f"its tokenizer has no token {letter!r}: read answers by readout = 'generation'")
        return ids


def _picture(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _processor(folder: Path, config: Any) -> Any:
    """Return a model's processor for pictures and texts, which resizes with Pillow.

    Videos, whose processors need torchvision, are never given; and with torchvision, where it is installed, pictures would
    differ from machine to machine.
    """
    kind: Any = PROCESSOR_MAPPING[type(config)]
    attributes = kind.get_attributes()

    def check(self: Any, name: str, value: Any) -> Any:
        return type(None) if value is None else kind.check_argument_for_proper_class(self, name, value)

    own: Any = type(kind.__name__, (kind,), {"check_argument_for_proper_class": check})
    given = {
        "image_processor": lambda: AutoImageProcessor.from_pretrained(folder, backend="pil"),
        "tokenizer": lambda: kind._load_tokenizer_from_pretrained("tokenizer", folder, subfolder=""),
    }
    arguments = [given[name]() if name in given else None for name in attributes]
    description, unused = kind.get_processor_dict(folder)
    return own.from_args_and_dict(arguments, description, **unused)
