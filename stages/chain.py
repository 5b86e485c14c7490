"""The paper's Figure 1 as code: which stage feeds which, for any `step` callable (a plain call, or a Prefect task)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline.datasets import adapter_named
from pipeline.recipe import Recipe
from pipeline.sources import Sources, Weights
from stages.answer_questions import answer_questions
from stages.evaluate import evaluate
from stages.extract_features import extract_features
from stages.import_backbone import import_backbone
from stages.init_answerer import init_answerer
from stages.init_localizer import init_localizer
from stages.list_questions import list_questions
from stages.sample_frames import sample_frames
from stages.score_frames import score_frames
from stages.select_keyframes import select_keyframes

Step = Callable[..., Any]  # step(stage, *inputs) -> artifact


def forward(recipe: Recipe, step: Step, sources: Sources) -> Any:
    """Inference: questions -> frames -> features -> scores -> keyframes -> answers -> metrics."""
    listing = recipe.config(list_questions)
    questions = step(
        list_questions,
        sources.annotations(listing.dataset, lambda path: adapter_named(listing.dataset).files(path, listing.split)),
    )
    frames = step(sample_frames, sources.videos(listing.dataset, questions))
    backbone = step(import_backbone, sources.weights(recipe.config(import_backbone).weights))
    features = step(extract_features, frames, backbone)
    scores = None
    if recipe.config(select_keyframes).method == "localizer":
        localizer = step(init_localizer, backbone, _checkpoint(sources, recipe.config(init_localizer).weights))
        scores = step(score_frames, questions, frames, features, backbone, localizer)
    keyframes = step(select_keyframes, questions, frames, scores)
    answerer = step(init_answerer, backbone, _checkpoint(sources, recipe.config(init_answerer).weights))
    answers = step(answer_questions, questions, keyframes, features, backbone, answerer)
    return step(evaluate, questions, answers)


def _checkpoint(sources: Sources, name: str) -> Weights | None:
    return sources.weights(name) if name else None
