"""The chains as figures: which stage's artifact goes into which, walked without making anything."""

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
    """Whatever is asked for from outside, by what it is."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: name

    def check(self, *arguments: Any) -> None:
        pass


class Drawing:
    """Draws an arrow from each step to each that reads what it makes; a step is `stage` or `stage (which of several)`."""

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
        """What a step reads, in the order of its inputs."""
        return [source for source, target in self.arrows if target == name]


def test_forward_chain_is_figure_1(tmp_path: Path) -> None:
    figure = Drawing((), tmp_path)
    assert figure.stages == [
        *("list_questions", "import_backbone", "init_localizer", "init_answerer"),
        *("sample_frames", "extract_features", "score_frames", "select_keyframes", "answer_questions", "evaluate"),
    ]
    videos, backbone = ["list_questions", "sample_frames", "extract_features"], "import_backbone"
    assert figure.into("sample_frames") == ["videos"]
    assert figure.into("extract_features") == ["sample_frames", backbone]
    assert figure.into("score_frames") == [*videos, backbone, "init_localizer"]
    assert figure.into("select_keyframes") == ["list_questions", "sample_frames", "score_frames"]
    assert figure.into("answer_questions") == [
        *("list_questions", "select_keyframes", "extract_features", backbone, "init_answerer")
    ]
    assert figure.into("evaluate") == ["list_questions", "answer_questions"]


def test_full_chain_is_figure_3(tmp_path: Path) -> None:
    figure = Drawing((*FULL, 'chain.selectors=["pretrained", "refined"]'), tmp_path)
    backbone = "import_backbone"
    seen = [f"{stage} (training split)" for stage in ("sample_frames", "extract_features")]
    asked = [f"{stage} (evaluation split)" for stage in ("sample_frames", "extract_features")]

    # The Localizer learns from moments.
    moments = [f"{stage} (pre-training split)" for stage in ("sample_frames", "extract_features")]
    pretrained = figure.into("pretrain_localizer")
    assert pretrained == ["list_questions (pre-training split)", *moments, backbone, "init_localizer"]

    # Its keyframes of the training split teach the Answerer.
    learned = ["list_questions (training split)", *seen]
    name = "pre-trained Localizer"
    scored, chosen = f"score_frames ({name}, training split)", f"select_keyframes ({name}, training split)"
    assert figure.into(scored) == [*learned, backbone, "pretrain_localizer"]
    assert figure.into(chosen) == [*learned[:2], scored]
    assert figure.into(f"finetune_answerer ({name})") == [learned[0], chosen, seen[1], backbone, "init_answerer"]

    # The reverse chain: what the Answerer says of single frames teaches the Localizer.
    assert figure.into("label_frames (round 1)") == [*learned, backbone, "init_answerer"]
    assert figure.into("refine_localizer (round 1)") == [
        *(*learned, backbone, "pretrain_localizer", "label_frames (round 1)")
    ]

    # And the refined Localizer the Answerer; zero-shot answers are those of the Answerer as it came.
    name = "refined Localizer"
    chosen = f"select_keyframes ({name})"
    assert figure.into(f"score_frames ({name})") == [
        "list_questions (evaluation split)",
        *asked,
        backbone,
        "refine_localizer (round 1)",
    ]
    for who, answerer in (
        ("zero-shot", "init_answerer"),
        ("zero-shot, voting", "init_answerer"),
        ("fine-tuned", f"finetune_answerer ({name})"),
    ):
        answers = f"answer_questions ({name}, {who})"
        assert figure.into(answers) == ["list_questions (evaluation split)", chosen, asked[1], backbone, answerer]
        assert figure.into(f"evaluate ({name}, {who})") == ["list_questions (evaluation split)", answers]


def test_each_round_labels_with_the_newest_answerer_and_refines_the_newest_localizer(tmp_path: Path) -> None:
    figure = Drawing((*FULL, 'chain.selectors=["refined"]', "chain.iterations=2"), tmp_path)
    assert figure.into("label_frames (round 2)")[-1] == "finetune_answerer (refined Localizer)"
    assert figure.into("refine_localizer (round 2)")[-2:] == ["refine_localizer (round 1)", "label_frames (round 2)"]
    assert figure.into("finetune_answerer (refined Localizer, round 2)")[-1] == "finetune_answerer (refined Localizer)"
    assert not any("(pre-trained Localizer" in target for _, target in figure.arrows)  # trained, not evaluated


def test_a_selector_learns_from_the_training_split_and_scores_both_and_no_localizer_is_there(tmp_path: Path) -> None:
    figure = Drawing((*FULL[:2], 'chain.selectors=["atp", "differentiable_top_k"]'), tmp_path)
    for name in ("ATP", "differentiable top-k"):
        train, test = (
            [f"{stage} ({which} split)" for stage in ("list_questions", "sample_frames", "extract_features")]
            for which in ("training", "evaluation")
        )
        models = ["import_backbone", "init_answerer"]
        trained = f"train_selector ({name})"
        assert figure.into(trained) == [*train, *models]
        assert figure.into(f"score_by_selector ({name}, training split)") == [*train, *models, trained]
        assert figure.into(f"score_by_selector ({name})") == [*test, *models, trained]
        assert figure.into(f"select_keyframes ({name})")[-1] == f"score_by_selector ({name})"
        assert figure.into(f"finetune_answerer ({name})")[1] == f"select_keyframes ({name}, training split)"
    assert not {"init_localizer", "score_frames"} & {*figure.stages}


def test_moments_of_the_training_split_itself_are_listed_and_extracted_once(tmp_path: Path) -> None:
    settings = ("chain.pretraining_dataset=plain", "chain.pretraining_split=train", 'chain.selectors=["pretrained"]')
    figure = Drawing((*FULL[:2], *settings), tmp_path)
    assert [figure.stages.count(stage) for stage in ("list_questions", "sample_frames", "extract_features")] == [
        2,
        2,
        2,
    ]
    read = ["list_questions (training split)", "sample_frames (training split)", "extract_features (training split)"]
    assert figure.into("pretrain_localizer") == [*read, "import_backbone", "init_localizer"]


def test_nothing_that_evaluates_is_read_by_a_training(tmp_path: Path) -> None:
    figure = Drawing((*FULL, 'chain.selectors=["uniform", "oracle", "untrained", "pretrained", "refined"]'), tmp_path)
    upstream = {name for name in STAGES if any(word in name for word in ("pretrain", "refine", "finetune"))}
    reached = [target for target in dict(map(reversed, figure.arrows)) if target.split(" ")[0] in upstream]  # type: ignore[arg-type]
    while reached:
        sources = [source for name in reached for source in figure.into(name)]
        assert not any("evaluat" in source or "(test)" in source for source in sources), sources
        reached = [source for source in dict.fromkeys(sources) if figure.into(source)]


def test_what_evaluates_trains_nothing() -> None:
    source = Path(__file__).parents[2] / "stages" / "chain.py"
    (evaluates,) = [
        node
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == "_evaluate"
    ]
    used = {node.attr for node in ast.walk(evaluates) if isinstance(node, ast.Attribute)} & {*STAGES}
    assert used == {"evaluate_localization", "answer_questions", "evaluate"}


@pytest.mark.parametrize("kind", ["forward", "full"])
def test_queries_become_moments_after_pretraining_in_the_full_chain(kind: str, tmp_path: Path) -> None:
    figure = Drawing((f"chain.kind={kind}",), tmp_path, "qvhighlights")
    localizer = "pretrain_localizer" if kind == "full" else "init_localizer"
    assert figure.into("score_frames")[-1] == localizer
    assert figure.stages[-2:] == ["retrieve_moments", "evaluate_moments"]
    assert "init_answerer" not in figure.stages and "answer_questions" not in figure.stages
