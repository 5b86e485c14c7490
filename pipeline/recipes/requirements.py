"""The requirements of a recipe's chain: splits of data sets, their true moments, a Localizer, an Answerer, their weights."""

from __future__ import annotations

from typing import Any, NamedTuple

from pipeline.checkpoint_files import files_of_vlm
from pipeline.datasets.registry import adapter_named
from pipeline.engine.recipe import LOCALIZERS, Recipe
from pipeline.engine.sources import AnnotationFiles, Sources
from pipeline.engine.stage import Artifact, Stage
from pipeline.engine.weights import Weights

LOCALIZER = "localizer"
# The stages of each `[chain] scorer`: the first imports its weights or scores, the last scores.
SCORER_STAGES = {
    LOCALIZER: ("init_localizer", "score_frames"),
    "imported": ("import_scores",),
    "clip": ("import_embedder", "embed_frames", "score_by_similarity"),
    "itm": ("import_matcher", "score_by_matching"),
}


class Split(NamedTuple):
    """A split of a data set and its role in the chain."""

    dataset: str
    split: str
    name: str  # of the role, in plans and logs
    subtitles: bool = False

    @property
    def where(self) -> dict[str, Any]:
        """The config keys of `list_questions` for this split."""
        return {"dataset": self.dataset, "split": self.split, "subtitles": self.subtitles}

    def annotations(self, sources: Sources) -> AnnotationFiles:
        """Return its annotation files."""
        return sources.annotations(self.dataset, self.split, self.subtitles)


class Splits(NamedTuple):
    """The splits that a chain reads; the forward chain of questions reads only `test`.

    Attributes:
        test: evaluated.
        train: for training of Localizer and Answerer; of the Localizer only, if the questions are queries for moments.
        pretraining: with the moments for the Localizer's pre-training in the full chain; None: no pre-training, or on `train`.
    """

    test: Split
    train: Split
    pretraining: Split | None


class SplitArtifacts(NamedTuple):
    """The questions of one split, the frames of their videos, the frames' features, and the backbone that computes them.

    In a forward chain without a reader of features, `features` and `backbone` are None.
    """

    questions: Artifact
    frames: Artifact
    features: Any
    backbone: Any

    @property
    def videos(self) -> tuple[Artifact, Artifact]:
        """The questions and frames, from which keyframes are selected."""
        return self.questions, self.frames

    def read(self, keyframes: Artifact) -> tuple[Artifact, Artifact, Artifact, Artifact]:
        """Return the inputs of an Answerer that reads these keyframes."""
        return self.questions, keyframes, self.features, self.backbone


class InitialModels(NamedTuple):
    """The models before training; None for one that the chain does not use."""

    backbone: Any = None  # a Backbone
    localizer: Artifact | None = None
    answerer: Artifact | None = None


def asks_for_moments(recipe: Recipe) -> bool:
    """Return whether the questions are queries for moments of the video, without answers."""
    prompt = recipe.config_of("score_frames").prompt
    if prompt == "custom":  # of the same kind as the data set's prompt
        prompt = adapter_named(recipe.config_of("list_questions").dataset).about.prompt
    return bool(prompt == "moment")


def evaluates_settings(recipe: Recipe) -> bool:
    """Return whether the chain is the full one of questions, which compares choices of keyframes."""
    return recipe.chain.kind == "full" and not asks_for_moments(recipe)


def backbone_stage_name(recipe: Recipe) -> str:
    """Return the name of the stage that outputs the recipe's backbone; it may not exist."""
    name = recipe.chain.backbone
    return {"imported": "import_backbone", "trained": "train_backbone"}.get(name, name)


def backbone_weights(recipe: Recipe) -> set[str]:
    """Return the name of the backbone's weights, as a set; empty if it needs none."""
    return {getattr(recipe.config_of(backbone_stage_name(recipe)), "weights", "")} - {""}


def uses_localizer(recipe: Recipe) -> bool:
    """Return whether the recipe's chain has a Localizer."""
    if evaluates_settings(recipe):
        return bool(set(recipe.chain.selectors) & set(LOCALIZERS))
    return scorer_of(recipe) == LOCALIZER


def scorer_of(recipe: Recipe) -> str:
    """Return the forward chain's scorer of frames, as in `[chain] scorer`; empty if it needs no scores."""
    needs_scores = asks_for_moments(recipe) or recipe.config_of("select_keyframes").method == "localizer"
    return recipe.chain.scorer if needs_scores else ""


def scorer_weights(recipe: Recipe) -> set[str]:
    """Return the name of the weights of a scorer other than the Localizer, as a set; empty if it needs none."""
    scorer = scorer_of(recipe)
    # A scorer of another package is a single stage of its name.
    import_stage = "" if scorer == LOCALIZER else SCORER_STAGES.get(scorer, (scorer,))[0]
    return {getattr(recipe.configs.get(import_stage), "weights", "")} - {""}


def needed_weights(recipe: Recipe) -> list[str]:
    """Return the names of all weights that the recipe's chain reads, each once."""
    stages = ["init_localizer"] * uses_localizer(recipe) + ["init_answerer"] * uses_answerer(recipe)
    stages += ["answer_with_vlm"] * uses_vlm(recipe)
    names = [recipe.config_of(stage).weights for stage in stages]
    names += [*(backbone_weights(recipe) if reads_features(recipe) else ()), *sorted(scorer_weights(recipe))]
    return list(dict.fromkeys(filter(None, names)))


def queried_by(recipe: Recipe, *weights: Artifact | None) -> tuple[Artifact | None, ...]:
    """Return `weights` if the features are outputs of their Q-Formers (level = "queries"), else None for each."""
    is_queried = recipe.config_of("extract_features").level == "queries"
    return weights if is_queried else tuple(None for _ in weights)


def compares_vectors(recipe: Recipe) -> bool:
    """Return whether the recipe's selector compares vectors of frames."""
    return "vectors" in recipe.config_of("select_keyframes").chosen_by.needs


def uses_vlm(recipe: Recipe) -> bool:
    """Return whether another video-language model answers instead of the Answerer."""
    return recipe.chain.answerer == "vlm" and not asks_for_moments(recipe)


def uses_answerer(recipe: Recipe) -> bool:
    """Return whether the recipe's chain has an Answerer."""
    return not asks_for_moments(recipe) and not uses_vlm(recipe)


def reads_features(recipe: Recipe) -> bool:
    """Return whether a stage of the recipe's chain reads the backbone's features."""
    compares_features = compares_vectors(recipe) and scorer_of(recipe) != "clip"  # which has its own vectors
    is_external = scorer_of(recipe) in recipe.configs  # a stage of another package, which may read them
    return uses_localizer(recipe) or uses_answerer(recipe) or compares_features or is_external


def weights_of(recipe: Recipe, sources: Sources, stage: Stage) -> Weights | None:
    """Return the weights that the recipe names for a stage, or None."""
    name = recipe.config_of(stage.name).weights
    return sources.weights(name) if name else None


def vlm_of(recipe: Recipe, sources: Sources) -> Weights | None:
    """Return the weights of the video-language model that answers; None for a served one."""
    name = recipe.config_of("answer_with_vlm").weights
    return sources.weights(name, files_of_vlm) if name else None


def exists(artifact: Artifact) -> bool:
    """Return whether the artifact is in the store; in a plan it may not be."""
    return artifact.id is not None and artifact.store.exists(artifact.id)


def knows_moments(questions: Artifact) -> bool:
    """Return whether true moments of the questions are known; False if a plan does not have the questions yet."""
    return exists(questions) and questions.record.rows["moments"] > 0


def served_by(recipe: Recipe) -> str:
    """Return the name of the served model that answers; empty if there is none."""
    return str(recipe.config_of("answer_with_vlm").served) if uses_vlm(recipe) else ""


def pretrains_localizer(recipe: Recipe) -> bool:
    """Return whether the full chain of questions pre-trains the Localizer on moments, to compare or to refine it."""
    return bool(recipe.chain.pretraining_dataset and {"pretrained", "refined"} & set(recipe.chain.selectors))


def splits_of(recipe: Recipe) -> Splits:
    """Return the splits that the recipe's chain reads."""
    chain, listing = recipe.chain, recipe.config_of("list_questions")
    test = Split(listing.dataset, listing.split, "evaluation split", listing.subtitles)
    train = Split(listing.dataset, chain.training_split, "training split", listing.subtitles)
    subtitles = listing.subtitles and chain.pretraining_dataset == listing.dataset
    pretraining = Split(chain.pretraining_dataset, chain.pretraining_split, "pre-training split", subtitles)
    is_separate = pretrains_localizer(recipe) and pretraining.where != train.where
    return Splits(test, train, pretraining if is_separate else None)
