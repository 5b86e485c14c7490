"""Deviation of results on a device from the official code's (tests/golden/parity), by precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.models.answerer import Answerer
from pipeline.models.checkpoint import load_language, load_vision_encoder, load_visual_prompt
from pipeline.models.eight_bits import to_eight_bits
from pipeline.models.localizer import Localizer
from pipeline.models.prompts import numbered_frame_prefixes
from pipeline.precision import EIGHT_BITS, activations
from pipeline.selection.top_k import top_k_positions
from tests.reference import Reference

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "parity"
# Of logits: float32 is guaranteed; bfloat16 has 8 significant bits for logits up to 10; int8 and fp8 use 8-bit products.
TOLERANCE = {"float32": 5e-5, "bfloat16": 0.5, "int8": 0.5, "fp8": 1.0}


def parity(precision: str, device: str) -> dict[str, Any]:
    """Return the maximum differences of features and logits from the official ones, and the numbers of changed choices."""
    reference = Reference(GOLDEN)
    golden, dtype = reference.golden, getattr(torch, activations(precision))
    encoder = load_vision_encoder(reference.config, reference.weights, dtype, device)
    with torch.no_grad():
        features = encoder(reference.videos.flatten(0, 1).to(device)).float()
    language = load_language(reference.config, reference.weights, reference.verbalizer, dtype, device)
    if precision in EIGHT_BITS:
        to_eight_bits(language, precision)
    prompts = {}
    for part in ("localizer", "answerer"):
        prompts[part] = load_visual_prompt(reference.config, reference.weights, part, device)
        prompts[part].compute_dtype = dtype
    localizer, answerer = Localizer(prompts["localizer"], language), Answerer(prompts["answerer"], language)
    n_videos, n_frames = reference.videos.shape[:2]
    videos = reference.inputs["video_index"]
    visual = localizer.visual(features).unflatten(0, (n_videos, n_frames))[videos]
    token_ids = [ids for ids in reference.tokens("loc_input").token_ids for _ in range(n_frames)]
    yes = localizer.score(visual.flatten(0, 1), token_ids).logit_yes.float().cpu().numpy()
    frames = golden["A_frame_idx"]
    chosen = np.array([top_k_positions(row, frames.shape[1]) for row in yes.reshape(len(videos), -1)])
    answerer_visual = answerer.visual(features).unflatten(0, (n_videos, n_frames))
    rows = [answerer_visual[video, torch.from_numpy(row)] for video, row in zip(videos, frames, strict=True)]
    n_options = [len(reference.sizes["answer_id"])] * len(rows)
    prefixes = numbered_frame_prefixes(frames.shape[1])
    output = answerer.answer(torch.stack(rows), reference.tokens("qa_input").token_ids, n_options, prefixes)
    return {
        "features": _difference(features.cpu().numpy(), golden["A_vit_out"]),
        "logit_yes": _difference(yes, golden["A_loc_yes_logit"]),
        "option_logits": _difference(output.option_logits.float().cpu().numpy(), golden["A_qa_answer_logits"]),
        "tolerance": TOLERANCE[precision],
        "keyframes_changed": int((np.sort(chosen) != np.sort(frames)).any(axis=1).sum()),
        "answers_changed": int((output.prediction.cpu().numpy() != golden["A_pred"]).sum()),
        "questions": len(videos),
    }


def _difference(values: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(values.reshape(expected.shape) - expected).max())
