"""The paper's Figures 1 and 3 as code: which stage feeds which, for any `step` callable (a plain call, or a Prefect task)."""

from collections.abc import Callable
from typing import Any

from pipeline.engine.recipe import Recipe
from pipeline.engine.sources import Sources
from pipeline.engine.steps import Step
from pipeline.inference.backbone import Backbone
from pipeline.recipes import checks
from pipeline.recipes.results import Choice, Results, Split, SplitArtifacts, Way, choices
from stages.all import STAGES as STAGES
from stages.answer_questions import answer_questions
from stages.evaluate import Metrics, evaluate
from stages.evaluate_localization import evaluate_localization
from stages.evaluate_moments import MomentMetrics, evaluate_moments
from stages.extract_features import extract_features
from stages.finetune_answerer import finetune_answerer
from stages.import_backbone import import_backbone
from stages.init_answerer import AnswererWeights, init_answerer
from stages.init_localizer import LocalizerWeights, init_localizer
from stages.label_frames import label_frames
from stages.list_questions import Questions, list_questions
from stages.pretrain_localizer import pretrain_localizer
from stages.refine_localizer import refine_localizer
from stages.retrieve_moments import retrieve_moments
from stages.sample_frames import sample_frames
from stages.score_frames import FrameScores, score_frames
from stages.select_keyframes import Keyframes, select_keyframes
from stages.train_backbone import train_backbone


def chain_of(recipe: Recipe) -> Callable[[Recipe, Step, Sources], Results | Metrics | MomentMetrics]:
    """Return `full`, which returns `Results`, or `forward`, which returns metrics: always for queries, which have no answers."""
    return full if recipe.chain.kind == "full" and not checks.asks_for_moments(recipe) else forward


def forward(recipe: Recipe, step: Step, sources: Sources) -> Metrics | MomentMetrics:
    """Figure 1: questions -> frames -> features -> scores -> keyframes -> answers -> metrics; queries: scores -> moments."""
    evaluation, training, _ = checks.splits_of(recipe)
    questions = step(list_questions, evaluation.annotations(sources))
    known = step(list_questions, training.annotations(sources), **training.where) if training else None
    checks.check_questions(recipe, sources, questions, None, known)
    backbone, localizer, answerer = _released(recipe, step, sources)
    if training and known:  # paper section 4.5: moments of other queries
        localizer = step(pretrain_localizer, *_features(step, sources, training, known, backbone), localizer)
    frames = step(sample_frames, sources.videos(evaluation.dataset, questions))
    features = step(extract_features, frames, backbone)
    scores = step(score_frames, questions, frames, features, backbone, localizer) if localizer else None
    keyframes = step(select_keyframes, questions, frames, scores)
    if checks.knows_moments(questions):
        step(evaluate_localization, questions, frames, scores, keyframes)
    if answerer is None:
        return step(evaluate_moments, questions, step(retrieve_moments, questions, frames, scores))
    answers = step(answer_questions, questions, keyframes, features, backbone, answerer)
    return step(evaluate, questions, answers)


def full(recipe: Recipe, step: Step, sources: Sources) -> Results:
    """Figure 3: the Localizer learns from moments, then from the Answerer, which learns from the keyframes chosen for it."""
    splits = evaluation, training, pretraining = checks.splits_of(recipe)
    listed = {one: one and step(list_questions, one.annotations(sources), **one.where) for one in dict.fromkeys(splits)}
    asked, known, moments = (listed[one] for one in splits)
    checks.check_questions(recipe, sources, asked, known, moments)  # before a backbone is trained
    backbone, localizer, answerer = _released(recipe, step, sources)
    evaluated = _features(step, sources, evaluation, asked, backbone)
    learned = _features(step, sources, training, known, backbone)
    newest, results = answerer, Results(asked)
    for choice in choices(recipe.chain):  # of keyframes: uniform, ..., by the Localizer untrained, pretrained, refined
        if choice.selector == "pretrained" and pretraining:
            clips = learned if pretraining == training else _features(step, sources, pretraining, moments, backbone)
            localizer = step(pretrain_localizer, *clips, localizer)
            results.trained("Localizer, pre-trained", localizer)
        elif choice.selector == "refined":
            labels = step(label_frames, *learned, newest, setting=choice.round)
            localizer = step(refine_localizer, *learned, localizer, labels, setting=choice.round)
            results.refined(choice, labels, localizer)
        scorer = localizer if choice.uses_localizer else None
        if choice.selector == "untrained" and recipe.config(init_localizer).weights:
            scorer = step(init_localizer, backbone, None, setting="untrained", weights="")
        if choice.selector in recipe.chain.selectors:  # else pre-trained only to be refined
            name, localization = choice.name, None
            scores, keyframes = _keyframes(step, evaluated, scorer, choice, name)
            if checks.knows_moments(asked):
                localization = step(evaluate_localization, asked, evaluated.frames, scores, keyframes, setting=name)
            for way in choice.zero_shot:
                results.add(way, _metrics(step, way, evaluated, keyframes, answerer), localization)
            _, lessons = _keyframes(step, learned, scorer, choice, f"{name}, training split")
            tuned = step(finetune_answerer, known, lessons, learned.features, backbone, newest, setting=name)
            results.tuned(choice, tuned, _metrics(step, choice.tuned, evaluated, keyframes, tuned), localization)
            newest = tuned if choice.selector == "refined" else newest
    return results


def _released(recipe: Recipe, step: Step, sources: Sources) -> tuple[Backbone, LocalizerWeights | None, Any]:
    """Return backbone, Localizer and Answerer as they come, before any training of the two; None for one without use."""
    weights, is_trained = checks.weights_of(recipe, sources), recipe.chain.backbone == "trained"
    backbone = step(train_backbone) if is_trained else step(import_backbone, weights(import_backbone))
    checks.check_frame_size(recipe, backbone)
    localizer = step(init_localizer, backbone, weights(init_localizer)) if checks.uses_localizer(recipe) else None
    answerer = step(init_answerer, backbone, weights(init_answerer)) if checks.uses_answerer(recipe) else None
    return backbone, localizer, answerer


def _features(step: Step, sources: Sources, split: Split, questions: Questions, backbone: Backbone) -> SplitArtifacts:
    frames = step(sample_frames, sources.videos(split.dataset, questions), setting=split.name)
    return SplitArtifacts(questions, frames, step(extract_features, frames, backbone, setting=split.name), backbone)


def _keyframes(
    step: Step, split: SplitArtifacts, localizer: LocalizerWeights | None, choice: Choice, setting: str
) -> tuple[FrameScores | None, Keyframes]:
    scores = step(score_frames, *split, localizer, setting=setting) if localizer else None
    return scores, step(select_keyframes, split.questions, split.frames, scores, setting=setting, **choice.changes)


def _metrics(step: Step, way: Way, split: SplitArtifacts, keyframes: Keyframes, answerer: AnswererWeights) -> Metrics:
    read = (split.questions, keyframes, split.features, split.backbone, answerer)
    answers = step(answer_questions, *read, setting=way.name, method=way.method)
    return step(evaluate, split.questions, answers, setting=way.name)
