"""One question about one video: Figure 1 without the evaluation, for any `step` callable; see `chain.py`."""

from typing import NamedTuple, cast

import stages.all as stages
from cache.errors import SevilaError
from pipeline.engine.recipe import Recipe
from pipeline.engine.sources import Sources
from pipeline.engine.stage import Artifact
from pipeline.engine.steps import Step
from pipeline.loaded_models import keeping_models
from pipeline.recipes import checks, requirements
from pipeline.recipes.requirements import SplitArtifacts
from stages.answer_questions import Answers
from stages.generate_answers import GeneratedAnswers
from stages.init_answerer import AnswererWeights
from stages.init_localizer import LocalizerWeights
from stages.list_questions import Questions
from stages.replaceable import initial_models, run_scorer
from stages.sample_frames import Frames
from stages.score_frames import FrameScores
from stages.select_keyframes import Keyframes


class TrainedParts(NamedTuple):
    """Trained weights from the store that replace those of the recipe."""

    localizer: LocalizerWeights | None = None
    answerer: AnswererWeights | None = None


class AskArtifacts(NamedTuple):
    """The artifacts of one question; `scores` is None if the selector uses none."""

    questions: Questions
    frames: Frames
    scores: FrameScores | None
    keyframes: Keyframes
    answers: Answers | GeneratedAnswers


@keeping_models()
def ask(recipe: Recipe, step: Step, sources: Sources, trained: TrainedParts, has_options: bool) -> AskArtifacts:
    """Run Figure 1 up to the answers; open answers if the questions have no options.

    Raises:
        RecipeError: the chain cannot work.
        SevilaError: another model answers, or the trained weights belong to another backbone.
    """
    checks.check_chain(recipe)
    if requirements.uses_vlm(recipe):
        raise SevilaError("[chain] answerer: one question is answered by the Answerer; `sevila run` asks other models")
    split = requirements.splits_of(recipe).test
    questions = step(stages.list_questions, split.annotations(sources))
    backbone, localizer, answerer = initial_models(recipe, step, sources, *trained)
    _refuse_other_backbone(trained, backbone)
    if answerer is None:  # a chain for moments has none, but the question is answered
        weights = requirements.weights_of(recipe, sources, stages.init_answerer)
        answerer = trained.answerer or step(stages.init_answerer, backbone, weights)
    frames = step(stages.sample_frames, sources.videos(split.dataset, questions))
    features = step(stages.extract_features, frames, backbone, *requirements.queried_by(recipe, localizer, answerer))
    scores, vectors = run_scorer(
        recipe, step, sources, SplitArtifacts(questions, frames, features, backbone), localizer
    )
    keyframes = step(stages.select_keyframes, questions, frames, scores, vectors)
    answer = stages.answer_questions if has_options else stages.generate_answers
    answers = cast(Answers | GeneratedAnswers, step(answer, questions, keyframes, features, backbone, answerer))
    return AskArtifacts(questions, frames, cast(FrameScores | None, scores), keyframes, answers)


def _refuse_other_backbone(trained: TrainedParts, backbone: Artifact) -> None:
    for weights in filter(None, trained):
        if backbone.id and weights.record.inputs.get("backbone") != backbone.id:
            raise SevilaError(
                f"{weights.id} belongs to backbone {weights.record.inputs.get('backbone')}; expected {backbone.id}; give the "
                "--weights of that backbone, or none of its trained weights"
            )
