"""ATP and differentiable top-k: selectors that are trained on answers and score frames like any scorer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cache.errors import SevilaError
from pipeline.engine.build import build
from pipeline.models import frame_selector
from pipeline.models.frame_selector import FrameSelector, one_frame, top_k_frames
from stages.all import STAGES
from stages.train_selector import SELECTOR_FILE
from tests.stages.test_out_of_memory import with_memory_for
from tests.stages.training import World, make_world

SELECTORS = ("atp", "differentiable_top_k")
SCORED_FROM = ("questions", "frames", "features", "backbone", "answerer")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), videos=4, answers=11)


def train_selector(world: World, store: Path, selector: str, **config: Any) -> Any:
    return world.train("train_selector", store, selector=selector, k=2, noise_draws=20, batch_size=6, **config)


def score_frames(world: World, store: Path, selector: Any, **run: Any) -> Any:
    stage = STAGES["score_by_selector"]
    inputs = [*(world.inputs[name] for name in SCORED_FROM), selector]
    return build(stage, stage.config(), world.run(store, **run), inputs)


@pytest.mark.parametrize("selector", SELECTORS)
def test_a_selector_trains_on_answers_and_scores_every_frame(world: World, tmp_path: Path, selector: str) -> None:
    weights = train_selector(world, tmp_path, selector)
    assert weights.record.dropped == {"no_answer": 1}
    assert all(np.isfinite(row["loss"]) and row["gradient_norm"] > 0 for row in weights.rows("curves"))
    scores = score_frames(world, tmp_path, weights)
    table = scores.columns("frame_scores", "question_id", "position", "logit_yes", "logit_no", "probability_yes")
    assert len(table["position"]) == 12 * 8 and len(set(table["question_id"])) == 12
    assert np.array_equal(table["logit_yes"], table["probability_yes"]) and not table["logit_no"].any()
    assert len(set(table["logit_yes"].tolist())) > 12  # frames differ
    stage = STAGES["select_keyframes"]
    chosen = build(
        stage, stage.config(k=2), world.run(tmp_path), [*(world.inputs[n] for n in SCORED_FROM[:2]), scores, None]
    )
    assert [len(row["rows"]) for row in chosen.rows("keyframes")] == [2] * 12


@pytest.mark.parametrize("selector", SELECTORS)
def test_equal_seeds_give_equal_selectors_and_shards_do_not_change_scores(
    world: World, tmp_path: Path, selector: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, again = (train_selector(world, tmp_path / name, selector) for name in ("one", "again"))
    other = train_selector(world, tmp_path / "one", selector, seed=1)
    files = [Path(each.path / SELECTOR_FILE).read_bytes() for each in (one, again, other)]
    assert files[0] == files[1] != files[2]
    unsharded = score_frames(world, tmp_path / "one", one)
    sharded = score_frames(world, tmp_path / "again", again, shard_bytes=1)
    monkeypatch.setattr("pipeline.inference.frame_by_frame.MAX_PAIRS", 1)  # a shard for each question
    by_question = score_frames(world, tmp_path / "by_question", one)
    assert [len(each.files("frame_scores", ".parquet")) for each in (unsharded, sharded, by_question)] == [1, 4, 12]
    columns = ("question_id", "frame_index", "logit_yes")
    a, b, c = (each.columns("frame_scores", *columns) for each in (unsharded, sharded, by_question))
    assert all(np.array_equal(a[name], b[name]) for name in columns)
    assert all(np.array_equal(a[name], c[name]) for name in columns[:2])
    np.testing.assert_allclose(a["logit_yes"], c["logit_yes"], rtol=0, atol=1e-5)


def test_only_selector_weights_are_stored(world: World, tmp_path: Path) -> None:
    names = {name.split(".")[0] for name in FrameSelector(8).state_dict()}
    weights = train_selector(world, tmp_path, "atp")
    assert {name.split(".")[0] for name in load_file(weights.path / SELECTOR_FILE)} == names


def test_a_question_without_finite_scores_fails_and_none_finite_is_an_error(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = train_selector(world, tmp_path, "atp")
    original, calls = FrameSelector.scores, []

    def first_is_broken(self: FrameSelector, *inputs: Any) -> np.ndarray:
        calls.append(1)
        return original(self, *inputs) * (np.nan if len(calls) == 1 else 1)

    monkeypatch.setattr(FrameSelector, "scores", first_is_broken)
    scores = score_frames(world, tmp_path, weights)
    assert scores.record.dropped == {"not_finite_scores": 1}
    (reason,) = scores.by_question().failed.values()
    assert reason.code == "not_finite_scores"
    monkeypatch.setattr(FrameSelector, "scores", lambda self, vectors, rows, text: np.full(len(rows), np.nan))
    with pytest.raises(SevilaError, match="gave no question finite scores"):
        score_frames(world, tmp_path / "broken", weights)


def test_questions_are_read_in_smaller_batches_when_memory_runs_out(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    weights = train_selector(world, tmp_path, "atp")
    expected = score_frames(world, tmp_path / "large", weights).columns("frame_scores", "question_id", "logit_yes")
    monkeypatch.setattr(frame_selector, "text_vectors", with_memory_for(1, frame_selector.text_vectors))
    limited = score_frames(world, tmp_path / "small", weights).columns("frame_scores", "question_id", "logit_yes")
    assert any(message.startswith("score_by_selector: out of memory with ") for message in caplog.messages)
    assert limited["question_id"].tolist() == expected["question_id"].tolist()
    np.testing.assert_allclose(limited["logit_yes"], expected["logit_yes"], rtol=0, atol=1e-5)


def test_a_selector_reads_stored_queries_and_a_localizer_of_several_frames_refuses_them(
    world: World, tmp_path: Path
) -> None:
    weights = train_selector(world, tmp_path, "atp")
    extract = STAGES["extract_features"]
    inputs = [world.inputs[name] for name in ("frames", "backbone", "localizer", "answerer")]
    queries = build(extract, extract.config(level="queries", stored_as="float32"), world.run(tmp_path), inputs)
    with_queries = World(world.folder, {**world.inputs, "features": queries})
    logits = [
        score_frames(each, tmp_path, weights).columns("frame_scores", "logit_yes")["logit_yes"]
        for each in (world, with_queries)
    ]
    assert np.abs(logits[0] - logits[1]).max() < 0.02  # the ViT's features are float16
    stage = STAGES["score_frames"]
    inputs_of_scores = [
        with_queries.inputs[name] for name in ("questions", "frames", "features", "backbone", "localizer")
    ]
    with pytest.raises(SevilaError, match="expected the ViT's features"):
        build(stage, stage.config(frames_at_once=4), world.run(tmp_path), inputs_of_scores)


def test_a_selector_learns_to_find_the_relevant_frame() -> None:
    """One of eight frames has the vector that the question names."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    signs = torch.randn(2, 32, generator=generator)

    def sample(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        named, where = torch.randint(2, (n,), generator=generator), torch.randint(8, (n,), generator=generator)
        frames = torch.randn(n, 8, 32, generator=generator)
        frames[torch.arange(n), where] = signs[named]
        return frames, signs[named], where

    for k, pass_on in ((1, one_frame), (2, lambda scores: top_k_frames(scores, 2, 50, 0.05))):
        selector = FrameSelector(32)
        optimizer = torch.optim.AdamW(selector.parameters(), lr=3e-3)
        for _ in range(100):
            frames, question, where = sample(24)
            passed = pass_on(selector(frames, question)).sum(dim=1)
            loss = -passed[torch.arange(24), where].mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        selector.eval()
        frames, question, where = sample(200)
        chosen = selector(frames, question).topk(k, dim=1).indices
        assert float((chosen == where[:, None]).any(dim=1).float().mean()) > 0.9
