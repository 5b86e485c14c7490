"""Checks of a chain before it works for hours: prompts of another kind, splits that overlap, frames of a wrong size."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
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

# The stages of each chain that put the data set's questions to a model.
ASKING = {
    "forward": ("score_frames", "answer_questions"),
    "full": ("score_frames", "answer_questions", "label_frames", "refine_localizer", "finetune_answerer"),
}


def check_chain(recipe: Recipe) -> None:
    """Refuse a chain that cannot come to anything; warn of prompts that are not those of the data set's questions."""
    _warn_of_odd_prompts(recipe)
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
    """Refuse what the questions of the splits show to be in vain; then find videos and weights that are not here.

    Args:
        train_questions: None where nothing is trained.
        pretraining_questions: whose moments the Localizer is pre-trained on where the recipe does that.
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
    _check_sources(recipe, sources, [test_questions, train_questions, pretraining_questions])


def _warn_of_odd_prompts(recipe: Recipe) -> None:
    """Warn where a data set's questions are asked with the prompt of another kind: an experiment perhaps, or a slip."""
    asking: tuple[str, ...] = ("score_frames",) if asks_for_moments(recipe) else ASKING[recipe.chain.kind]
    if recipe.chain.kind == "full" and learned(recipe.chain):
        asking += ("train_selector",)
    _warn_of_odd_prompt(recipe, recipe.config_of("list_questions").dataset, *asking)
    if recipe.chain.kind == "full" and recipe.chain.pretraining_dataset:
        _warn_of_odd_prompt(recipe, recipe.chain.pretraining_dataset, "pretrain_localizer")


def _warn_of_other_frames_at_once(recipe: Recipe) -> None:
    """Warn where the Localizer is asked about another number of frames at once than it is trained on."""
    trains = recipe.chain.kind == "full"
    pretrains = trains and (asks_for_moments(recipe) or pretrains_localizer(recipe))
    refines = trains and not asks_for_moments(recipe) and "refined" in recipe.chain.selectors
    stages = ["pretrain_localizer"] * pretrains + ["refine_localizer"] * refines
    n_frames = recipe.config_of("score_frames").frames_at_once
    for name in stages:
        trained = recipe.config_of(name).frames_at_once
        if trained != n_frames:
            log.warning(
                "[score_frames] frames_at_once = %d, but the Localizer is trained with [%s] frames_at_once = %d; "
                "--set %s.frames_at_once=%d",
                *(n_frames, name, trained, name, n_frames),
            )


def _warn_of_second_pretraining(recipe: Recipe) -> None:
    """Warn where the Localizer's pre-training starts from a checkpoint, which may be pre-trained already."""
    weights = recipe.config_of("init_localizer").weights
    if weights:
        log.warning(
            "[init_localizer] weights = %r: the Localizer is pre-trained from these, not from BLIP-2's own Q-Former; for that, "
            "--set init_localizer.weights=",
            weights,
        )


def _warn_of_odd_prompt(recipe: Recipe, dataset: str, *stages: str) -> None:
    own_prompt = adapter_named(dataset).about.prompt
    for name in stages:
        prompt = recipe.config_of(name).prompt
        if own_prompt and prompt not in (own_prompt, "custom"):
            log.warning("[%s] prompt = %r, but the questions of %s are of kind %r", name, prompt, dataset, own_prompt)


def _check_vlm(recipe: Recipe) -> None:
    """Refuse a chain that does not say which model answers, or whose Answerer would be trained and not asked."""
    if recipe.chain.kind == "full":
        raise RecipeError(
            "[chain] answerer = 'vlm' is for the forward chain; the full one trains SeViLA's Answerer: "
            "--set chain.kind=forward"
        )
    cfg = recipe.config_of("answer_with_vlm")
    if not cfg.weights and not cfg.served:
        raise RecipeError(
            "[answer_with_vlm] names no model: weights = the name of a folder on this machine was wanted, or served = the name "
            "that a server has for one"
        )


def _check_full(recipe: Recipe) -> None:
    """Refuse a full chain that cannot come to anything."""
    chain, listing = recipe.chain, recipe.config_of("list_questions")
    if chain.scorer != LOCALIZER or compares_vectors(recipe):
        what = f"[select_keyframes] selector = {recipe.config_of('select_keyframes').selector!r}"
        what = what if chain.scorer == LOCALIZER else f"[chain] scorer = {chain.scorer!r}"
        raise RecipeError(
            f"{what} is for the forward chain; the full one trains Localizers and compares these: --set chain.kind=forward"
        )
    splits = {"training_split": (listing.dataset, chain.training_split)}
    splits["pretraining_split"] = (chain.pretraining_dataset, chain.pretraining_split)
    for key, split in splits.items():
        if split == (listing.dataset, listing.split):
            raise RecipeError(f"[chain] {key} = {split[1]!r} is the split that is evaluated; name another one")
    nothing_learned = not chain.pretraining_dataset and not recipe.config_of("init_localizer").weights
    if nothing_learned and {"untrained", "pretrained"} <= set(chain.selectors):
        raise RecipeError(
            "[chain] selectors: the pretrained Localizer would be the untrained one; name a pretraining_dataset, or a "
            "checkpoint that is pre-trained already as [init_localizer] weights"
        )


def _check_moments(recipe: Recipe, evaluated: Artifact, training: Artifact) -> None:
    """Refuse to pre-train on moments that are evaluated, or where there are none."""
    chain, listing = recipe.chain, recipe.config_of("list_questions")
    if chain.training_split == listing.split:
        raise RecipeError(
            f"[chain] training_split = {listing.split!r} is the split that is evaluated; name another one, or "
            "--set chain.kind=forward to train nothing"
        )
    _check_unseen(evaluated, training, "training_split")
    _check_taught(training, "training_split")


def _check_splits(recipe: Recipe, evaluated: Artifact, training: Artifact, pretraining: Artifact | None) -> None:
    """Refuse to learn from what is evaluated, and oracle keyframes where the true moments are not known."""
    for key, taught in (("training_split", training), ("pretraining_split", pretraining)):
        if taught is not None:
            _check_unseen(evaluated, taught, key)
    if pretraining is not None:
        _check_taught(pretraining, "pretraining_split")
    selectors = [name for name in recipe.chain.selectors if name not in BY_SCORES]
    upper_bounds = ", ".join(name for name in selectors if "moments" in selector_named(name).needs)
    for questions in (evaluated, training):
        if upper_bounds and exists(questions) and not knows_moments(questions):
            split = questions.record.config["split"]
            raise RecipeError(
                f"[chain] selectors: {upper_bounds} needs true moments, but split {split!r} knows none; leave {upper_bounds} out"
            )


def _check_taught(learned: Artifact, key: str) -> None:
    if exists(learned) and not knows_moments(learned):
        raise RecipeError(
            f"[chain] {key} = {learned.record.config['split']!r} of {learned.record.config['dataset']} knows no moments to "
            "pre-train the Localizer on; name another one, or an empty pretraining_dataset"
        )


def _check_unseen(evaluated: Artifact, learned: Artifact, key: str) -> None:
    if not (exists(evaluated) and exists(learned)):  # a plan may not have them
        return
    same = _askings(evaluated) & _askings(learned)
    if same:
        raise RecipeError(
            f"[chain] {key} = {learned.record.config['split']!r}: {len(same)} questions of it are evaluated too, such as "
            f"{min(same)[1]!r}; name splits that share none, as with --set list_questions.split=test "
            f"--set chain.{key}=train (a file without a column `split` has one split only)"
        )
    shared = _videos(evaluated) & _videos(learned)
    if shared and evaluated.record.config["dataset"] == learned.record.config["dataset"]:
        log.warning(
            "[chain] %s = %r: %d of its videos are evaluated too, with other questions, such as %r",
            *(key, learned.record.config["split"], len(shared), min(shared)),
        )


def check_names(recipes: Iterable[Recipe], given: Mapping[str, Iterable[str]]) -> None:
    """Refuse places on the command line for names that none of the recipes has; warn of one that they do not read."""
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
    refuse_unused(given, used, {"weights": backbones})


def _check_sources(recipe: Recipe, sources: Sources, asked: Sequence[Artifact | None]) -> None:
    """Find videos and weights that are not here before gigabytes of weights are asked for, read and loaded.

    Args:
        asked: the questions of every split whose videos are needed.
    """
    datasets = [(known.record.config["dataset"], known) for known in asked if known is not None and exists(known)]
    sources.check(datasets, needed_weights(recipe), served_by(recipe))


def check_frame_size(recipe: Recipe, backbone: Backbone) -> None:
    """Find frames that the ViT cannot read before they are decoded; a plan may not have a backbone yet."""
    if exists(backbone):
        image_size, size = backbone.description()["image_size"], recipe.config_of("sample_frames").size
        if size != image_size:
            change = f"--set sample_frames.size={image_size}"
            raise RecipeError(
                f"[sample_frames] size = {size}, but the ViT of these weights reads {image_size} pixels: {change}"
            )


def _videos(questions: Artifact) -> set[str]:
    return set(questions.columns("videos", "video_id")["video_id"])


def _askings(questions: Artifact) -> set[tuple[Any, ...]]:
    rows = questions.typed_rows("questions", Question)
    return {(question.clip_id, question.question, question.options) for question in rows}
