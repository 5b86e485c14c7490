"""Progress as a front door shows it."""

import logging
from pathlib import Path

import pytest

from pipeline.engine import progress
from pipeline.engine.output import Shard
from pipeline.engine.progress import shown_by, steps_bar, track
from pipeline.inference.streams import read_ahead
from pipeline.training.launch import run_in_subprocess
from stages.extract_features import extract_features


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SHOW_EVERY_SECONDS", -1.0)


def shard(folder: Path, place: int, of: int) -> Shard:
    return Shard(folder, extract_features, 7, [], {}, place, of)


def test_progress_of_a_shard_is_its_share_of_all_shards(tmp_path: Path, at_once: None) -> None:
    shown: list[tuple[str, float, str]] = []
    with shown_by(lambda *told: shown.append(told)):
        assert list(track("ab", shard(tmp_path, 1, 4), "video")) == ["a", "b"]
    assert [(what, percent) for what, percent, _ in shown] == [("extract_features", p) for p in (25.0, 37.5, 50.0)]
    assert shown[1][2].startswith("shard 2 of 4, 1 of 2 videos")


def test_what_a_thread_reads_ahead_is_shown_too(tmp_path: Path, at_once: None) -> None:
    shown: list[float] = []
    with shown_by(lambda what, percent, words: shown.append(percent)):
        assert list(read_ahead(track("ab", shard(tmp_path, 0, 1), "video"))) == ["a", "b"]
    assert shown == [0.0, 50.0, 100.0]


def test_progress_is_shown_now_and_then_and_at_the_end(tmp_path: Path) -> None:
    shown: list[float] = []
    with shown_by(lambda what, percent, words: shown.append(percent)), steps_bar("train", 100, 0) as step:
        for number in range(1, 101):
            step(number, {"loss": 1.0})
    assert shown == [100.0]
    list(track("ab", shard(tmp_path, 0, 1), "video"))
    assert shown == [100.0]


def train() -> None:
    progress.LOG_EVERY_SECONDS = -1.0
    with steps_bar("train", 2, 0) as step:
        step(1, {"loss": 0.5})
        step(2, {"loss": 0.25})


def test_progress_of_another_process_arrives_with_its_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sevila"):
        run_in_subprocess(train)
    told = [record.progress for record in caplog.records]  # type: ignore[attr-defined]
    assert told == [("train", 50.0, "step 1 of 2: loss 0.5"), ("train", 100.0, "step 2 of 2: loss 0.25")]
