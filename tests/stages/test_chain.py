"""The chains as figures: the artifacts that each stage reads, walked without building anything."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from cache.store import Store
from pipeline.engine.recipe import load
from pipeline.engine.stage import Artifact, Stage
from stages.all import STAGES
from stages.chain import chain_of

FULL = (
    "chain.kind=full",
    "list_questions.split=test",
    "chain.pretraining_dataset=qvhighlights",
    "chain.pretraining_split=train",
)


class Outside:
    """Sources of which every lookup returns the name of its kind."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: name

    def check(self, *arguments: Any) -> None:
        pass


class Drawing:
    """Draws an arrow from each step to every reader of its artifact; a step is `stage` or `stage (setting)`."""

    def __init__(self, settings: tuple[str, ...], folder: Path, recipe: str = "plain") -> None:
        self.arrows: list[tuple[str, str]] = []
        self.stages: list[str] = []
        self._names: dict[int, str] = {}
        self._kept: list[Artifact] = []
        self._recipe, self._store = load(recipe, STAGES, settings), Store(folder)
        chain_of(self._recipe)(self._recipe, self, Outside())  # type: ignore[arg-type]

    def __call__(self, stage: Stage, /, *inputs: Any, setting: str = "", **changes: Any) -> Artifact:
        self._recipe.config(stage, **changes)
        assert len(inputs) == len(stage.inputs), stage.name
        name = f"{stage.name} ({setting})" if setting else stage.name
        self.stages.append(stage.name)
        self.arrows += [(self._names.get(id(value), value), name) for value in inputs if value is not None]
        artifact = stage.output(self._store, None, "only drawn")
        self._kept.append(artifact)
        self._names[id(artifact)] = name
        return artifact

    def into(self, name: str) -> list[str]:
        """Return the inputs of a step in order."""
        return [source for source, target in self.arrows if target == name]


def videos(split: str) -> list[str]:
    """Return the steps that list, sample and encode a split."""
    return [f"{stage} ({split} split)" for stage in ("list_questions", "sample_frames", "extract_features")]


def test_forward_chain_is_figure_1(tmp_path: Path) -> None:
    figure = Drawing((), tmp_path)
    assert figure.stages == [
        *("list_questions", "import_backbone", "init_localizer", "init_answerer"),
        *("sample_frames", "extract_features", "score_frames", "select_keyframes", "answer_questions", "evaluate"),
    ]
    inputs, backbone = ["list_questions", "sample_frames", "extract_features"], "import_backbone"
    assert figure.into("sample_frames") == ["videos"]
    assert figure.into("extract_features") == ["sample_frames", backbone]
    assert figure.into("score_frames") == [*inputs, backbone, "init_localizer"]
    assert figure.into("select_keyframes") == ["list_questions", "sample_frames", "score_frames"]
    assert figure.into("answer_questions") == [
        *("list_questions", "select_keyframes", "extract_features", backbone, "init_answerer")
    ]
    assert figure.into("evaluate") == ["list_questions", "answer_questions"]


def test_full_chain_is_figure_3(tmp_path: Path) -> None:
    figure = Drawing((*FULL, 'chain.selectors=["pretrained", "refined"]'), tmp_path)
    backbone = "import_backbone"
    pretraining, training, evaluation = map(videos, ("pre-training", "training", "evaluation"))

    # The Localizer is pre-trained on moments.
    assert figure.into("pretrain_localizer") == [*pretraining, backbone, "init_localizer"]

    # The Answerer is fine-tuned on its keyframes of the training split.
    name = "pre-trained Localizer"
    scores, keyframes = f"score_frames ({name}, training split)", f"select_keyframes ({name}, training split)"
    assert figure.into(scores) == [*training, backbone, "pretrain_localizer"]
    assert figure.into(keyframes) == [*training[:2], scores]
    answerer_inputs = [training[0], keyframes, training[2], backbone, "init_answerer"]
    assert figure.into(f"finetune_answerer ({name})") == answerer_inputs

    # Reverse chain: the Answerer's labels of single frames refine the Localizer.
    assert figure.into("label_frames (round 1)") == [*training, backbone, "init_answerer"]
    assert figure.into("refine_localizer (round 1)") == [
        *(*training, backbone, "pretrain_localizer", "label_frames (round 1)")
    ]

    # The refined Localizer's keyframes are answered zero-shot, and by an Answerer that is fine-tuned on them.
    name = "refined Localizer"
    keyframes = f"select_keyframes ({name})"
    assert figure.into(f"score_frames ({name})") == [*evaluation, backbone, "refine_localizer (round 1)"]
    for who, answerer in (
        ("zero-shot", "init_answerer"),
        ("zero-shot, voting", "init_answerer"),
        ("fine-tuned", f"finetune_answerer ({name})"),
    ):
        answers = f"answer_questions ({name}, {who})"
        assert figure.into(answers) == [evaluation[0], keyframes, evaluation[2], backbone, answerer]
        assert figure.into(f"evaluate ({name}, {who})") == [evaluation[0], answers]


def test_each_round_labels_with_the_newest_answerer_and_refines_the_newest_localizer(tmp_path: Path) -> None:
    figure = Drawing((*FULL, 'chain.selectors=["refined"]', "chain.iterations=2"), tmp_path)
    assert figure.into("label_frames (round 2)")[-1] == "finetune_answerer (refined Localizer)"
    assert figure.into("refine_localizer (round 2)")[-2:] == ["refine_localizer (round 1)", "label_frames (round 2)"]
    assert figure.into("finetune_answerer (refined Localizer, round 2)")[-1] == "finetune_answerer (refined Localizer)"
    assert not any("(pre-trained Localizer" in target for _, target in figure.arrows)  # trained, not evaluated


def test_trained_selectors_learn_from_the_training_split_without_a_localizer(tmp_path: Path) -> None:
    figure = Drawing((*FULL[:2], 'chain.selectors=["atp", "differentiable_top_k"]'), tmp_path)
    for name in ("ATP", "differentiable top-k"):
        models = ["import_backbone", "init_answerer"]
        trained = f"train_selector ({name})"
        assert figure.into(trained) == [*videos("training"), *models]
        assert figure.into(f"score_by_selector ({name}, training split)") == [*videos("training"), *models, trained]
        assert figure.into(f"score_by_selector ({name})") == [*videos("evaluation"), *models, trained]
        assert figure.into(f"select_keyframes ({name})")[-1] == f"score_by_selector ({name})"
        assert figure.into(f"finetune_answerer ({name})")[1] == f"select_keyframes ({name}, training split)"
    assert not {"init_localizer", "score_frames"} & {*figure.stages}


def test_pretraining_on_the_training_split_extracts_it_once(tmp_path: Path) -> None:
    settings = ("chain.pretraining_dataset=plain", "chain.pretraining_split=train", 'chain.selectors=["pretrained"]')
    figure = Drawing((*FULL[:2], *settings), tmp_path)
    stages = ("list_questions", "sample_frames", "extract_features")
    assert [figure.stages.count(stage) for stage in stages] == [2] * 3
    assert figure.into("pretrain_localizer") == [*videos("training"), "import_backbone", "init_localizer"]


def test_training_reads_nothing_of_the_evaluation_split(tmp_path: Path) -> None:
    figure = Drawing((*FULL, 'chain.selectors=["uniform", "oracle", "untrained", "pretrained", "refined"]'), tmp_path)
    upstream = {name for name in STAGES if any(word in name for word in ("pretrain", "refine", "finetune"))}
    reached = [target for target in dict(map(reversed, figure.arrows)) if target.split(" ")[0] in upstream]  # type: ignore[arg-type]
    while reached:
        sources = [source for name in reached for source in figure.into(name)]
        assert not any("evaluat" in source or "(test)" in source for source in sources), sources
        reached = [source for source in dict.fromkeys(sources) if figure.into(source)]


def test_evaluation_trains_nothing() -> None:
    source = Path(__file__).parents[2] / "stages" / "chain.py"
    (evaluate,) = [
        node
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == "_evaluate"
    ]
    stages = {node.attr for node in ast.walk(evaluate) if isinstance(node, ast.Attribute)} & {*STAGES}
    assert stages == {"evaluate_localization", "answer_questions", "evaluate"}


@pytest.mark.parametrize("kind", ["forward", "full"])
def test_moment_retrieval_pretrains_its_localizer_in_the_full_chain(kind: str, tmp_path: Path) -> None:
    figure = Drawing((f"chain.kind={kind}",), tmp_path, "qvhighlights")
    localizer = "pretrain_localizer" if kind == "full" else "init_localizer"
    assert figure.into("score_frames")[-1] == localizer
    assert figure.stages[-2:] == ["retrieve_moments", "evaluate_moments"]
    assert "init_answerer" not in figure.stages and "answer_questions" not in figure.stages
