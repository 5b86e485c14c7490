"""The steps that a recipe can replace: models, frame scores and vectors, keyframes, and answers."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import stages.all as stages
from pipeline.engine.recipe import Recipe
from pipeline.engine.sources import Sources, VideoFiles
from pipeline.engine.stage import Artifact
from pipeline.engine.steps import Step
from pipeline.recipes import checks, requirements
from pipeline.recipes.requirements import InitialModels, SplitArtifacts
from pipeline.recipes.results import Choice, ChosenKeyframes, Setup
from stages.extensions import NAMED_WEIGHTS, backbone_stage, scorer_stage
from stages.score_frames import FrameScores


class ScorerOutput(NamedTuple):
    """The inputs of keyframe selection: scores, and vectors of frames; None for one that the selector does not use."""

    scores: Artifact | None
    vectors: Artifact | None


def initial_models(
    recipe: Recipe,
    step: Step,
    sources: Sources,
    trained_localizer: Artifact | None = None,
    trained_answerer: Artifact | None = None,
) -> InitialModels:
    """Return the recipe's backbone, and its Localizer and Answerer if the chain uses them, or trained ones instead."""
    weights_of, make_backbone = partial(requirements.weights_of, recipe, sources), backbone_stage(stages.STAGES, recipe)
    backbone = step(make_backbone, *(weights_of(make_backbone) for _ in make_backbone.inputs))
    checks.check_frame_size(recipe, backbone)
    localizer = answerer = None
    if requirements.uses_localizer(recipe):
        localizer = trained_localizer or step(stages.init_localizer, backbone, weights_of(stages.init_localizer))
    if requirements.uses_answerer(recipe):
        answerer = trained_answerer or step(stages.init_answerer, backbone, weights_of(stages.init_answerer))
    return InitialModels(backbone, localizer, answerer)


def run_scorer(
    recipe: Recipe, step: Step, sources: Sources, split: SplitArtifacts, localizer: Artifact | None
) -> ScorerOutput:
    """Return the scores of the recipe's `[chain] scorer`, and the vectors of frames: CLIP's if it scores, else features."""
    scores: Artifact | None = None
    weights_of, vectors = partial(requirements.weights_of, recipe, sources), split.features
    match requirements.scorer_of(recipe):
        case "localizer":
            scores = step(stages.score_frames, *split, localizer)
        case "imported":
            files = sources.scores(recipe.config(stages.import_scores).scores)
            scores = step(stages.import_scores, *split.videos, files)
        case "clip":
            embedder = step(stages.import_embedder, weights_of(stages.import_embedder))
            vectors = step(stages.embed_frames, split.frames, embedder)
            scores = step(stages.score_by_similarity, *split.videos, vectors, embedder)
        case "itm":
            matcher = step(stages.import_matcher, weights_of(stages.import_matcher))
            features = step(
                stages.extract_features, split.frames, matcher, None, None, setting="for matching", level="features"
            )
            scores = step(stages.score_by_matching, *split.videos, features, matcher)
        case name if name:
            stage = scorer_stage(stages.STAGES, FrameScores, name)
            inputs = (weights_of(stage) if key == NAMED_WEIGHTS else getattr(split, key) for key in stage.inputs)
            scores = step(stage, *inputs)
    return ScorerOutput(scores, vectors if requirements.compares_vectors(recipe) else None)


def choose_keyframes(
    step: Step, setup: Setup, split: SplitArtifacts, choice: Choice, scorer: Artifact | None, setting: str
) -> ChosenKeyframes:
    """Return the full chain's keyframes for a choice, and the scores of the Localizer or trained selector, if it uses any."""
    scores: Artifact | None = None
    if choice.is_trained_selector:
        scores = step(stages.score_by_selector, *split, setup.answerer, scorer, setting=setting)
    elif scorer:
        scores = step(stages.score_frames, *split, scorer, setting=setting)
    return ChosenKeyframes(
        scores, step(stages.select_keyframes, *split.videos, scores, None, setting=setting, **choice.changes)
    )


def run_answerer(
    recipe: Recipe,
    step: Step,
    sources: Sources,
    split: SplitArtifacts,
    keyframes: Artifact,
    videos: VideoFiles,
    answerer: Artifact | None,
) -> Artifact:
    """Return the answers of the recipe's `[chain] answerer` from these keyframes."""
    if requirements.uses_vlm(recipe):
        vlm = requirements.vlm_of(recipe, sources)
        return step(stages.answer_with_vlm, *split.videos, keyframes, videos, vlm)
    return step(stages.answer_questions, *split.read(keyframes), answerer)
