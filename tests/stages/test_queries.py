"""Q-Former outputs stored in place of ViT features (level = queries), in pieces for long videos."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.errors import SevilaError
from pipeline.inference import frame_encoding
from pipeline.inference.visual_windows import queries_of
from stages.extract_features import Features
from tests.stages.runs import artifact, records, sevila

QUERIES = ("--set", "extract_features.level=queries")
IN_FULL = ("--set", "extract_features.stored_as=float32")


@pytest.fixture(scope="module")
def shared(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(finished, tmp_path_factory.mktemp("queries") / "store"))


def values(store: Path, kind: str, *columns: str) -> np.ndarray:
    table: dict[str, Any] = artifact(store, kind).columns(kind, *columns)
    return np.stack([table[name] for name in columns])


def test_q_former_outputs_give_the_scores_and_answers_of_features(demo: Path, shared: Path) -> None:
    results, names = {}, ("logit_yes", "logit_no", "probability_yes")
    for level in ("features", "queries"):
        more = ("--set", f"extract_features.level={level}", *IN_FULL)
        assert sevila("run", demo, shared, *more) == 0
        rows = artifact(shared, "answers").rows("answers")
        results[level] = values(shared, "frame_scores", *names), [row["prediction"] for row in rows]
    assert np.abs(results["features"][0] - results["queries"][0]).max() < 1e-5
    assert results["features"][1] == results["queries"][1]
    features: Features = artifact(shared, "features")
    assert features.record.config["level"] == "queries"
    assert features.open().read(features.videos()[0].video_id, slice(None)).shape == (8, 2, 4, 32)
    assert features.record.inputs.keys() == {"frames", "backbone", "localizer", "answerer"}


def test_half_precision_q_former_outputs_give_nearly_equal_scores(demo: Path, shared: Path) -> None:
    assert sevila("run", demo, shared, *QUERIES) == 0
    halves = values(shared, "frame_scores", "logit_yes")
    assert sevila("run", demo, shared, *QUERIES, *IN_FULL) == 0
    assert np.abs(halves - values(shared, "frame_scores", "logit_yes")).max() < 0.02


def test_another_prompt_and_vector_selector_reuse_stored_queries(demo: Path, shared: Path) -> None:
    assert sevila("run", demo, shared, *QUERIES) == 0
    before = records(shared)
    words = ("--set", "score_frames.instruction=information_needed", "--set", "select_keyframes.selector=mmr")
    assert sevila("run", demo, shared, *QUERIES, *words) == 0
    new = {record.stage for id, record in records(shared).items() if id not in before}
    assert new == {"score_frames", "select_keyframes", "answer_questions", "evaluate"}
    assert str(artifact(shared, "keyframes").record.inputs["vectors"]).startswith("extract_features-")


def test_the_full_chain_requires_vit_features(demo: Path, shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sevila("plan", demo, shared, "--set", "chain.kind=full", *QUERIES) == 1
    assert "level = 'queries' keeps no features of the ViT, which trainings read" in capsys.readouterr().err


def test_queries_of_another_q_former_are_refused(demo: Path, shared: Path) -> None:
    assert sevila("run", demo, shared, *QUERIES) == 0
    features = artifact(shared, "features")
    localizer = artifact(shared, "answerer_weights")
    localizer.id = "init_localizer-v1-other"
    for weights in (localizer, None):
        with pytest.raises(SevilaError, match="level=features stores the ViT's features"):
            queries_of(features, weights)


def test_encoding_resumes_inside_an_interrupted_video(
    demo: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A piece is three frames here; encoding fails in the second piece of the second video."""
    store, uninterrupted_store = (Path(shutil.copytree(finished, tmp_path / name)) for name in ("store", "whole"))
    compute, encoded = frame_encoding._FrameEncoder._compute, []
    failures = iter([False] * 4 + [True])

    def compute_or_fail(self: Any, encoder: Any, batch: np.ndarray) -> Any:
        if next(failures, False):
            raise SevilaError("a power cut")
        encoded.append(len(batch))
        return compute(self, encoder, batch)

    with monkeypatch.context() as patched:
        patched.setattr(frame_encoding, "PIECE_FRAMES", 3)
        patched.setattr(frame_encoding._FrameEncoder, "_compute", compute_or_fail)
        assert sevila("stage", demo, store, "extract_features", *IN_FULL) == 1
        assert encoded == [3, 3, 2, 3]  # eight frames of the first video, three of the second
        encoded.clear()
        assert sevila("stage", demo, store, "extract_features", *IN_FULL) == 0
    assert sum(encoded) == 8 * 8 - 3 - 3  # two pieces were stored; two were encoded and not yet stored
    assert sevila("stage", demo, uninterrupted_store, "extract_features", *IN_FULL) == 0
    resumed, uninterrupted = artifact(store, "features"), artifact(uninterrupted_store, "features")
    assert resumed.id == uninterrupted.id and resumed.record.rows["parts"] == 8 * 3
    for video in uninterrupted.open().videos:
        both = [each.open().read(video, slice(None)) for each in (resumed, uninterrupted)]
        assert np.allclose(*both, atol=1e-5)
