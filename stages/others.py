"""Figure 1 where others stand in the Localizer's or the Answerer's place: who scores, whose vectors are compared, who answers."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import stages.all as stages
from pipeline.engine.recipe import Recipe
from pipeline.engine.sources import Sources, VideoFiles
from pipeline.engine.stage import Artifact
from pipeline.engine.steps import Step
from pipeline.recipes import checks, requirements
from pipeline.recipes.requirements import Released, SplitArtifacts
from pipeline.recipes.results import Choice, Picked, Setup
from stages.extensions import NAMED_WEIGHTS, backbone_stage, scorer_stage
from stages.score_frames import FrameScores


class Scored(NamedTuple):
    """What keyframes are selected by: scores, and vectors where the selector compares them; None where nobody looks at them."""

    scores: Artifact | None
    vectors: Artifact | None


def released(recipe: Recipe, step: Step, sources: Sources) -> Released:
    """Return the ViT, the Localizer and the Answerer as the recipe names them, those that its chain uses."""
    given, maker = partial(requirements.weights_of, recipe, sources), backbone_stage(stages.STAGES, recipe)
    backbone = step(maker, *(given(maker) for _ in maker.inputs))
    checks.check_frame_size(recipe, backbone)
    localizer = answerer = None
    if requirements.uses_localizer(recipe):
        localizer = step(stages.init_localizer, backbone, given(stages.init_localizer))
    if requirements.uses_answerer(recipe):
        answerer = step(stages.init_answerer, backbone, given(stages.init_answerer))
    return Released(backbone, localizer, answerer)


def scored(recipe: Recipe, step: Step, sources: Sources, on: SplitArtifacts, localizer: Artifact | None) -> Scored:
    """Return the scores by whom `[chain] scorer` names, and the vectors of frames: CLIP's where that scores, else features."""
    scores: Artifact | None = None
    given, vectors = partial(requirements.weights_of, recipe, sources), on.features
    match requirements.scorer_of(recipe):
        case "localizer":
            scores = step(stages.score_frames, *on, localizer)
        case "imported":
            files = sources.scores(recipe.config(stages.import_scores).scores)
            scores = step(stages.import_scores, *on.videos, files)
        case "clip":
            embedder = step(stages.import_embedder, given(stages.import_embedder))
            vectors = step(stages.embed_frames, on.frames, embedder)
            scores = step(stages.score_by_similarity, *on.videos, vectors, embedder)
        case "itm":
            matcher = step(stages.import_matcher, given(stages.import_matcher))
            features = step(
                stages.extract_features, on.frames, matcher, None, None, setting="for matching", level="features"
            )
            scores = step(stages.score_by_matching, *on.videos, features, matcher)
        case name if name:
            by = scorer_stage(stages.STAGES, FrameScores, name)
            scores = step(by, *(given(by) if each == NAMED_WEIGHTS else getattr(on, each) for each in by.inputs))
    return Scored(scores, vectors if requirements.compares_vectors(recipe) else None)


def picked(
    step: Step, on: Setup, split: SplitArtifacts, choice: Choice, scorer: Artifact | None, setting: str
) -> Picked:
    """Return the keyframes of the full chain for a choice, and their scores: a Localizer's, a trained selector's, or nobody's."""
    scores: Artifact | None = None
    if choice.is_trained_selector:
        scores = step(stages.score_by_selector, *split, on.answerer, scorer, setting=setting)
    elif scorer:
        scores = step(stages.score_frames, *split, scorer, setting=setting)
    return Picked(scores, step(stages.select_keyframes, *split.videos, scores, None, setting=setting, **choice.changes))


def answered(
    recipe: Recipe,
    step: Step,
    sources: Sources,
    on: SplitArtifacts,
    keyframes: Artifact,
    videos: VideoFiles,
    answerer: Artifact | None,
) -> Artifact:
    """Return the answers of whom `[chain] answerer` names, from these keyframes."""
    if requirements.uses_vlm(recipe):
        vlm = requirements.vlm_of(recipe, sources)
        return step(stages.answer_with_vlm, *on.videos, keyframes, videos, vlm)
    return step(stages.answer_questions, *on.read(keyframes), answerer)
