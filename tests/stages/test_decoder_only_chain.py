"""The stages of a chain with a BLIP-2 of OPT: scores, keyframes, answers, labels and every training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.store import Store
from cli import main
from pipeline.engine.build import build
from pipeline.inference.load_models import load_answerer
from pipeline.inference.option_reader import Readout
from stages.all import STAGES
from tests.small_world import SMALL
from tests.stages.training import INPUTS, SELECTOR_INPUTS, World, make_world, weights_of

pytestmark = pytest.mark.slow

SCORE_INPUTS, ANSWER_INPUTS = INPUTS["pretrain_localizer"], INPUTS["finetune_answerer"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("opt"), videos=4, language="opt")


def build_stage(
    world: World, name: str, *inputs: str, store: Path | None = None, batch_tokens: int = 16384, **config: Any
) -> Any:
    """Build a stage from artifacts of the world, given by name, in `store` or else the world's own."""
    run = world.run(store or world.folder / "store", batch_tokens=batch_tokens)
    return build(STAGES[name], STAGES[name].config(**config), run, [world.inputs[key] for key in inputs])


def test_a_forward_recipe_runs_with_opt(world: World, tmp_path: Path) -> None:
    places = ["--annotations", f"{world.folder / 'questions.jsonl'}", "--videos", f"{world.folder / 'videos'}"]
    places += ["--weights", f"tiny-blip2={world.folder / 'tiny-blip2'}", "--store", str(tmp_path), "--device", "cpu"]
    assert main(["run", SMALL, *places]) == 0
    store = Store(tmp_path)
    stages = {store.record(id).stage for id in store}
    assert {"import_backbone", "score_frames", "select_keyframes", "answer_questions", "evaluate"} <= stages


def test_scores_and_answers_do_not_depend_on_the_size_of_batches(world: World, tmp_path: Path) -> None:
    runs: list[dict[str, Any]] = [{"store": tmp_path / str(size), "batch_tokens": size} for size in (16384, 200)]
    names = ("logit_yes", "logit_no", "probability_yes", "truncated")
    scored = [build_stage(world, "score_frames", *SCORE_INPUTS, **run) for run in runs]
    scores = [artifact.columns("frame_scores", *names) for artifact in scored]
    assert len(scores[0]["logit_yes"]) == 12 * 8 and scores[0]["logit_yes"].std() > 0.01
    assert not scores[0]["truncated"].any()
    for name in names[:3]:
        np.testing.assert_allclose(scores[0][name], scores[1][name], rtol=0, atol=5e-5)
    readouts: tuple[Readout, ...] = ("letter", "text", "text_per_token")
    for readout in readouts:
        answers = [build_stage(world, "answer_questions", *ANSWER_INPUTS, readout=readout, **run) for run in runs]
        logits = [np.concatenate(answer.columns("answers", "option_logits")["option_logits"]) for answer in answers]
        assert {row["status"] for row in answers[0].rows("answers")} == {"ok"}
        np.testing.assert_allclose(logits[0], logits[1], rtol=0, atol=5e-5)


def test_opt_answers_in_words(world: World) -> None:
    rows = build_stage(world, "generate_answers", *ANSWER_INPUTS, max_tokens=3).rows("answers")
    assert len(rows) == 12 and all(row["status"] == "ok" and len(row["token_ids"]) == 3 for row in rows)


@pytest.mark.parametrize("name", [*INPUTS, *SELECTOR_INPUTS])
def test_every_training_leaves_the_language_model_unchanged(world: World, name: str, tmp_path: Path) -> None:
    run = world.run(tmp_path)
    language = load_answerer(run, world.inputs["backbone"], world.inputs["answerer"], "float32").language
    before = language.model.lm_head.weight.clone()
    trained = world.train(name, tmp_path, held_out_percent=0, seed=1)
    curves = trained.rows("curves")
    assert len(curves) == trained.record.rows["curves"] > 1
    assert all(np.isfinite(row["loss"]) and row["gradient_norm"] > 0 for row in curves)
    assert (language.model.lm_head.weight == before).all()
    if name in INPUTS:
        recomputed = world.train(name, tmp_path, held_out_percent=0, seed=1, gradient_checkpointing=True)
        assert weights_of(recomputed) == weights_of(trained)
        assert weights_of(trained) != weights_of(world.inputs["localizer"])


def test_labels_are_predictions_of_the_answerer_for_each_frame(world: World) -> None:
    labels = build_stage(world, "label_frames", "questions", "frames", "features", "backbone", "answerer")
    rows = labels.rows("pseudo_labels")
    assert len(rows) == 12 * 8
    assert all(row["prediction"] == int(np.argmax(row["option_logits"])) for row in rows)
    assert len({round(row["option_logits"][0], 3) for row in rows}) > 8
