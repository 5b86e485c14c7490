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
# The stages of each scorer that `[chain] scorer` may name: the first takes in what it is made of, the last scores.
SCORER_STAGES = {
    LOCALIZER: ("init_localizer", "score_frames"),
    "imported": ("import_scores",),
    "clip": ("import_embedder", "embed_frames", "score_by_similarity"),
    "itm": ("import_matcher", "score_by_matching"),
}


class Split(NamedTuple):
    """A split of a data set, and what the chain uses it for."""

    dataset: str
    split: str
    name: str
    subtitles: bool = False

    @property
    def where(self) -> dict[str, Any]:
        """Config keys of the listing of its questions."""
        return {"dataset": self.dataset, "split": self.split, "subtitles": self.subtitles}

    def annotations(self, sources: Sources) -> AnnotationFiles:
        """Return its annotation files."""
        return sources.annotations(self.dataset, self.split, self.subtitles)


class Splits(NamedTuple):
    """The splits that a chain reads, the forward chain of questions only the first.

    Attributes:
        test: whose questions are evaluated.
        train: what Localizer and Answerer are trained on; where queries ask for moments, what the Localizer is.
        pretraining: whose moments the Localizer of the full chain is pre-trained on; None: nobody's, or those of `train`.
    """

    test: Split
    train: Split
    pretraining: Split | None


class SplitArtifacts(NamedTuple):
    """The questions of one split, the frames of their videos, the ViT's features of those, and the ViT.

    The forward chain has neither of the latter where nobody reads features.
    """

    questions: Artifact
    frames: Artifact
    features: Any
    backbone: Any

    @property
    def videos(self) -> tuple[Artifact, Artifact]:
        """Questions and frames: of what keyframes are selected."""
        return self.questions, self.frames

    def read(self, keyframes: Artifact) -> tuple[Artifact, Artifact, Artifact, Artifact]:
        """Return what an Answerer reads where it sees these keyframes only."""
        return self.questions, keyframes, self.features, self.backbone


class Released(NamedTuple):
    """The models before a chain trains them; None for one that it does not use."""

    backbone: Any = None  # a Backbone
    localizer: Artifact | None = None
    answerer: Artifact | None = None


def asks_for_moments(recipe: Recipe) -> bool:
    """Whether the questions are queries for moments of the video: nobody is asked for an answer."""
    prompt = recipe.config_of("score_frames").prompt
    if prompt == "custom":  # asks the same in other words
        prompt = adapter_named(recipe.config_of("list_questions").dataset).about.prompt
    return bool(prompt == "moment")


def evaluates_settings(recipe: Recipe) -> bool:
    """Whether the chain is the full one of questions, which compares choices of keyframes."""
    return recipe.chain.kind == "full" and not asks_for_moments(recipe)


def backbone_stage_name(recipe: Recipe) -> str:
    """Return the name of the stage that makes the recipe's backbone, if there is one."""
    name = recipe.chain.backbone
    return {"imported": "import_backbone", "trained": "train_backbone"}.get(name, name)


def backbone_weights(recipe: Recipe) -> set[str]:
    """Return the name of the weights that the backbone is made from; none where it is made from none."""
    return {getattr(recipe.config_of(backbone_stage_name(recipe)), "weights", "")} - {""}


def uses_localizer(recipe: Recipe) -> bool:
    """Whether the recipe's chain has a Localizer."""
    if evaluates_settings(recipe):
        return bool(set(recipe.chain.selectors) & set(LOCALIZERS))
    return scorer_of(recipe) == LOCALIZER


def scorer_of(recipe: Recipe) -> str:
    """Return who scores frames for the forward chain, as `[chain] scorer` names it; empty where nobody looks at scores."""
    looks = asks_for_moments(recipe) or recipe.config_of("select_keyframes").method == "localizer"
    return recipe.chain.scorer if looks else ""


def scorer_weights(recipe: Recipe) -> set[str]:
    """Return the names of the weights that a scorer other than the Localizer is made from."""
    scorer = scorer_of(recipe)
    first = "" if scorer == LOCALIZER else SCORER_STAGES.get(scorer, (scorer,))[0]  # another package's is one stage
    return {getattr(recipe.configs.get(first), "weights", "")} - {""}


def needed_weights(recipe: Recipe) -> list[str]:
    """Return the names of all weights that the recipe's chain reads, each once."""
    stages = ["init_localizer"] * uses_localizer(recipe) + ["init_answerer"] * uses_answerer(recipe)
    stages += ["answer_with_vlm"] * uses_vlm(recipe)
    names = [recipe.config_of(stage).weights for stage in stages]
    names += [*(backbone_weights(recipe) if reads_features(recipe) else ()), *sorted(scorer_weights(recipe))]
    return list(dict.fromkeys(filter(None, names)))


def queried_by(recipe: Recipe, *weights: Artifact | None) -> tuple[Artifact | None, ...]:
    """Return the weights whose Q-Formers' outputs are kept in place of the ViT's features; None for each where those are."""
    keeps = recipe.config_of("extract_features").level == "queries"
    return weights if keeps else tuple(None for _ in weights)


def compares_vectors(recipe: Recipe) -> bool:
    """Whether the recipe's selector compares vectors of frames."""
    return "vectors" in recipe.config_of("select_keyframes").chosen_by.needs


def uses_vlm(recipe: Recipe) -> bool:
    """Whether another video-language model answers in the Answerer's place."""
    return recipe.chain.answerer == "vlm" and not asks_for_moments(recipe)


def uses_answerer(recipe: Recipe) -> bool:
    """Whether the recipe's chain has an Answerer."""
    return not asks_for_moments(recipe) and not uses_vlm(recipe)


def reads_features(recipe: Recipe) -> bool:
    """Whether somebody in the recipe's chain reads the ViT's features: nobody where others both score and answer."""
    compared = compares_vectors(recipe) and scorer_of(recipe) != "clip"  # which brings vectors of its own
    is_of_others = scorer_of(recipe) in recipe.configs  # another package's stage, which may read them
    return uses_localizer(recipe) or uses_answerer(recipe) or compared or is_of_others


def weights_of(recipe: Recipe, sources: Sources, stage: Stage) -> Weights | None:
    """Return the weights that the recipe names for a stage; None where it names none."""
    name = recipe.config_of(stage.name).weights
    return sources.weights(name) if name else None


def vlm_of(recipe: Recipe, sources: Sources) -> Weights | None:
    """Return the video-language model that answers; None for one that a server has."""
    name = recipe.config_of("answer_with_vlm").weights
    return sources.weights(name, files_of_vlm) if name else None


def exists(artifact: Artifact) -> bool:
    """Whether the artifact is in the store; a plan may not have it yet."""
    return artifact.id is not None and artifact.store.exists(artifact.id)


def knows_moments(questions: Artifact) -> bool:
    """Whether keyframes can be judged by true moments; a plan may not have the questions."""
    return exists(questions) and questions.record.rows["moments"] > 0


def served_by(recipe: Recipe) -> str:
    """Return the name of the model that a server has and that answers; empty where no server is asked."""
    return str(recipe.config_of("answer_with_vlm").served) if uses_vlm(recipe) else ""


def pretrains_localizer(recipe: Recipe) -> bool:
    """Whether the full chain of questions pre-trains the Localizer on moments, to compare or to refine it."""
    return bool(recipe.chain.pretraining_dataset and {"pretrained", "refined"} & set(recipe.chain.selectors))


def splits_of(recipe: Recipe) -> Splits:
    """Return the splits that the recipe's chain reads."""
    chain, listing = recipe.chain, recipe.config_of("list_questions")
    test = Split(listing.dataset, listing.split, "evaluation split", listing.subtitles)
    train = Split(listing.dataset, chain.training_split, "training split", listing.subtitles)
    subtitles = listing.subtitles and chain.pretraining_dataset == listing.dataset
    pretraining = Split(chain.pretraining_dataset, chain.pretraining_split, "pre-training split", subtitles)
    has_own = pretrains_localizer(recipe) and pretraining.where != train.where
    return Splits(test, train, pretraining if has_own else None)
