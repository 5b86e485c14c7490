"""The paper's Figures 1 and 3 as code: which stage feeds which, for any `step` callable (a plain call, or a Prefect task)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.engine.recipe import Recipe, Selector
from pipeline.engine.sources import Sources
from pipeline.engine.stage import Stage
from pipeline.engine.weights import Weights
from pipeline.inference.backbone import Backbone
from pipeline.recipes.checks import (
    check_frame_size,
    check_full,
    check_moments,
    check_sources,
    check_splits,
    knows_moments,
    tell_odd_prompts,
    tell_second_pretraining,
)
from pipeline.recipes.results import Method, Results, Setting, Training, Who, row_name
from stages.answer_questions import answer_questions
from stages.evaluate import evaluate
from stages.evaluate_localization import evaluate_localization
from stages.evaluate_moments import evaluate_moments
from stages.extract_features import Features, extract_features
from stages.finetune_answerer import finetune_answerer
from stages.import_backbone import import_backbone
from stages.init_answerer import AnswererWeights, init_answerer
from stages.init_localizer import LocalizerWeights, init_localizer
from stages.label_frames import label_frames
from stages.list_questions import Questions, list_questions
from stages.pretrain_localizer import pretrain_localizer
from stages.refine_localizer import refine_localizer
from stages.retrieve_moments import retrieve_moments
from stages.sample_frames import Frames, sample_frames
from stages.score_frames import FrameScores, score_frames
from stages.select_keyframes import Keyframes, select_keyframes
from stages.train_backbone import train_backbone

# Every stage, upstream first: those that recipes may set and that a store may hold artifacts of.
ALL = (
    import_backbone,
    train_backbone,
    list_questions,
    sample_frames,
    extract_features,
    init_localizer,
    init_answerer,
    pretrain_localizer,
    score_frames,
    select_keyframes,
    answer_questions,
    label_frames,
    refine_localizer,
    finetune_answerer,
    evaluate,
    evaluate_localization,
    retrieve_moments,
    evaluate_moments,
)
STAGES: dict[str, Stage] = {stage.name: stage for stage in ALL}

# step(stage, *inputs, tell="", **changes) -> artifact; `changes` are config keys that the chain sets over the recipe's, `tell`
# says to people which of several steps of one stage it is.
Step = Callable[..., Any]
LOCALIZERS = {"untrained", "pretrained", "refined"}  # the selectors that need one


def chain_of(recipe: Recipe) -> Callable[[Recipe, Step, Sources], Any]:
    """Return the chain that the recipe asks for: `forward`, which returns metrics, or `full`, which returns results.

    Queries for moments have no answers to train on or to evaluate: their full chain is `forward` behind a pre-training.
    """
    return full if recipe.chain.kind == "full" and recipe.config(score_frames).prompt != "moment" else forward


def forward(recipe: Recipe, step: Step, sources: Sources) -> Any:
    """Inference: questions -> frames -> features -> scores -> keyframes -> answers -> metrics.

    Queries that ask for moments of the video have no options to answer with: scores -> moments -> metrics; with
    chain.kind = "full" the Localizer is pre-trained on the moments of chain.training_split first (paper section 4.5).
    """
    listing = recipe.config(list_questions)
    tell_odd_prompts(recipe)
    asks_for_moments = recipe.config(score_frames).prompt == "moment"
    uses_localizer = asks_for_moments or recipe.config(select_keyframes).method == "localizer"

    # Questions and places come first, then weights: a wrong file is found before hours of decoding.
    questions = step(list_questions, sources.annotations(listing.dataset, listing.split))
    known = None
    if asks_for_moments and recipe.chain.kind == "full":
        known = _questions(step, sources, listing.dataset, recipe.chain.training_split)
        check_moments(recipe, questions, known)
        tell_second_pretraining(recipe)
    parts = ["init_localizer"] * uses_localizer + ["init_answerer"] * (not asks_for_moments)
    check_sources(recipe, sources, [questions, known], parts)

    backbone = _backbone(recipe, step, sources)
    localizer = None
    if uses_localizer:
        localizer = step(init_localizer, backbone, _checkpoint(recipe, init_localizer, sources))
    answerer = None if asks_for_moments else step(init_answerer, backbone, _checkpoint(recipe, init_answerer, sources))

    if known is not None:
        training = _split(step, sources, listing.dataset, known, backbone, "training split")
        localizer = step(pretrain_localizer, *training.read, backbone, localizer)
    frames = step(sample_frames, sources.videos(listing.dataset, questions))
    features = step(extract_features, frames, backbone)
    scores = step(score_frames, questions, frames, features, backbone, localizer) if localizer else None
    keyframes = step(select_keyframes, questions, frames, scores)
    if knows_moments(questions):
        step(evaluate_localization, questions, frames, scores, keyframes)
    if asks_for_moments:
        return step(evaluate_moments, questions, step(retrieve_moments, questions, frames, scores))
    answers = step(answer_questions, questions, keyframes, features, backbone, answerer)
    return step(evaluate, questions, answers)


@dataclass(frozen=True)
class Split:
    """The questions of one split, the frames of their videos, and the ViT's features of those."""

    questions: Questions
    frames: Frames
    features: Features

    @property
    def read(self) -> tuple[Questions, Frames, Features]:
        """What stages that look at sampled frames read of it, in their order."""
        return self.questions, self.frames, self.features


def full(recipe: Recipe, step: Step, sources: Sources) -> Results:
    """Training and inference: pre-train, label, refine, rescore, fine-tune; every choice of keyframes is evaluated.

    Moments teach the Localizer first. Then, in each round, the Answerer says which frames are enough for the right answer
    (the reverse chain), the Localizer learns that, and the Answerer learns from the frames that the Localizer now chooses.
    """
    chain, listing = recipe.chain, recipe.config(list_questions)
    chosen = set(chain.selectors)
    check_full(recipe)
    tell_odd_prompts(recipe)

    # Questions come first: splits that overlap, or a file that is missing, are found before a backbone is trained.
    asked = _questions(step, sources, listing.dataset, listing.split)
    known = _questions(step, sources, listing.dataset, chain.training_split)
    queries = None
    if chain.pretraining_dataset and chosen & {"pretrained", "refined"}:
        tell_second_pretraining(recipe)
        same = (chain.pretraining_dataset, chain.pretraining_split) == (listing.dataset, chain.training_split)
        queries = known if same else _questions(step, sources, chain.pretraining_dataset, chain.pretraining_split)
    check_splits(recipe, asked, known, queries)
    parts = ["init_answerer"] + ["init_localizer"] * bool(chosen & LOCALIZERS)
    check_sources(recipe, sources, [asked, known, queries], parts)

    backbone = _backbone(recipe, step, sources)
    answerer = step(init_answerer, backbone, _checkpoint(recipe, init_answerer, sources))
    localizer = None
    if chosen & LOCALIZERS:
        localizer = step(init_localizer, backbone, _checkpoint(recipe, init_localizer, sources))

    evaluated = _split(step, sources, listing.dataset, asked, backbone, "evaluation split")
    training = _split(step, sources, listing.dataset, known, backbone, "training split")
    evaluation = _Evaluation(step, backbone, evaluated, training, answerer)
    for selector in chain.selectors:
        if selector not in LOCALIZERS:
            evaluation.of(selector, None)
    if "untrained" in chosen:
        is_untrained = recipe.config(init_localizer).weights == ""
        evaluation.of(
            "untrained",
            localizer if is_untrained else step(init_localizer, backbone, None, tell="untrained", weights=""),
        )

    if queries is not None:
        moments = training
        if queries is not known:
            moments = _split(step, sources, chain.pretraining_dataset, queries, backbone, "pre-training split")
        localizer = step(pretrain_localizer, *moments.read, backbone, localizer)
        evaluation.trainings.append(Training("Localizer, pre-trained", localizer))
    if "pretrained" in chosen:
        evaluation.of("pretrained", localizer)

    all_labels, newest = [], answerer
    for iteration in range(1, chain.iterations + 1) if "refined" in chosen else ():
        tell = f"round {iteration}"
        labels = step(label_frames, *training.read, backbone, newest, tell=tell)
        localizer = step(refine_localizer, *training.read, backbone, localizer, labels, tell=tell)
        all_labels.append(labels)
        evaluation.trainings.append(Training(f"Localizer, refined in round {iteration}", localizer))
        newest = evaluation.of("refined", localizer, iteration, newest)
    return Results(evaluated.questions, evaluation.settings, all_labels, evaluation.trainings)


class _Evaluation:
    """Evaluates choices of keyframes, zero-shot and fine-tuned, and collects what was found."""

    def __init__(
        self, step: Step, backbone: Backbone, evaluated: Split, training: Split, answerer: AnswererWeights
    ) -> None:
        self.settings: list[Setting] = []
        self.trainings: list[Training] = []
        self._step, self._backbone, self._answerer = step, backbone, answerer
        self._evaluated, self._training = evaluated, training

    def of(
        self,
        selector: Selector,
        localizer: LocalizerWeights | None,
        iteration: int = 0,
        newest: AnswererWeights | None = None,
    ) -> AnswererWeights:
        """Evaluate the keyframes of a selector; return the Answerer that was fine-tuned on such, starting from `newest`."""
        split, name = self._evaluated, row_name(selector, iteration)
        scores, keyframes = self._keyframes(split, selector, localizer, name)
        localization = None
        if knows_moments(split.questions):
            localization = self._step(
                evaluate_localization, split.questions, split.frames, scores, keyframes, tell=name
            )

        def setting(who: Who, method: Method, answerer: AnswererWeights) -> None:
            read = (split.questions, keyframes, split.features, self._backbone, answerer)
            tell = f"{name}, {who}" + (", voting" if method == "vote" else "")
            answers = self._step(answer_questions, *read, tell=tell, method=method)
            metrics = self._step(evaluate, split.questions, answers, tell=tell)
            self.settings.append(Setting(selector, iteration, who, method, metrics, localization))

        setting("zero-shot", "concatenate", self._answerer)
        setting("zero-shot", "vote", self._answerer)
        tuned = self._fine_tuned(selector, localizer, newest or self._answerer, name)
        self.trainings.append(Training(f"Answerer, {name}", tuned))
        setting("fine-tuned", "concatenate", tuned)
        return tuned

    def _fine_tuned(
        self, selector: Selector, localizer: LocalizerWeights | None, answerer: AnswererWeights, name: str
    ) -> AnswererWeights:
        split = self._training
        _, keyframes = self._keyframes(split, selector, localizer, f"{name}, training split")
        tuned: AnswererWeights = self._step(
            finetune_answerer, split.questions, keyframes, split.features, self._backbone, answerer, tell=name
        )
        return tuned

    def _keyframes(
        self, split: Split, selector: Selector, localizer: LocalizerWeights | None, tell: str
    ) -> tuple[FrameScores | None, Keyframes]:
        scores = None
        if localizer is not None:
            scores = self._step(score_frames, *split.read, self._backbone, localizer, tell=tell)
        choice: dict[str, Any] = {"method": selector if localizer is None else "localizer"}
        if selector != "random":  # nothing is drawn: another seed of the recipe shall not make the same keyframes again
            choice["seed"] = 0
        return scores, self._step(select_keyframes, split.questions, split.frames, scores, tell=tell, **choice)


def _backbone(recipe: Recipe, step: Step, sources: Sources) -> Backbone:
    backbone: Backbone
    if recipe.chain.backbone == "trained":
        backbone = step(train_backbone)
    else:
        backbone = step(import_backbone, sources.weights(recipe.config(import_backbone).weights))
    check_frame_size(backbone, recipe.config(sample_frames).size)
    return backbone


def _questions(step: Step, sources: Sources, dataset: str, split: str) -> Questions:
    questions: Questions = step(list_questions, sources.annotations(dataset, split), dataset=dataset, split=split)
    return questions


def _split(step: Step, sources: Sources, dataset: str, questions: Questions, backbone: Backbone, tell: str) -> Split:
    frames = step(sample_frames, sources.videos(dataset, questions), tell=tell)
    return Split(questions, frames, step(extract_features, frames, backbone, tell=tell))


def _checkpoint(recipe: Recipe, stage: Stage, sources: Sources) -> Weights | None:
    name = recipe.config(stage).weights
    return sources.weights(name) if name else None
