"""`answer_with_vlm`: another video-language model answers from the keyframes."""

from pathlib import Path

import numpy as np
import pytest

from cache.store import Store
from cli import main
from stages.answer_with_vlm import WrittenAnswers
from stages.evaluate import Metrics
from tests.small_world import SMALL
from tests.stages.runs import UNIFORM, artifact, records
from tests.tiny_vlm import write_tiny_vlm

VLM = (*UNIFORM, "--set", "chain.answerer=vlm", "--set", "answer_with_vlm.precision=float32")
OWN = ("--set", "answer_with_vlm.weights=tiny-vlm")


@pytest.fixture(scope="session")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_vlm(tmp_path_factory.mktemp("vlm"))


def run(demo: Path, store: Path, *more: str, weights: Path | None = None, command: str = "run") -> int:
    places = ["--annotations", str(demo / "questions.csv"), "--videos", str(demo / "videos")]
    if weights is not None:
        places += ["--weights", f"tiny-vlm={weights}"]
    return main([command, SMALL, *places, "--store", str(store), "--device", "cpu", *VLM, *more])


def answers_of(store: Path) -> WrittenAnswers:
    return WrittenAnswers(Store(store), artifact(store, "answers").id)


def test_a_vlm_answers_without_blip2_and_its_answers_are_evaluated_compared_and_shown(
    demo: Path, vlm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    assert run(demo, store, *OWN, weights=vlm) == 0
    made = {record.stage for record in records(store).values()}
    assert made == {"list_questions", "sample_frames", "select_keyframes", "answer_with_vlm", "evaluate"}
    answers = answers_of(store)
    rows = {row["question_id"]: row for row in answers.rows("answers")}
    assert {row["status"] for row in rows.values()} == {"ok", "failed"}
    for row in rows.values():
        assert (row["prediction"] is None) == (row["status"] == "failed") == (not row["option_logits"])
        if row["prediction"] is not None:
            assert row["prediction"] == np.argmax(row["option_logits"]) and max(row["option_logits"]) < 0
    metrics: Metrics = artifact(store, "metrics")
    assert metrics.headline().n_unanswered == sum(row["status"] == "failed" for row in rows.values()) == 6
    capsys.readouterr()
    assert main(["answers", answers.id, "--store", str(store)]) == 0
    assert "empty" in capsys.readouterr().out
    assert run(demo, store, *OWN, "--set", "select_keyframes.k=1", weights=vlm) == 0
    other = answers_of(store).id
    assert main(["compare", answers.id, other, "--store", str(store)]) == 0
