"""The paper's Figures 1 and 3 as code: the graph of stages, for any `step` callable (a plain call, or a Prefect task)."""

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

import stages.all as stages
from pipeline.engine.branches import as_one
from pipeline.engine.recipe import Recipe
from pipeline.engine.sources import Sources
from pipeline.engine.stage import Artifact
from pipeline.engine.steps import Step
from pipeline.loaded_models import keeping_models
from pipeline.recipes import checks, requirements
from pipeline.recipes import results as choices
from pipeline.recipes.requirements import InitialModels, Split, SplitArtifacts, splits_of
from pipeline.recipes.results import Choice, EvaluatedRow, Results, Setting, Setup
from stages.extensions import with_appended
from stages.replaceable import choose_keyframes, initial_models, run_answerer, run_scorer


def chain_of(recipe: Recipe) -> Callable[[Recipe, Step, Sources], Results | Artifact]:
    """Return the recipe's chain: `full`, which returns `Results`, or `forward`, which returns metrics (always for queries)."""
    return keeping_models()(full if requirements.evaluates_settings(recipe) else with_appended(stages.STAGES, forward))


def forward(recipe: Recipe, step: Step, sources: Sources) -> Artifact:
    """Figure 1: questions -> frames -> features -> scores -> keyframes -> answers -> metrics; queries: scores -> moments."""
    checks.check_chain(recipe)
    splits = splits_of(recipe)
    questions = step(stages.list_questions, splits.test.annotations(sources))
    train_queries = _questions(step, sources, splits.train) if recipe.chain.kind == "full" else None
    checks.check_questions(recipe, sources, questions, train_queries)
    uses_features = requirements.reads_features(recipe)
    backbone, localizer, answerer = initial_models(recipe, step, sources) if uses_features else InitialModels()
    if train_queries:  # paper section 4.5: moments of other queries
        train = _features(step, sources, splits.train, train_queries, backbone)
        localizer = step(stages.pretrain_localizer, *train, localizer)
    frames = step(stages.sample_frames, videos := sources.videos(splits.test.dataset, questions))
    queried = requirements.queried_by(recipe, localizer, answerer)
    features = step(stages.extract_features, frames, backbone, *queried) if uses_features else None
    test = SplitArtifacts(questions, frames, features, backbone)
    scores, vectors = run_scorer(recipe, step, sources, test, localizer)
    keyframes = step(stages.select_keyframes, questions, frames, scores, vectors)
    if requirements.knows_moments(questions):
        step(stages.evaluate_localization, questions, frames, scores, keyframes)
    if requirements.asks_for_moments(recipe):
        return step(stages.evaluate_moments, questions, step(stages.retrieve_moments, questions, frames, scores))
    return step(stages.evaluate, questions, run_answerer(recipe, step, sources, test, keyframes, videos, answerer))


def full(recipe: Recipe, step: Step, sources: Sources) -> Results:
    """Figure 3, the reverse chain: train the Localizer on moments, then refine it with the Answerer's labels, round by round.

    Each choice of keyframes is a row of results: the Answerer is fine-tuned on them and evaluated. Rows may run in parallel.
    """
    checks.check_chain(recipe)
    splits = splits_of(recipe)
    test_questions, train_questions = _questions(step, sources, splits.test), _questions(step, sources, splits.train)
    queries = _questions(step, sources, splits.pretraining) if splits.pretraining else train_questions
    checks.check_questions(recipe, sources, test_questions, train_questions, queries)
    backbone, localizer, answerer = initial_models(recipe, step, sources)
    test = _features(step, sources, splits.test, test_questions, backbone)
    train = _features(step, sources, splits.train, train_questions, backbone)
    results, tune_and_evaluate = Results(test_questions), partial(_future_row, step, Setup(test, train, answerer))
    for choice in choices.baselines(recipe.chain):  # keyframes without scores
        results.add(tune_and_evaluate(choice, None, answerer))
    for choice in choices.learned(recipe.chain):  # trained selectors
        named = {"setting": choice.name, "selector": choice.selector}
        results.trained(f"selector, {choice.name}", selector := step(stages.train_selector, *train, answerer, **named))
        results.add(tune_and_evaluate(choice, selector, answerer))
    if "untrained" in recipe.chain.selectors:
        is_blank = not recipe.config(stages.init_localizer).weights
        blank = localizer if is_blank else step(stages.init_localizer, backbone, None, setting="untrained", weights="")
        results.add(tune_and_evaluate(choices.UNTRAINED, blank, answerer))
    if requirements.pretrains_localizer(recipe):  # Localizer, on moments
        pretraining = _features(step, sources, splits.pretraining, queries, backbone) if splits.pretraining else train
        localizer = step(stages.pretrain_localizer, *pretraining, localizer)
        results.trained("Localizer, pre-trained", localizer)
    if "pretrained" in recipe.chain.selectors:
        results.add(tune_and_evaluate(choices.PRETRAINED, localizer, answerer))
    for choice in choices.refinements(recipe.chain):  # Localizer, on the Answerer's answers from single frames
        labels = step(stages.label_frames, *train, answerer, setting=choice.round)
        localizer = step(stages.refine_localizer, *train, localizer, labels, setting=choice.round)
        results.refined(choice, labels, localizer)
        answerer = results.add(tune_and_evaluate(choice, localizer, answerer)).result().answerer
    return results


def _questions(step: Step, sources: Sources, split: Split) -> Artifact:
    return step(stages.list_questions, split.annotations(sources), setting=split.name, **split.config)


def _features(step: Step, sources: Sources, split: Split, questions: Artifact, backbone: Artifact) -> SplitArtifacts:
    frames = step(stages.sample_frames, sources.videos(split.dataset, questions), setting=split.name)
    features = step(stages.extract_features, frames, backbone, None, None, setting=split.name)
    return SplitArtifacts(questions, frames, features, backbone)


def _future_row(
    step: Step, setup: Setup, choice: Choice, scorer: Artifact | None, answerer: Artifact | None
) -> Future[EvaluatedRow]:
    def tune_and_evaluate(step: Step) -> EvaluatedRow:
        chosen = choose_keyframes(step, setup, setup.train, choice, scorer, f"{choice.name}, training split")
        tuned = step(stages.finetune_answerer, *setup.train.read(chosen.keyframes), answerer, setting=choice.name)
        return EvaluatedRow(choice, tuned, _evaluate(step, setup, choice, scorer, tuned))

    return as_one(step, choice.name, (*setup.train, *setup.test, setup.answerer, answerer, scorer), tune_and_evaluate)


def _evaluate(step: Step, setup: Setup, choice: Choice, scorer: Artifact | None, tuned: Artifact) -> list[Setting]:
    test, settings, localized = setup.test, [], None
    chosen = choose_keyframes(step, setup, test, choice, scorer, choice.name)
    if requirements.knows_moments(test.questions):
        localized = step(stages.evaluate_localization, *test.videos, *chosen, setting=choice.name)
    for mode in (*choice.zero_shot, choice.tuned):
        inputs = (*test.read(chosen.keyframes), tuned if mode == choice.tuned else setup.answerer)
        answers = step(stages.answer_questions, *inputs, setting=mode.name, method=mode.method)
        settings.append(Setting(mode, step(stages.evaluate, test.questions, answers, setting=mode.name), localized))
    return settings
