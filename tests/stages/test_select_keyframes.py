"""Any registered selector in a recipe: with or without Localizer scores, with options, and from another package."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from cache.errors import RecipeError
from pipeline.engine.output import Output
from pipeline.engine.recipe import load
from pipeline.engine.stage import Artifact, Config, RunContext, stage
from pipeline.recipes.results import Choice
from pipeline.selection.keyframes import RANKED_BY, RankBy
from pipeline.selection.registry import selector_named
from pipeline.selection.selector import Candidates
from stages.all import STAGES
from stages.list_questions import Questions
from stages.score_frames import FrameScores
from tests.conftest import Package
from tests.stages.runs import artifact, sevila

EVERY_NTH = """
import numpy as np
from pydantic import Field
from pipeline.selection.selector import Options, selector

class EveryNthOptions(Options):
    step: int = Field(2, ge=1)

@selector(version={version}, source="nobody")
def every_nth({parameters}, k, options: EveryNthOptions):
    return np.arange(0, {length}, options.step)[:k]
"""
WITHOUT_SCORES = EVERY_NTH.format(version=1, parameters="n_frames", length="n_frames")
WITH_SCORES = EVERY_NTH.format(version=1, parameters="scores", length="len(scores)")


def settings(*changes: str) -> list[str]:
    return [word for change in changes for word in ("--set", f"select_keyframes.{change}")]


def config(*changes: str, seed: int | None = None) -> Any:
    return load("plain", STAGES, [f"select_keyframes.{change}" for change in changes], seed).config_of(
        "select_keyframes"
    )


def chosen_rows(store: Path) -> list[dict[str, Any]]:
    keyframes: Artifact = artifact(store, "keyframes")
    return [row for row in keyframes.rows("keyframes") if row["status"] == "ok"]


@pytest.mark.parametrize(
    ("name", "options"),
    [("aks", {"t1": 0.1}), ("bolt", {"power": 3.0}), ("q_frame", {}), ("peaks", {"neighbours": 2}), ("top_k", {})],
)
def test_a_selector_in_a_chain_chooses_the_same_frames_as_called_directly(
    name: str, options: dict[str, Any], demo: Path, store: Path
) -> None:
    text = ", ".join(f"{key} = {value}" for key, value in options.items())
    more = settings(f"selector={name}", f"options={{{text}}}", "k=3", "seed=5")
    assert sevila("stage", demo, store, "select_keyframes", *more) == 0
    selector, by_question = selector_named(name), artifact(store, "frame_scores").by_question()
    checked = selector.options_from(options | ({"seed": 5} if "rng" in selector.needs else {}))
    rows = chosen_rows(store)
    assert len(rows) == 24
    for row in rows:
        scores = by_question.ranking("logit_yes")[row["question_id"]]
        expected = selector(Candidates.of(scores=scores, question_id=row["question_id"]), 3, checked)
        assert row["positions"] == expected.tolist() and row["scores"] == scores[expected].tolist()


@pytest.mark.parametrize("rank_by", RANKED_BY)
def test_ranking_by_the_required_columns_equals_ranking_of_all_columns(rank_by: RankBy, finished: Path) -> None:
    scores = artifact(finished, "frame_scores")
    of_all, of_required = (scores.by_question(*names).ranking(rank_by) for names in ((), RANKED_BY[rank_by]))
    assert len(of_required) == 24
    assert {id: values.tolist() for id, values in of_required.items()} == {id: of_all[id].tolist() for id in of_all}


def test_keyframes_chosen_twice_are_answered(demo: Path, store: Path) -> None:
    assert sevila("run", demo, store, *settings("selector=bolt", "options={power = 60}")) == 0
    assert any(len(set(row["positions"])) < len(row["positions"]) for row in chosen_rows(store))
    answers = artifact(store, "answers").rows("answers")
    assert [row["status"] for row in answers].count("ok") == 24


def test_a_selector_that_chooses_no_frame_fails_the_question_and_not_its_video(demo: Path, store: Path) -> None:
    assert sevila("run", demo, store, *settings("selector=aks", "options={official = true, t1 = 2}")) == 0
    failed = artifact(store, "keyframes").rows("keyframes")[0]
    assert failed["reason"] == "no_frame_chosen: aks chose none of the 8 sampled frames" and not failed["positions"]
    assert len(artifact(store, "metrics").rows("missing_videos")) == 2  # the unreadable ones


def test_an_external_selector_without_scores_needs_no_localizer(
    demo: Path, finished: Path, package: Package, tmp_path: Path
) -> None:
    package("every_nth", WITHOUT_SCORES)
    store = Path(shutil.copytree(finished, tmp_path / "own"))
    assert sevila("run", demo, store, *settings("selector=every_nth", "options={step = 3}")) == 0
    record = artifact(store, "keyframes").record
    assert record.inputs["scores"] is None and record.config["method"] == "every_nth"
    assert record.config["options"] == {"step": 3} and "selector" not in record.config
    assert all(row["positions"] == [0, 3, 6] and row["scores"] == [] for row in chosen_rows(store))


def test_an_external_selector_of_scores_reads_the_localizers_scores(demo: Path, store: Path, package: Package) -> None:
    package("every_nth", WITH_SCORES)
    assert sevila("run", demo, store, *settings("selector=every_nth")) == 0
    assert all(row["positions"] == [0, 2, 4, 6] and len(row["scores"]) == 4 for row in chosen_rows(store))
    assert artifact(store, "keyframes").record.inputs["scores"]


def test_the_original_methods_keep_their_config() -> None:
    before = {"method": "localizer", "k": 4, "rank_by": "logit_yes", "seed": 0}
    assert config().model_dump() == before
    for method in ("uniform", "oracle"):
        assert config(f"method={method}").model_dump() == before | {"method": method}
        assert config(f"selector={method}") == config(f"method={method}")
    assert config("selector=random", seed=3).model_dump() == before | {"method": "random", "seed": 3}


def test_the_version_of_a_selector_is_part_of_its_identity(package: Package) -> None:
    package("every_nth", EVERY_NTH.format(version=2, parameters="n_frames", length="n_frames"))
    dumped = config("selector=every_nth").model_dump()
    assert dumped["selector_version"] == 2 and dumped["options"] == {"step": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["selector=ask"],
            r"selector = 'ask': no selector is called 'ask' \(did you mean 'aks'\?\); there are: aks, bolt, ",
        ),
        (
            ["selector=aks", "options={t9 = 1}"],
            r"options = \{'t9': 1\}: aks has no option 't9' \(did you mean 't2'\?\)",
        ),
        (["selector=aks", "options={t1 = 'x'}"], r"aks\.t1 is 'x': Input should be a valid number"),
        (["options={t1 = 1.0}"], r"top_k has no option 't1' \(options of top_k: none\)"),
        (["method=aks"], r"method = 'aks': chooses by scores; expected selector = 'aks'"),
        (["method=localizer", "selector=uniform"], r"uses no scores; expected method = 'uniform'"),
        (["method=uniform", "selector=aks"], r"method = 'uniform' uses none; expected one of them"),
        (["method=localiser"], r"is no method \(did you mean 'localizer'\?\)"),
    ],
)
def test_an_unknown_selector_or_option_is_an_error(changes: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        config(*changes)


def test_a_full_chain_uses_the_recipes_selector_for_localizer_scores() -> None:
    recipe = load("plain", STAGES, ["select_keyframes.selector=q_frame"], seed=7)
    refined = recipe.config(STAGES["select_keyframes"], **Choice("refined", 1).changes)
    assert refined.selector == "q_frame" and refined.options == {"temperature": 0.8, "seed": 7}
    uniform = recipe.config(STAGES["select_keyframes"], **Choice("uniform").changes)
    assert uniform.model_dump() == {"method": "uniform", "k": 4, "rank_by": "logit_yes", "seed": 0}
    random = recipe.config(STAGES["select_keyframes"], **Choice("random").changes)
    assert random.model_dump() == {"method": "random", "k": 4, "rank_by": "logit_yes", "seed": 7}


def test_a_full_chain_compares_an_external_selector(package: Package) -> None:
    package("every_nth", WITHOUT_SCORES)
    recipe = load("plain", STAGES, ["chain.selectors=['refined', 'oracle', 'every_nth']"])
    assert recipe.chain.selectors[2] == "every_nth" and Choice("every_nth").name == "every_nth"
    assert recipe.config(STAGES["select_keyframes"], **Choice("every_nth").changes).options == {"step": 2}
    with pytest.raises(RecipeError, match=r"aks chooses by scores; \[select_keyframes\] selector = 'aks' says how"):
        load("plain", STAGES, ["chain.selectors=['aks']"])
    with pytest.raises(RecipeError, match=r"no selector is called 'refind' \(did you mean 'refined'\?\)"):
        load("plain", STAGES, ["chain.selectors=['refind']"])


def test_an_external_selector_of_vectors_reads_features(demo: Path, store: Path, package: Package) -> None:
    package("every_nth", EVERY_NTH.format(version=1, parameters="vectors", length="len(vectors)"))
    assert sevila("stage", demo, store, "select_keyframes", *settings("selector=every_nth")) == 0
    assert all(row["positions"] == [0, 2, 4, 6] and row["scores"] == [] for row in chosen_rows(store))
    inputs = artifact(store, "keyframes").record.inputs
    assert inputs["scores"] is None and inputs["vectors"].startswith("extract_features-")


class ScoreNothing(Config):
    """No keys."""


@stage(version=1, output=FrameScores)
def score_nothing(cfg: ScoreNothing, run: RunContext, questions: Questions, *, out: Output) -> None:
    """Score no frame."""
    out.write_rows("frame_scores", [])


def test_questions_without_a_score_of_an_external_scorer_fail_as_unscored(
    demo: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STAGES, "score_nothing", score_nothing)
    assert sevila("run", demo, store, "--set", "chain.scorer=score_nothing") == 0
    reasons = {row["reason"] for row in artifact(store, "keyframes").rows("keyframes") if row["status"] != "ok"}
    assert "unscored: score_nothing has no score of it" in reasons and "not_finite" not in str(reasons)
