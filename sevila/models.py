"""Localizer and Answerer on plain tensors: frames and a question in, scores or an answer out.

Shapes: T frames of H x W pixels, O options.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self, get_args
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cache.errors import CheckpointError, MissingSourceError, SevilaError, did_you_mean
from pipeline.batching import token_batches, tokens_suiting
from pipeline.devices import refuse_unknown_device, torch_device
from pipeline.engine.places import PlaceLookup
from pipeline.engine.weights import of_hub
from pipeline.inference.visual_prompt_weights import FILE
from pipeline.memory import Halving
from pipeline.models import answerer, localizer, prompts
from pipeline.models.checkpoint import (
    PromptPart,
    load_saved_visual_prompt,
    load_vision_encoder,
    load_visual_prompt,
)
from pipeline.models.config import read_blip2_config
from pipeline.models.eight_bits import load_language_in
from pipeline.models.localizer import LocalizerScores
from pipeline.models.vision import pixels
from pipeline.models.visual_prompt import VisualPrompt
from pipeline.precision import LanguagePrecision, activations
from sevila.tables import PathLike

FEATURES = torch.float16  # as stored features are, so that what comes out is what a run with a store gives


class TensorScores(NamedTuple):
    """What the Localizer says of each frame, all [T] float32 on the CPU.

    Attributes:
        logit_yes, logit_no: raw logits of its first word; the official code ranks frames by `logit_yes`.
        probability_yes: softmax over the whole vocabulary, by which the paper ranks them.
    """

    logit_yes: Tensor
    logit_no: Tensor
    probability_yes: Tensor


class OptionAnswer(NamedTuple):
    """What the Answerer chose.

    Attributes:
        prediction: number of the chosen option, from 0.
        option: its text.
        logits: [O] float32 on the CPU, of the options' letters; the highest is the chosen one's.
    """

    prediction: int
    option: str
    logits: Tensor


class _Frozen:
    """ViT and language model of one BLIP-2, which every model of one folder, device and precision shares."""

    def __init__(self, folder: Path, device: str, precision: str) -> None:
        self.config, self.device = read_blip2_config(folder), device
        dtype = getattr(torch, activations(precision))
        self.vision = load_vision_encoder(self.config, folder, dtype, device)
        self.language = load_language_in(precision, self.config, folder, device)
        self.batch_tokens = tokens_suiting(device)
        self._halving = Halving("frames")

    @torch.no_grad()
    def features(self, frames: Tensor) -> Tensor:
        """Return the ViT's output [T, P, D] float16 of frames [T, H, W, 3] uint8."""
        n_at_once = max(1, self.batch_tokens // self.config.feature_shape[0])
        batches = frames.split(n_at_once)
        return torch.cat([part for batch in batches for part in self._halving(self._encode, batch)])

    def _encode(self, frames: Tensor) -> Tensor:
        size = self.config.image_size
        frames = frames.to(self.device)
        if frames.shape[1:3] != (size, size):
            scaled = functional.interpolate(
                frames.permute(0, 3, 1, 2).float(), (size, size), mode="bilinear", antialias=True
            )
            frames = scaled.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        return self.vision(pixels(frames).to(self.vision.dtype)).to(FEATURES)


_loaded: WeakValueDictionary[tuple[str, str, str], _Frozen] = WeakValueDictionary()


class _OnTensors:
    """What both models are loaded from."""

    _part: PromptPart

    def __init__(self, frozen: _Frozen, prompt: VisualPrompt) -> None:
        self._frozen = frozen
        self._words = frozen.language.verbalizer
        self._halving = Halving(self._part)
        self._use(prompt)

    def _use(self, prompt: VisualPrompt) -> None:
        raise NotImplementedError

    @classmethod
    def load(
        cls,
        backbone: PathLike,
        weights: PathLike | None = None,
        *,
        device: str = "auto",
        precision: str = "float32",
        download: bool = False,
    ) -> Self:
        """Return the model, ready to be asked. Two of one backbone share its ViT and language model.

        Args:
            backbone: folder of a BLIP-2 as Hugging Face lays it out, or a name that sevila.toml, SEVILA_WEIGHTS or the
                model hub knows, such as Salesforce/blip2-flan-t5-xl.
            weights: SeViLA's own: the official file (sevila_pretrained.pth), or folder of an artifact that a training made;
                None: BLIP-2's Q-Former, as it is.
            device: cpu, cuda, cuda:1, ...; auto: the first GPU, else the CPU.
            precision: float32; on a GPU bfloat16, or the same with 8-bit products in the language model: int8, fp8.
            download: fetch a backbone that is not on this machine from the Hugging Face Hub.

        Raises:
            SevilaError: nothing is there, or it is not what was wanted; or a device or precision that there is not.
        """
        refuse_unknown_device(str(device))
        if precision not in get_args(LanguagePrecision):
            raise SevilaError(f"precision {precision!r}: wanted one of {', '.join(get_args(LanguagePrecision))}")
        device = torch_device(str(device))
        key = str(_place(backbone, download).resolve()), device, precision
        frozen = _loaded.get(key) or _loaded.setdefault(key, _Frozen(Path(key[0]), device, precision))
        prompt = _prompt(frozen, Path(key[0]), weights, cls._part)
        prompt.compute_dtype = getattr(torch, activations(precision))
        return cls(frozen, prompt)


class Localizer(_OnTensors):
    """Scores frames by how surely they show the answer (paper section 3.2).

    scores = Localizer.load(backbone, weights).score(frames, "What does he carry?", ["a bag", "a dog"])
    """

    _part = "localizer"

    def _use(self, prompt: VisualPrompt) -> None:
        self._model = localizer.Localizer(prompt, self._frozen.language)

    def score(
        self,
        frames: Tensor,
        question: str,
        options: Sequence[str] = (),
        *,
        prompt: str = "multiple_choice",
        instruction: str = prompts.DEFAULT_INSTRUCTION,
    ) -> TensorScores:
        """Return what the Localizer says of each frame, by which frames are ranked.

        Args:
            frames: [T, H, W, 3] uint8, RGB, on any device. Other sizes than the model's are scaled, bilinearly and to a square.
            question: one question; what is more than 77 tokens long, options included, is cut.
            options: are part of what the Localizer reads; it was trained with them.
            prompt, instruction: as the keys of `[score_frames]` in a recipe.

        Raises:
            SevilaError: frames of another shape or type, texts that are none, or an unknown prompt or instruction.
        """
        _check_frames(frames)
        options = _checked_texts(question, options)
        text = prompts.prompt_named(prompt).localize(question, options, _instruction(instruction))
        (ids,) = self._words.tokenize([text]).token_ids
        visual = self._model.visual(self._frozen.features(frames))
        batches = token_batches([len(ids)] * len(visual), visual.shape[1], self._frozen.batch_tokens)
        ask = partial(self._ask, visual, ids)
        parts = [part for batch in batches for part in self._halving(ask, batch)]
        return TensorScores(*(torch.cat(values).float().cpu() for values in zip(*parts, strict=True)))

    def _ask(self, visual: Tensor, ids: list[int], rows: Any) -> LocalizerScores:
        return self._model.score(visual[torch.from_numpy(rows).to(visual.device)], [ids] * len(rows))


class Answerer(_OnTensors):
    """Chooses an option by the frames it is given (paper section 3.2).

    answer = Answerer.load(backbone, weights).answer(keyframes, "What does he carry?", ["a bag", "a dog"])
    """

    _part = "answerer"

    def _use(self, prompt: VisualPrompt) -> None:
        self._model = answerer.Answerer(prompt, self._frozen.language)

    def answer(
        self, frames: Tensor, question: str, options: Sequence[str], *, prompt: str = "multiple_choice"
    ) -> OptionAnswer:
        """Return the option that the frames, read together, support.

        Args:
            frames: [K, H, W, 3] uint8, RGB, in time order, on any device; the few keyframes, not a video's every frame.
            question: one question; what is more than 77 tokens long, options included, is cut.
            options: at least one, and no more than there are letters.
            prompt: as the key of `[answer_questions]` in a recipe.

        Raises:
            SevilaError: frames of another shape or type, texts that are none, no options, or an unknown prompt.
        """
        _check_frames(frames)
        options = _checked_texts(question, options)
        if not options:
            raise SevilaError("no options: the Answerer chooses one; wanted at least one")
        style = prompts.prompt_named(prompt)
        if not style.is_answered:
            raise SevilaError(f"the prompt {prompt!r} is not one by which an Answerer is asked for an option")
        text = style.answer(question, options)
        ids = self._words.tokenize([text]).token_ids
        visual = self._model.visual(self._frozen.features(frames))
        out = self._model.answer(visual[None], ids, [len(options)], prompts.frame_prefixes(len(frames)))
        prediction = int(out.prediction[0])
        return OptionAnswer(prediction, options[prediction], out.option_logits[0].float().cpu())


def _place(backbone: PathLike, download: bool) -> Path:
    name, path = str(backbone), Path(backbone)
    if name and path.exists():
        return path
    if not name or isinstance(backbone, os.PathLike) or name.startswith(("/", ".", "~")):
        raise MissingSourceError(f"{name!r}: nothing is there; wanted the folder of a BLIP-2, or the name of weights")
    places = PlaceLookup({})
    is_of_hub = "/" in name and not path.is_absolute() and places.configured("weights", name) is None
    return of_hub(name, download) if is_of_hub else places.place("weights", name)


def _prompt(frozen: _Frozen, backbone: Path, weights: PathLike | None, part: PromptPart) -> VisualPrompt:
    if weights is None:
        return load_visual_prompt(frozen.config, backbone, "blip2", frozen.device)
    path = Path(weights)
    path = path / FILE if (path / FILE).is_file() else path
    if not path.exists():
        raise CheckpointError(
            f"{path}: nothing is there; wanted a file of weights, or the folder of a trained artifact"
        )
    if path.name == FILE:
        return load_saved_visual_prompt(frozen.config, path, frozen.device)
    return load_visual_prompt(frozen.config, path, part, frozen.device)


def _instruction(name: str) -> str:
    if name not in prompts.LOCALIZE_INSTRUCTIONS:
        known = prompts.LOCALIZE_INSTRUCTIONS
        raise SevilaError(
            f"no instruction is called {name!r}{did_you_mean(name, known)}; there are: {', '.join(known)}"
        )
    return name


def _checked_texts(question: str, options: Sequence[str]) -> list[str]:
    """Return the options as a list: a cell of pandas has them as an array."""
    if not isinstance(question, str):
        raise SevilaError(f"question: a {type(question).__name__}; a text was wanted")
    texts = None if isinstance(options, str) else list(options)
    if texts is None or not all(isinstance(text, str) for text in texts):
        raise SevilaError(f"options: {options!r}; a list of texts was wanted")
    return texts


def _check_frames(frames: Tensor) -> None:
    if not isinstance(frames, Tensor):
        hint = "; torch.from_numpy(frames) makes one" if isinstance(frames, np.ndarray) else ""
        raise SevilaError(
            f"frames: a {type(frames).__name__}; a torch tensor was wanted, uint8 [T, H, W, 3], RGB from 0 to 255{hint}"
        )
    shape = list(frames.shape)
    if frames.dtype != torch.uint8 or len(shape) != 4 or shape[3] != 3 or not all(shape):
        hint = "; channels come last" if len(shape) == 4 and shape[1] == 3 else ""
        raise SevilaError(
            f"frames: {str(frames.dtype).removeprefix('torch.')} {shape}; uint8 [T, H, W, 3] was wanted, RGB from 0 to 255{hint}"
        )
