"""Progress of steps and stages: callbacks, log lines and bars."""

import io
import json
import logging
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cache.store import Store
from cli import main, terminal
from pipeline.engine import progress
from pipeline.engine.input_wait import model_input
from pipeline.engine.output import Shard
from pipeline.engine.progress import LinesBesideBars, at_step, shown_by, step_name, steps_bar, track
from pipeline.inference.streams import read_ahead
from pipeline.training.launch import run_in_subprocess
from stages.extract_features import extract_features
from tests.stages.runs import arguments, sevila


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SHOW_EVERY_SECONDS", -1.0)


def shard(folder: Path, place: int, of: int) -> Shard:
    return Shard(folder, extract_features, 7, [], {}, place, of)


def test_progress_of_a_shard_is_its_share_of_all_shards(tmp_path: Path, at_once: None) -> None:
    shown: list[tuple[str, float, str]] = []
    with shown_by(lambda *update: shown.append(update)):
        assert list(track("ab", shard(tmp_path, 1, 4), "video")) == ["a", "b"]
    assert [(what, percent) for what, percent, _ in shown] == [("extract_features", p) for p in (25.0, 37.5, 50.0)]
    assert shown[1][2].startswith("shard 2 of 4, 1 of 2 videos")


def test_progress_of_a_read_ahead_thread_is_shown(tmp_path: Path, at_once: None) -> None:
    shown: list[float] = []
    with shown_by(lambda what, percent, words: shown.append(percent)):
        assert list(read_ahead(track("ab", shard(tmp_path, 0, 1), "video"))) == ["a", "b"]
    assert shown == [0.0, 50.0, 100.0]


def test_progress_is_shown_at_intervals_and_at_the_end(tmp_path: Path) -> None:
    shown: list[float] = []
    with shown_by(lambda what, percent, words: shown.append(percent)), steps_bar("train", 100, 0) as step:
        for number in range(1, 101):
            step(number, {"loss": 1.0})
    assert shown == [100.0]
    list(track("ab", shard(tmp_path, 0, 1), "video"))
    assert shown == [100.0]


def test_progress_lines_show_the_remaining_time(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 60.0, 60.0, 120.0, 120.0, 120.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock, 120.0))
    with caplog.at_level(logging.INFO, "sevila"), steps_bar("train", 3, 0) as step:
        step(1, {"loss": 1.0})
    assert "train: step 1 of 3: loss 1, about 2.0 min left" in caplog.messages


def test_log_lines_of_a_run_show_the_step_number_and_total(
    demo: Path, finished: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "sevila"):
        assert sevila("run", demo, finished) == 0
    lines = [message for message in caplog.messages if message.endswith(": reused")]
    assert lines[1:] == [f"[{n}/10] {line.split()[-2]} reused" for n, line in enumerate(lines[1:], start=2)]
    assert lines[-1] == "[10/10] evaluate: reused" and not any("-v1-" in message for message in caplog.messages)


def test_step_names_are_readable_and_ids_are_shown_with_verbose(
    demo: Path, finished: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with at_step(31, 71, "refined Localizer, zero-shot"):
        assert step_name("answer_questions") == "[31/71] refined Localizer, zero-shot: answer_questions"
    capsys.readouterr()
    assert sevila("run", demo, finished) == 0
    brief = capsys.readouterr().out
    assert sevila("run", demo, finished, "-v") == 0
    full = capsys.readouterr().out
    assert "select_keyframes-v1-" in full and "select_keyframes-v1-" not in brief and full.endswith(brief)
    assert any(message.startswith("select_keyframes: select_keyframes-v1-") for message in caplog.messages)
    assert sevila("run", demo, finished, "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert [step["stage"] for step in content["steps"]][-1] == "evaluate" and content["results"]


def test_progress_on_a_gpu_shows_the_share_of_time_spent_waiting_for_input(
    tmp_path: Path, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def read() -> Iterator[str]:
        nonlocal now
        for item in "abcd":
            now += 3
            yield item

    def words(on_gpu: bool) -> str:
        nonlocal now
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: on_gpu)
        monkeypatch.setattr(progress.time, "monotonic", lambda: now)
        shown: list[str] = []
        with shown_by(lambda what, percent, words: shown.append(words)):
            for _ in track(model_input(read()), shard(tmp_path, 0, 1), "window"):
                now += 1
        return shown[-1]

    assert words(on_gpu=True) == "4 of ? windows, 0.25 a second, GPU waits 75 %"
    assert words(on_gpu=False) == "4 of ? windows, 0.25 a second"


def test_stages_that_run_a_model_show_gpu_waiting(
    demo: Path, store: Path, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    shown: dict[str, str] = {}
    with shown_by(lambda what, percent, words: shown.update({what: words})):
        for stage in ("extract_features", "score_frames", "answer_questions"):
            assert sevila("stage", demo, store, stage, "--again") == 0
        assert "GPU waits" not in shown["extract_features"]  # everything is stored, so no model runs
        shutil.rmtree(store / "pool")
        assert sevila("stage", demo, store, "sample_frames", "--again") == 0
        assert sevila("stage", demo, store, "extract_features", "--again") == 0
    assert "GPU waits" not in shown["sample_frames"]
    assert all("GPU waits" in shown[stage] for stage in ("extract_features", "score_frames", "answer_questions"))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_log_lines_appear_above_bars_and_subprocess_progress_becomes_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    log = logging.getLogger("sevila")
    handler = LinesBesideBars(lambda line, level: line)
    monkeypatch.setattr(log, "handlers", [handler])
    monkeypatch.setattr(log, "propagate", False)
    level = log.level
    log.setLevel(logging.INFO)
    try:
        with progress.count_bar("verify", 10, "video") as advance:
            advance(5)
            log.info("a line")
            log.info("train: step 1 of 2", extra={"progress": ("train", 50.0, "step 1 of 2")})
            log.info("train: step 2 of 2", extra={"progress": ("train", 100.0, "step 2 of 2")})
        log.setLevel(logging.WARNING)
        before = screen.getvalue()
        with progress.count_bar("verify", 10, "video") as advance:
            advance(5)
        assert screen.getvalue() == before  # quiet
    finally:
        log.setLevel(level)
    drawn = re.split("[\r\n]", screen.getvalue())
    assert "a line" in drawn and "train: step 1 of 2" not in drawn
    assert any(line.startswith("train:  50%") for line in drawn)


@pytest.mark.parametrize("columns", ["60", "100"])
def test_tables_break_no_word_on_narrow_terminals(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", columns)
    id, why = "answer_questions-v1-0123456789abcdef0123", "its input keyframes is not built yet"
    terminal.print_table(["status", "stage", "id", "why"], [["build", "answer_questions", id, why]] * 2)
    printed = capsys.readouterr().out
    words = printed.split()
    assert words.count(id) == 2 and all(words.count(word) >= 2 for word in why.split())
    assert max(map(len, printed.splitlines())) <= int(columns)


def train() -> None:
    progress.LOG_EVERY_SECONDS = -1.0
    with steps_bar("train", 2, 0) as step:
        step(1, {"loss": 0.5})
        step(2, {"loss": 0.25})


def test_progress_of_a_subprocess_arrives_with_its_log_records(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sevila"):
        run_in_subprocess(train)
    updates = [record.progress for record in caplog.records]  # type: ignore[attr-defined]
    assert updates == [("train", 50.0, "step 1 of 2: loss 0.5"), ("train", 100.0, "step 2 of 2: loss 0.25")]


def test_commands_that_print_data_accept_json(demo: Path, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, id = ["--store", str(finished)], next(id for id in Store(finished) if id.startswith("answer_questions"))
    plan, why = arguments("plan", demo, finished), arguments("why", demo, finished)
    printed = {}
    for words in (
        plan,
        ["cache", *why],
        ["answers", id, *store],
        ["recipes"],
        ["stages"],
        ["cache", "show", id, *store],
        ["cache", "ancestry", id, *store],
        ["cache", "verify", id, *store],
    ):
        capsys.readouterr()
        assert main([*words, "--json"]) == 0
        printed[words[0] if words[0] != "cache" else words[1]] = json.loads(capsys.readouterr().out)
    assert {step["status"] for step in printed["plan"]} == {"exists"} and printed["why"] == []
    assert printed["show"]["id"] == printed["ancestry"][0]["id"] == id and printed["verify"]["problems"] == []
    assert printed["answers"][0]["question"] and printed["recipes"][0]["about"] and "chain" in printed["stages"]
