"""Localizer and Answerer on tensors: frames and a question in, scores or an answer out.

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
from pipeline.engine.weights import hub_folder
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

FEATURES = torch.float16  # as stored features, so that results equal those of a run


class TensorScores(NamedTuple):
    """The Localizer's scores of the frames, all [T] float32 on the CPU.

    Attributes:
        logit_yes, logit_no: raw logits of the first decoded token; the official code ranks frames by `logit_yes`.
        probability_yes: softmax over the whole vocabulary; the paper ranks frames by it.
    """

    logit_yes: Tensor
    logit_no: Tensor
    probability_yes: Tensor


class OptionAnswer(NamedTuple):
    """The Answerer's choice.

    Attributes:
        prediction: number of the chosen option, from 0.
        option: text of the chosen option.
        logits: logits of the options' letters, [O] float32 on the CPU; the highest is the chosen option's.
    """

    prediction: int
    option: str
    logits: Tensor


class _Frozen:
    """ViT and language model of a BLIP-2, shared by all models of the same folder, device and precision."""

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


class _TensorModel:
    """Loading of Localizer and Answerer."""

    _part: PromptPart

    def __init__(self, frozen: _Frozen, prompt: VisualPrompt) -> None:
        self._frozen = frozen
        self._verbalizer = frozen.language.verbalizer
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
        """Return the loaded model. Models of the same backbone share its ViT and language model.

        Args:
            backbone: folder of a BLIP-2 in Hugging Face's layout, or a name in sevila.toml, SEVILA_WEIGHTS or on the model hub,
                such as Salesforce/blip2-flan-t5-xl.
            weights: SeViLA's weights: the official file (sevila_pretrained.pth), or folder of a trained artifact; None: the
                Q-Former of BLIP-2.
            device: cpu, cuda, cuda:1, ...; auto: the first GPU, else the CPU.
            precision: float32; on a GPU bfloat16, or int8 or fp8: bfloat16 with 8-bit products in the language model.
            download: whether to download a missing backbone from the Hugging Face Hub.

        Raises:
            SevilaError: files are missing or have other content, or the device or precision is unknown.
        """
        refuse_unknown_device(str(device))
        if precision not in get_args(LanguagePrecision):
            raise SevilaError(f"precision {precision!r}: expected one of {', '.join(get_args(LanguagePrecision))}")
        device = torch_device(str(device))
        key = str(_backbone_folder(backbone, download).resolve()), device, precision
        frozen = _loaded.get(key) or _loaded.setdefault(key, _Frozen(Path(key[0]), device, precision))
        prompt = _load_prompt(frozen, Path(key[0]), weights, cls._part)
        prompt.compute_dtype = getattr(torch, activations(precision))
        return cls(frozen, prompt)


class Localizer(_TensorModel):
    """Scores frames by the probability that they contain the information needed for the answer (paper section 3.2).

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
        """Return the Localizer's score of each frame.

        Args:
            frames: [T, H, W, 3] uint8, RGB, on any device; resized bilinearly to the model's square size if necessary.
            question: one question; the prompt, options included, is truncated to 77 tokens.
            options: the options, which are part of the prompt, as in training.
            prompt, instruction: as the keys of `[score_frames]` in a recipe.

        Raises:
            SevilaError: frames or texts have a wrong shape or type, or the prompt or instruction is unknown.
        """
        _check_frames(frames)
        options = _checked_texts(question, options)
        text = prompts.prompt_named(prompt).localize(question, options, _instruction(instruction))
        (ids,) = self._verbalizer.tokenize([text]).token_ids
        visual = self._model.visual(self._frozen.features(frames))
        batches = token_batches([len(ids)] * len(visual), visual.shape[1], self._frozen.batch_tokens)
        ask = partial(self._ask, visual, ids)
        parts = [part for batch in batches for part in self._halving(ask, batch)]
        return TensorScores(*(torch.cat(values).float().cpu() for values in zip(*parts, strict=True)))

    def _ask(self, visual: Tensor, ids: list[int], rows: Any) -> LocalizerScores:
        return self._model.score(visual[torch.from_numpy(rows).to(visual.device)], [ids] * len(rows))


class Answerer(_TensorModel):
    """Chooses an option from keyframes (paper section 3.2).

    answer = Answerer.load(backbone, weights).answer(keyframes, "What does he carry?", ["a bag", "a dog"])
    """

    _part = "answerer"

    def _use(self, prompt: VisualPrompt) -> None:
        self._model = answerer.Answerer(prompt, self._frozen.language)

    def answer(
        self, frames: Tensor, question: str, options: Sequence[str], *, prompt: str = "multiple_choice"
    ) -> OptionAnswer:
        """Return the chosen option, from all frames together.

        Args:
            frames: [K, H, W, 3] uint8, RGB, in time order, on any device; the keyframes, not all frames of a video.
            question: one question; the prompt, options included, is truncated to 77 tokens.
            options: at least one, at most one per letter of the alphabet.
            prompt: as the key of `[answer_questions]` in a recipe.

        Raises:
            SevilaError: frames or texts have a wrong shape or type, there are no options, or the prompt is unknown.
        """
        _check_frames(frames)
        options = _checked_texts(question, options)
        if not options:
            raise SevilaError("options: empty; expected at least one")
        style = prompts.prompt_named(prompt)
        if not style.is_answered:
            raise SevilaError(f"prompt {prompt!r}: does not ask for an option")
        text = style.answer(question, options)
        ids = self._verbalizer.tokenize([text]).token_ids
        visual = self._model.visual(self._frozen.features(frames))
        out = self._model.answer(visual[None], ids, [len(options)], prompts.frame_prefixes(len(frames)))
        prediction = int(out.prediction[0])
        return OptionAnswer(prediction, options[prediction], out.option_logits[0].float().cpu())


def _backbone_folder(backbone: PathLike, download: bool) -> Path:
    name, path = str(backbone), Path(backbone)
    if name and path.exists():
        return path
    if not name or isinstance(backbone, os.PathLike) or name.startswith(("/", ".", "~")):
        raise MissingSourceError(f"{name!r}: does not exist; expected the folder of a BLIP-2, or the name of weights")
    places = PlaceLookup({})
    is_of_hub = "/" in name and not path.is_absolute() and places.configured("weights", name) is None
    return hub_folder(name, download) if is_of_hub else places.place("weights", name)


def _load_prompt(frozen: _Frozen, backbone: Path, weights: PathLike | None, part: PromptPart) -> VisualPrompt:
    if weights is None:
        return load_visual_prompt(frozen.config, backbone, "blip2", frozen.device)
    path = Path(weights)
    path = path / FILE if (path / FILE).is_file() else path
    if not path.exists():
        raise CheckpointError(
            f"{path}: does not exist; expected a file of weights, or the folder of a trained artifact"
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
    """Return the options as a list; a pandas cell may hold them as an array."""
    if not isinstance(question, str):
        raise SevilaError(f"question: a {type(question).__name__}; expected a str")
    texts = None if isinstance(options, str) else list(options)
    if texts is None or not all(isinstance(text, str) for text in texts):
        raise SevilaError(f"options: {options!r}; expected a list of str")
    return texts


def _check_frames(frames: Tensor) -> None:
    if not isinstance(frames, Tensor):
        hint = " (torch.from_numpy(frames) converts it)" if isinstance(frames, np.ndarray) else ""
        raise SevilaError(
            f"frames: a {type(frames).__name__}; expected a torch tensor, uint8 [T, H, W, 3], RGB from 0 to 255{hint}"
        )
    shape = list(frames.shape)
    if frames.dtype != torch.uint8 or len(shape) != 4 or shape[3] != 3 or not all(shape):
        hint = " (channels last)" if len(shape) == 4 and shape[1] == 3 else ""
        dtype = str(frames.dtype).removeprefix("torch.")
        raise SevilaError(f"frames: {dtype} {shape}; expected uint8 [T, H, W, 3], RGB from 0 to 255{hint}")
