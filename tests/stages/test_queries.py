"""Long videos: Q-Former outputs in place of the ViT's features, stored piece by piece."""

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
def own(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(finished, tmp_path_factory.mktemp("queries") / "store"))


def values(store: Path, kind: str, *columns: str) -> np.ndarray:
    table: dict[str, Any] = artifact(store, kind).columns(kind, *columns)
    return np.stack([table[name] for name in columns])


def test_q_former_outputs_give_the_scores_and_answers_that_features_give(demo: Path, own: Path) -> None:
    said, names = {}, ("logit_yes", "logit_no", "probability_yes")
    for level in ("features", "queries"):
        more = ("--set", f"extract_features.level={level}", *IN_FULL)
        assert sevila("run", demo, own, *more) == 0
        rows = artifact(own, "answers").rows("answers")
        said[level] = values(own, "frame_scores", *names), [row["prediction"] for row in rows]
    assert np.abs(said["features"][0] - said["queries"][0]).max() < 1e-5
    assert said["features"][1] == said["queries"][1]
    features: Features = artifact(own, "features")
    assert features.record.config["level"] == "queries"
    assert features.open().read(features.videos()[0].video_id, slice(None)).shape == (8, 2, 4, 32)
    assert features.record.inputs.keys() == {"frames", "backbone", "localizer", "answerer"}


def test_stored_in_half_precision_they_choose_as_features_do(demo: Path, own: Path) -> None:
    assert sevila("run", demo, own, *QUERIES) == 0
    halves = values(own, "frame_scores", "logit_yes")
    assert sevila("run", demo, own, *QUERIES, *IN_FULL) == 0
    assert np.abs(halves - values(own, "frame_scores", "logit_yes")).max() < 0.02


def test_another_prompt_encodes_no_frame_and_selectors_find_their_vectors(demo: Path, own: Path) -> None:
    assert sevila("run", demo, own, *QUERIES) == 0
    before = records(own)
    words = ("--set", "score_frames.instruction=information_needed", "--set", "select_keyframes.selector=mmr")
    assert sevila("run", demo, own, *QUERIES, *words) == 0
    new = {record.stage for id, record in records(own).items() if id not in before}
    assert new == {"score_frames", "select_keyframes", "answer_questions", "evaluate"}
    assert str(artifact(own, "keyframes").record.inputs["vectors"]).startswith("extract_features-")


def test_a_training_says_that_it_needs_what_the_vit_gave(
    demo: Path, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sevila("plan", demo, own, "--set", "chain.kind=full", *QUERIES) == 1
    assert "level = 'queries' keeps no features of the ViT, which trainings read" in capsys.readouterr().err


def test_outputs_of_other_q_formers_are_refused(demo: Path, own: Path) -> None:
    assert sevila("run", demo, own, *QUERIES) == 0
    features = artifact(own, "features")
    localizer = artifact(own, "answerer_weights")
    localizer.id = "init_localizer-v1-other"
    for weights in (localizer, None):
        with pytest.raises(SevilaError, match="level=features stores the ViT's features"):
            queries_of(features, weights)


def test_a_long_video_goes_on_where_it_was_interrupted(
    demo: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A piece is three frames here, and the work ends in the second video's second piece."""
    store, whole = (Path(shutil.copytree(finished, tmp_path / name)) for name in ("store", "whole"))
    compute, encoded = frame_encoding._FrameEncoder._compute, []
    deaths = iter([False] * 4 + [True])

    def dying(self: Any, encoder: Any, batch: np.ndarray) -> Any:
        if next(deaths, False):
            raise SevilaError("a power cut")
        encoded.append(len(batch))
        return compute(self, encoder, batch)

    with monkeypatch.context() as patched:
        patched.setattr(frame_encoding, "PIECE_FRAMES", 3)
        patched.setattr(frame_encoding._FrameEncoder, "_compute", dying)
        assert sevila("stage", demo, store, "extract_features", *IN_FULL) == 1
        assert encoded == [3, 3, 2, 3]  # eight frames of the first video, three of the second
        encoded.clear()
        assert sevila("stage", demo, store, "extract_features", *IN_FULL) == 0
    assert sum(encoded) == 8 * 8 - 3 - 3  # the first two pieces are there; the next two were on their way
    assert sevila("stage", demo, whole, "extract_features", *IN_FULL) == 0
    resumed, at_once = artifact(store, "features"), artifact(whole, "features")
    assert resumed.id == at_once.id and resumed.record.rows["parts"] == 8 * 3
    for video in at_once.open().videos:
        both = [each.open().read(video, slice(None)) for each in (resumed, at_once)]
        assert np.allclose(*both, atol=1e-5)
