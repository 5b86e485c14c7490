"""Checks of a chain before it runs for hours: unsuitable prompts, overlapping splits, a wrong frame size."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from cache.errors import RecipeError
from pipeline.datasets.question import Question
from pipeline.datasets.registry import adapter_named
from pipeline.engine.places import refuse_unused
from pipeline.engine.recipe import BY_SCORES, Recipe
from pipeline.engine.sources import Sources
from pipeline.engine.stage import Artifact
from pipeline.inference.backbone import Backbone
from pipeline.models.prompts import has_subtitles
from pipeline.recipes.requirements import (
    LOCALIZER,
    SCORER_STAGES,
    asks_for_moments,
    backbone_weights,
    compares_vectors,
    exists,
    knows_moments,
    needed_weights,
    pretrains_localizer,
    scorer_of,
    scorer_weights,
    served_by,
    uses_localizer,
    uses_vlm,
)
from pipeline.recipes.results import learned
from pipeline.selection.registry import selector_named

log = logging.getLogger("sevila")

# The stages of each chain that ask a model the data set's questions.
PROMPTED_STAGES = {
    "forward": ("score_frames", "answer_questions"),
    "full": ("score_frames", "answer_questions", "label_frames", "refine_localizer", "finetune_answerer"),
}


def check_chain(recipe: Recipe) -> None:
    """Raise `RecipeError` for a chain that cannot work; warn of prompts that do not suit the data set's questions."""
    _warn_of_unsuitable_prompts(recipe)
    _warn_of_other_frames_at_once(recipe)
    _check_subtitles(recipe)
    if recipe.chain.kind == "full" and recipe.config_of("extract_features").level == "queries":
        raise RecipeError(
            "[extract_features] level = 'queries' keeps no features of the ViT, which trainings read; "
            "--set extract_features.level=features, or --set chain.kind=forward to train nothing"
        )
    if uses_vlm(recipe):
        _check_vlm(recipe)
    if recipe.chain.kind == "full" and not asks_for_moments(recipe):
        _check_full(recipe)


def _check_subtitles(recipe: Recipe) -> None:
    scorer = LOCALIZER if uses_localizer(recipe) else scorer_of(recipe)
    stage = SCORER_STAGES.get(scorer, ("",))[-1]
    template = getattr(recipe.configs.get(stage), "template", "")
    if has_subtitles(template) and not recipe.config_of("list_questions").subtitles:
        raise RecipeError(
            f"[{stage}] template has {{subtitles}}, and [list_questions] subtitles is false; "
            "--set list_questions.subtitles=true"
        )


def check_questions(
    recipe: Recipe,
    sources: Sources,
    test_questions: Artifact,
    train_questions: Artifact | None = None,
    pretraining_questions: Artifact | None = None,
) -> None:
    """Check the questions of the splits, then that their videos and the weights are available.

    Args:
        test_questions: those evaluated.
        train_questions: None where nothing is trained.
        pretraining_questions: those with the moments for pre-training; ignored unless the recipe pre-trains the Localizer.

    Raises:
        RecipeError: training cannot work with these questions, or would use those evaluated.
    """
    if not pretrains_localizer(recipe):
        pretraining_questions = None
    if asks_for_moments(recipe):
        if train_questions is not None:
            _warn_of_second_pretraining(recipe)
            _check_moments(recipe, test_questions, train_questions)
    elif train_questions is not None:
        if pretraining_questions is not None:
            _warn_of_second_pretraining(recipe)
        _check_splits(recipe, test_questions, train_questions, pretraining_questions)
    splits = (test_questions, train_questions, pretraining_questions)
    datasets = [(split.record.config["dataset"], split) for split in splits if split is not None and exists(split)]
    # Before gigabytes of weights are fetched, read and loaded.
    sources.check(datasets, needed_weights(recipe), served_by(recipe))


def _warn_of_unsuitable_prompts(recipe: Recipe) -> None:
    """Warn of prompts for another kind of question: an experiment, or a mistake."""
    stages: tuple[str, ...] = ("score_frames",) if asks_for_moments(recipe) else PROMPTED_STAGES[recipe.chain.kind]
    if recipe.chain.kind == "full" and learned(recipe.chain):
        stages += ("train_selector",)
    _warn_of_unsuitable_prompt(recipe, recipe.config_of("list_questions").dataset, *stages)
    if recipe.chain.kind == "full" and recipe.chain.pretraining_dataset:
        _warn_of_unsuitable_prompt(recipe, recipe.chain.pretraining_dataset, "pretrain_localizer")


def _warn_of_other_frames_at_once(recipe: Recipe) -> None:
    """Warn if the Localizer scores another number of frames at once than it is trained on."""
    trains = recipe.chain.kind == "full"
    pretrains = trains and (asks_for_moments(recipe) or pretrains_localizer(recipe))
    refines = trains and not asks_for_moments(recipe) and "refined" in recipe.chain.selectors
    stages = ["pretrain_localizer"] * pretrains + ["refine_localizer"] * refines
    n_frames = recipe.config_of("score_frames").frames_at_once
    for name in stages:
        n_trained = recipe.config_of(name).frames_at_once
        if n_trained != n_frames:
            log.warning(
                "[score_frames] frames_at_once = %d, but the Localizer is trained with [%s] frames_at_once = %d; "
                "--set %s.frames_at_once=%d",
                *(n_frames, name, n_trained, name, n_frames),
            )


def _warn_of_second_pretraining(recipe: Recipe) -> None:
    """Warn if the Localizer's pre-training starts from a checkpoint, which may already be pre-trained."""
    weights = recipe.config_of("init_localizer").weights
    if weights:
        log.warning(
            "[init_localizer] weights = %r: the Localizer is pre-trained from these, not from BLIP-2's own Q-Former; for that, "
            "--set init_localizer.weights=",
            weights,
        )


def _warn_of_unsuitable_prompt(recipe: Recipe, dataset: str, *stages: str) -> None:
    suitable = adapter_named(dataset).about.prompt
    for name in stages:
        prompt = recipe.config_of(name).prompt
        if suitable and prompt not in (suitable, "custom"):
            log.warning("[%s] prompt = %r, but the questions of %s are of kind %r", name, prompt, dataset, suitable)


def _check_vlm(recipe: Recipe) -> None:
    """Refuse a chain that does not name the model that answers, or would train an Answerer without using it."""
    if recipe.chain.kind == "full":
        raise RecipeError(
            "[chain] answerer = 'vlm' is for the forward chain; the full one trains SeViLA's Answerer: "
            "--set chain.kind=forward"
        )
    cfg = recipe.config_of("answer_with_vlm")
    if not cfg.weights and not cfg.served:
        raise RecipeError(
            "[answer_with_vlm] names no model; expected weights = the name of a local folder, or served = the name of a model "
            "at a server"
        )


def _check_full(recipe: Recipe) -> None:
    """Refuse a full chain that cannot work."""
    chain, listing = recipe.chain, recipe.config_of("list_questions")
    if chain.scorer != LOCALIZER or compares_vectors(recipe):
        key = f"[select_keyframes] selector = {recipe.config_of('select_keyframes').selector!r}"
        key = key if chain.scorer == LOCALIZER else f"[chain] scorer = {chain.scorer!r}"
        raise RecipeError(
            f"{key} is for the forward chain; the full one trains Localizers and compares these: --set chain.kind=forward"
        )
    splits = {"training_split": (listing.dataset, chain.training_split)}
    splits["pretraining_split"] = (chain.pretraining_dataset, chain.pretraining_split)
    for key, split in splits.items():
        if split == (listing.dataset, listing.split):
            raise RecipeError(f"[chain] {key} = {split[1]!r} is the split that is evaluated; name another one")
    has_pretrained = chain.pretraining_dataset or recipe.config_of("init_localizer").weights
    if not has_pretrained and {"untrained", "pretrained"} <= set(chain.selectors):
        raise RecipeError(
            "[chain] selectors: the pretrained Localizer would be the untrained one; name a pretraining_dataset, or a "
            "checkpoint that is pre-trained already as [init_localizer] weights"
        )


def _check_moments(recipe: Recipe, evaluated: Artifact, training: Artifact) -> None:
    """Refuse to pre-train on evaluated moments, or on a split without moments."""
    chain, listing = recipe.chain, recipe.config_of("list_questions")
    if chain.training_split == listing.split:
        raise RecipeError(
            f"[chain] training_split = {listing.split!r} is the split that is evaluated; name another one, or "
            "--set chain.kind=forward to train nothing"
        )
    _check_disjoint(evaluated, training, "training_split")
    _check_has_moments(training, "training_split")


def _check_splits(recipe: Recipe, evaluated: Artifact, training: Artifact, pretraining: Artifact | None) -> None:
    """Refuse to train on evaluated questions, and oracle keyframes without known true moments."""
    for key, trained in (("training_split", training), ("pretraining_split", pretraining)):
        if trained is not None:
            _check_disjoint(evaluated, trained, key)
    if pretraining is not None:
        _check_has_moments(pretraining, "pretraining_split")
    selectors = [name for name in recipe.chain.selectors if name not in BY_SCORES]
    upper_bounds = ", ".join(name for name in selectors if "moments" in selector_named(name).needs)
    for questions in (evaluated, training):
        if upper_bounds and exists(questions) and not knows_moments(questions):
            split = questions.record.config["split"]
            raise RecipeError(
                f"[chain] selectors: {upper_bounds} needs true moments, but split {split!r} knows none; leave {upper_bounds} out"
            )


def _check_has_moments(training: Artifact, key: str) -> None:
    if exists(training) and not knows_moments(training):
        raise RecipeError(
            f"[chain] {key} = {training.record.config['split']!r} of {training.record.config['dataset']} knows no moments to "
            "pre-train the Localizer on; name another one, or an empty pretraining_dataset"
        )


def _check_disjoint(evaluated: Artifact, training: Artifact, key: str) -> None:
    if not (exists(evaluated) and exists(training)):  # a plan may not have them
        return
    shared_questions = _question_keys(evaluated) & _question_keys(training)
    if shared_questions:
        raise RecipeError(
            f"[chain] {key} = {training.record.config['split']!r}: {len(shared_questions)} questions of it are evaluated too, "
            f"such as {min(shared_questions)[1]!r}; name splits that share none, as with --set list_questions.split=test "
            f"--set chain.{key}=train (a file without a column `split` has one split only)"
        )
    shared_videos = _video_ids(evaluated) & _video_ids(training)
    if shared_videos and evaluated.record.config["dataset"] == training.record.config["dataset"]:
        log.warning(
            "[chain] %s = %r: %d of its videos are evaluated too, with other questions, such as %r",
            *(key, training.record.config["split"], len(shared_videos), min(shared_videos)),
        )


def check_names(recipes: Iterable[Recipe], places: Mapping[str, Iterable[str]]) -> None:
    """Refuse places on the command line for names that no recipe has; warn of names that no recipe reads."""
    used: dict[str, set[str]] = {"annotations": set(), "videos": set(), "weights": set(), "scores": set()}
    backbones = set[str]()
    for recipe in recipes:
        datasets = {recipe.config_of("list_questions").dataset, recipe.chain.pretraining_dataset} - {""}
        weights = {recipe.config_of(name).weights for name in ("init_localizer", "init_answerer")} - {""}
        weights |= backbone_weights(recipe) | scorer_weights(recipe)
        weights |= {recipe.config_of("answer_with_vlm").weights} - {""} if uses_vlm(recipe) else set()
        scores = {recipe.config_of("import_scores").scores} if scorer_of(recipe) == "imported" else set()
        for kind, names in (("annotations", datasets), ("videos", datasets), ("weights", weights), ("scores", scores)):
            used[kind] |= names
        backbones.add(recipe.config_of("import_backbone").weights)
    refuse_unused(places, used, {"weights": backbones})


def check_frame_size(recipe: Recipe, backbone: Backbone) -> None:
    """Raise `RecipeError` for a frame size that the ViT cannot read, before decoding; a plan may not have a backbone."""
    if exists(backbone):
        image_size, size = backbone.description()["image_size"], recipe.config_of("sample_frames").size
        if size != image_size:
            change = f"--set sample_frames.size={image_size}"
            raise RecipeError(
                f"[sample_frames] size = {size}, but the ViT of these weights reads {image_size} pixels: {change}"
            )


def _video_ids(questions: Artifact) -> set[str]:
    return set(questions.columns("videos", "video_id")["video_id"])


def _question_keys(questions: Artifact) -> set[tuple[Any, ...]]:
    rows = questions.typed_rows("questions", Question)
    return {(question.clip_id, question.question, question.options) for question in rows}
