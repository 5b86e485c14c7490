"""The paper's Figure 1 as code: which stage feeds which, for any `step` callable (a plain call, or a Prefect task)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from cache.errors import RecipeError
from pipeline.datasets import adapter_named
from pipeline.recipe import Recipe
from pipeline.sources import Sources, Weights
from pipeline.stage import Stage
from stages.answer_questions import answer_questions
from stages.evaluate import evaluate
from stages.evaluate_localization import evaluate_localization
from stages.evaluate_moments import evaluate_moments
from stages.extract_features import extract_features
from stages.finetune_answerer import finetune_answerer  # noqa: F401
from stages.import_backbone import Backbone, import_backbone
from stages.init_answerer import init_answerer
from stages.init_localizer import init_localizer
from stages.list_questions import Questions, list_questions
from stages.pretrain_localizer import pretrain_localizer  # noqa: F401
from stages.refine_localizer import refine_localizer  # noqa: F401
from stages.retrieve_moments import retrieve_moments
from stages.sample_frames import sample_frames
from stages.score_frames import score_frames
from stages.select_keyframes import select_keyframes

log = logging.getLogger("sevila")

Step = Callable[..., Any]  # step(stage, *inputs) -> artifact


def forward(recipe: Recipe, step: Step, sources: Sources) -> Any:
    """Inference: questions -> frames -> features -> scores -> keyframes -> answers -> metrics.

    Queries that ask for moments of the video have no options to answer with: scores -> moments -> metrics.
    """
    listing = recipe.config(list_questions)
    _tell_odd_prompts(recipe)
    asks_for_moments = recipe.config(score_frames).prompt == "moment"
    uses_localizer = asks_for_moments or recipe.config(select_keyframes).method == "localizer"

    # Weights come first: a wrong file is found before hours of decoding.
    backbone = step(import_backbone, sources.weights(recipe.config(import_backbone).weights))
    _check_frame_size(backbone, recipe.config(sample_frames).size)
    localizer = None
    if uses_localizer:
        localizer = step(init_localizer, backbone, _checkpoint(recipe, init_localizer, sources))
    answerer = None if asks_for_moments else step(init_answerer, backbone, _checkpoint(recipe, init_answerer, sources))

    questions = step(list_questions, sources.annotations(listing.dataset, listing.split))
    frames = step(sample_frames, sources.videos(listing.dataset, questions))
    features = step(extract_features, frames, backbone)
    scores = step(score_frames, questions, frames, features, backbone, localizer) if localizer else None
    keyframes = step(select_keyframes, questions, frames, scores)
    if _knows_moments(questions):
        step(evaluate_localization, questions, frames, scores, keyframes)
    if asks_for_moments:
        return step(evaluate_moments, questions, step(retrieve_moments, questions, frames, scores))
    answers = step(answer_questions, questions, keyframes, features, backbone, answerer)
    return step(evaluate, questions, answers)


def _knows_moments(questions: Questions) -> bool:
    """Whether keyframes can be judged by true moments; a plan may not have the questions."""
    exists = questions.id is not None and questions.store.exists(questions.id)
    return exists and questions.record.rows["moments"] > 0


def _tell_odd_prompts(recipe: Recipe) -> None:
    """Warn where a data set's questions are asked with the prompt of another kind: an experiment perhaps, or a slip."""
    dataset = recipe.config(list_questions).dataset
    wanted = adapter_named(dataset).about.prompt
    found = {score_frames.name: recipe.config(score_frames).prompt}
    if found[score_frames.name] != "moment":  # else nobody is asked for an answer
        found[answer_questions.name] = recipe.config(answer_questions).prompt
    for name, prompt in found.items():
        if wanted and prompt != wanted:
            log.warning("[%s] prompt = %r, but the questions of %s are of kind %r", name, prompt, dataset, wanted)


def _check_frame_size(backbone: Backbone, size: int) -> None:
    """Find frames that the ViT cannot read before they are decoded; a plan may not have a backbone yet."""
    if backbone.id is not None and backbone.store.exists(backbone.id):
        wanted = backbone.description()["image_size"]
        if size != wanted:
            mend = f"--set sample_frames.size={wanted}"
            raise RecipeError(
                f"[sample_frames] size = {size}, but the ViT of these weights reads {wanted} pixels: {mend}"
            )


def _checkpoint(recipe: Recipe, stage: Stage, sources: Sources) -> Weights | None:
    name = recipe.config(stage).weights
    return sources.weights(name) if name else None
