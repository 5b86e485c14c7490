"""The paper's Figures 1 and 3 as code: which stage feeds which, for any `step` callable (a plain call, or a Prefect task)."""

from collections.abc import Callable
from functools import partial

import stages.all as stages
from pipeline.engine.recipe import Recipe
from pipeline.engine.sources import Sources
from pipeline.engine.stage import Artifact
from pipeline.engine.steps import Step
from pipeline.recipes import checks, requirements
from pipeline.recipes.requirements import Released, Split, SplitArtifacts, queried_by, splits_of
from pipeline.recipes.results import Choice, Results, Setup, choices_without_localizer, rounds_of_refinement
from stages.evaluate import Metrics
from stages.evaluate_moments import MomentMetrics
from stages.scoring import scored


def chain_of(recipe: Recipe) -> Callable[[Recipe, Step, Sources], Results | Metrics | MomentMetrics]:
    """Return `full`, which returns `Results`, or `forward`, which returns metrics: always for queries, which have no answers."""
    return full if recipe.chain.kind == "full" and not requirements.asks_for_moments(recipe) else forward


def forward(recipe: Recipe, step: Step, sources: Sources) -> Metrics | MomentMetrics:
    """Figure 1: questions -> frames -> features -> scores -> keyframes -> answers -> metrics; queries: scores -> moments."""
    checks.check_chain(recipe)
    splits = splits_of(recipe)
    questions = step(stages.list_questions, splits.test.annotations(sources))
    train_queries = _questions(step, sources, splits.train) if recipe.chain.kind == "full" else None
    checks.check_questions(recipe, sources, questions, train_queries)
    backbone, localizer, answerer = _released(recipe, step, sources)
    if train_queries:  # paper section 4.5: moments of other queries
        train = _features(step, sources, splits.train, train_queries, backbone)
        localizer = step(stages.pretrain_localizer, *train, localizer)
    frames = step(stages.sample_frames, sources.videos(splits.test.dataset, questions))
    features = step(stages.extract_features, frames, backbone, *queried_by(recipe, localizer, answerer))
    scores, vectors = scored(recipe, step, sources, SplitArtifacts(questions, frames, features, backbone), localizer)
    keyframes = step(stages.select_keyframes, questions, frames, scores, vectors)
    if requirements.knows_moments(questions):
        step(stages.evaluate_localization, questions, frames, scores, keyframes)
    if not answerer:
        return step(stages.evaluate_moments, questions, step(stages.retrieve_moments, questions, frames, scores))
    answers = step(stages.answer_questions, questions, keyframes, features, backbone, answerer)
    return step(stages.evaluate, questions, answers)


def full(recipe: Recipe, step: Step, sources: Sources) -> Results:
    """Figure 3: the Localizer learns from moments, then from the Answerer, which learns from the keyframes chosen for it."""
    checks.check_chain(recipe)
    splits = splits_of(recipe)
    test_questions, train_questions = _questions(step, sources, splits.test), _questions(step, sources, splits.train)
    pretraining_questions = _questions(step, sources, splits.pretraining) if splits.pretraining else train_questions
    checks.check_questions(recipe, sources, test_questions, train_questions, pretraining_questions)
    backbone, localizer, answerer = _released(recipe, step, sources)
    test = _features(step, sources, splits.test, test_questions, backbone)
    train = _features(step, sources, splits.train, train_questions, backbone)
    setup = Setup(step, test, train, answerer, results := Results(test_questions))

    for choice in choices_without_localizer(recipe.chain):  # baselines and upper bounds
        _tune_and_evaluate(setup, choice, None, answerer)
    if "untrained" in recipe.chain.selectors:
        is_blank = not recipe.config(stages.init_localizer).weights
        blank = localizer if is_blank else step(stages.init_localizer, backbone, None, setting="untrained", weights="")
        _tune_and_evaluate(setup, Choice("untrained"), blank, answerer)

    if requirements.pretrains_localizer(recipe):  # on moments
        other = splits.pretraining
        pretraining = _features(step, sources, other, pretraining_questions, backbone) if other else train
        localizer = step(stages.pretrain_localizer, *pretraining, localizer)
        results.trained("Localizer, pre-trained", localizer)
    if "pretrained" in recipe.chain.selectors:
        _tune_and_evaluate(setup, Choice("pretrained"), localizer, answerer)

    for choice in rounds_of_refinement(recipe.chain):  # on what the Answerer says of single frames
        labels = step(stages.label_frames, *train, answerer, setting=choice.round)
        localizer = step(stages.refine_localizer, *train, localizer, labels, setting=choice.round)
        results.refined(choice, labels, localizer)
        answerer = _tune_and_evaluate(setup, choice, localizer, answerer)
    return results


def _released(recipe: Recipe, step: Step, sources: Sources) -> Released:
    given, trains = partial(requirements.weights_of, recipe, sources), recipe.chain.backbone == "trained"
    backbone = step(stages.train_backbone) if trains else step(stages.import_backbone, given(stages.import_backbone))
    checks.check_frame_size(recipe, backbone)
    uses_localizer, uses_answerer = requirements.uses_localizer(recipe), requirements.uses_answerer(recipe)
    localizer = step(stages.init_localizer, backbone, given(stages.init_localizer)) if uses_localizer else None
    answerer = step(stages.init_answerer, backbone, given(stages.init_answerer)) if uses_answerer else None
    return Released(backbone, localizer, answerer)


def _questions(step: Step, sources: Sources, split: Split) -> Artifact:
    return step(stages.list_questions, split.annotations(sources), **split.where)


def _features(step: Step, sources: Sources, split: Split, questions: Artifact, backbone: Artifact) -> SplitArtifacts:
    frames = step(stages.sample_frames, sources.videos(split.dataset, questions), setting=split.name)
    features = step(stages.extract_features, frames, backbone, None, None, setting=split.name)
    return SplitArtifacts(questions, frames, features, backbone)


def _tune_and_evaluate(on: Setup, choice: Choice, scorer: Artifact | None, answerer: Artifact | None) -> Artifact:
    """Answer zero-shot from the keyframes chosen; fine-tune `answerer` on keyframes chosen so, answer with it and return it."""
    step, test, train, released, results = on
    name, of_train, localization = choice.name, f"{choice.name}, training split", None
    scores = step(stages.score_frames, *test, scorer, setting=name) if scorer else None
    keyframes = step(stages.select_keyframes, *test.videos, scores, None, setting=name, **choice.changes)
    if requirements.knows_moments(test.questions):
        localization = step(stages.evaluate_localization, *test.videos, scores, keyframes, setting=name)
    for way in choice.zero_shot:
        answers = step(stages.answer_questions, *test.read(keyframes), released, setting=way.name, method=way.method)
        results.add(way, step(stages.evaluate, test.questions, answers, setting=way.name), localization)
    train_scores = step(stages.score_frames, *train, scorer, setting=of_train) if scorer else None
    for_tuning = step(stages.select_keyframes, *train.videos, train_scores, None, setting=of_train, **choice.changes)
    tuned = step(stages.finetune_answerer, *train.read(for_tuning), answerer, setting=name)
    results.trained(f"Answerer, {name}", tuned)
    way = choice.tuned
    answers = step(stages.answer_questions, *test.read(keyframes), tuned, setting=way.name, method=way.method)
    results.add(way, step(stages.evaluate, test.questions, answers, setting=way.name), localization)
    return tuned
