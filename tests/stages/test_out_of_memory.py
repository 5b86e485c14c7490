"""A GPU with little memory gives the same rows as a large one, in smaller batches."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.models.t5_language import T5Language
from pipeline.models.vision import VisionEncoder
from pipeline.models.visual_prompt import VisualPrompt
from tests.stages.runs import artifact, sevila
from tests.stages.test_label_frames import labels

pytestmark = pytest.mark.slow

TEXTS = ("--set", "answer_questions.readout=text")


def with_memory_for(n_rows: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that its second argument runs out of memory above `n_rows`."""

    def call(self: Any, rows: Any, *more: Any) -> Any:
        if len(rows) > n_rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return function(self, rows, *more)

    return call


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def set_limit(n_rows: int) -> None:
        for owner, name in ((VisionEncoder, "forward"), (VisualPrompt, "forward"), (T5Language, "decode")):
            monkeypatch.setattr(owner, name, with_memory_for(n_rows, getattr(owner, name)))

    return set_limit


@pytest.mark.parametrize("more", [(), TEXTS, ("--set", "answer_questions.method=vote")])
def test_stages_that_run_out_of_memory_continue_with_smaller_batches(
    demo: Path,
    tmp_path: Path,
    limit: Callable[[int], None],
    caplog: pytest.LogCaptureFixture,
    more: tuple[str, ...],
) -> None:
    readout = "text" if more == TEXTS else "letter"
    assert sevila("run", demo, tmp_path / "large", *more) == 0
    expected_labels = labels(tmp_path / "large", demo, readout=readout).rows("pseudo_labels")
    limit(3)
    with caplog.at_level(logging.WARNING, "sevila"):
        assert sevila("run", demo, tmp_path / "small", *more) == 0
        limited_labels = labels(tmp_path / "small", demo, readout=readout).rows("pseudo_labels")
    last_step = "label_frames" if readout == "letter" else "texts of options"
    for name in ("extract_features", "visual tokens", "score_frames", last_step):
        assert any(message.startswith(f"{name}: out of memory with ") for message in caplog.messages), name
    expected, limited = (artifact(tmp_path / name, "answers").rows("answers") for name in ("large", "small"))
    assert [row["prediction"] for row in limited] == [row["prediction"] for row in expected]
    assert [row["label"] for row in limited_labels] == [row["label"] for row in expected_labels]
    for limited_rows, expected_rows in ((limited, expected), (limited_labels, expected_labels)):
        for row, other in zip(limited_rows, expected_rows, strict=True):
            np.testing.assert_allclose(row["option_logits"], other["option_logits"], rtol=0, atol=1e-5)


def test_a_batch_size_that_failed_in_one_shard_is_not_tried_in_the_next(
    demo: Path, tmp_path: Path, limit: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    limit(3)
    with caplog.at_level(logging.INFO, "sevila"):
        assert sevila("run", demo, tmp_path, "--shard-megabytes", "0.01") == 0
    assert any("score_frames: shard 2 of" in message for message in caplog.messages)
    halved = [message for message in caplog.messages if message.startswith("score_frames: out of memory with ")]
    assert halved and len(set(halved)) == len(halved)


def test_too_little_memory_for_one_row_is_an_error_without_traceback(
    demo: Path, tmp_path: Path, limit: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    limit(0)
    assert sevila("run", demo, tmp_path) == 1
    assert "error: extract_features: out of memory with a single row: CUDA out of memory" in capsys.readouterr().err
