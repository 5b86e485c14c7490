"""The forward chain by the command, on mp4 files and with a tiny BLIP-2 of the real classes."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.store import Store
from cache.tables import read_rows
from cli import main
from pipeline.models.answerer import Answerer
from pipeline.models.localizer import Localizer
from tests.small_world import SMALL
from tests.stages.runs import arguments, artifact, built_since, edited, files, json_rows, records, sevila
from tests.videos import make_audio_only, make_garbage, make_video
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]


def test_every_question_gets_a_row_at_every_step(finished: Path) -> None:
    questions = artifact(finished, "questions").rows("questions")
    assert len(questions) == 30
    answers = artifact(finished, "answers").rows("answers")
    keyframes = artifact(finished, "keyframes").rows("keyframes")
    ids = [question["question_id"] for question in questions]
    assert [row["question_id"] for row in answers] == [row["question_id"] for row in keyframes] == ids
    scores = artifact(finished, "frame_scores").rows("frame_scores")
    assert len(scores) == 24 * 8
    for question, answer, keyframe in zip(questions, answers, keyframes, strict=True):
        if answer["status"] == "ok":
            assert len(answer["option_logits"]) == len(question["options"])
            assert answer["prediction"] == int(np.argmax(answer["option_logits"]))
            assert keyframe["positions"] == sorted(keyframe["positions"]) and len(keyframe["positions"]) == 4


def test_broken_videos_are_rows_with_reasons_in_every_table(finished: Path) -> None:
    videos = {row["video_id"]: row for row in artifact(finished, "frames").rows("videos")}
    failed = {video_id: row["reason"].split(":")[0] for video_id, row in videos.items() if row["status"] == "failed"}
    assert sorted(failed.values()) == ["empty", "truncated"]
    for kind in ("keyframes", "answers"):
        rows = artifact(finished, kind).rows(kind)
        unusable = [row for row in rows if row["status"] == "failed"]
        assert len(unusable) == 6
        assert all(row["reason"] == videos[row["video_id"]]["reason"] for row in unusable)
    overall = artifact(finished, "metrics").rows("metrics")[0]
    assert overall["n_questions"] == 30 and overall["n_unanswered"] == 6 and overall["unanswered_percent"] == 20.0


def test_features_are_the_vits_output_for_the_stored_frames(finished: Path, demo: Path) -> None:
    import torch

    from pipeline.models.checkpoint import load_vision_encoder
    from pipeline.models.config import read_blip2_config
    from pipeline.models.vision import pixels

    frames, features = artifact(finished, "frames"), artifact(finished, "features")
    video = next(row for row in frames.rows("videos") if row["status"] == "ok")
    stored = frames.open().read(video["video_id"], slice(0, video["n_frames"]))
    assert stored.dtype == np.uint8 and stored.shape == (8, 28, 28, 3)
    encoder = load_vision_encoder(read_blip2_config(demo / "tiny-blip2"), demo / "tiny-blip2")
    with torch.no_grad():
        expected = encoder(pixels(torch.from_numpy(stored))).numpy()
    actual = features.open().read(video["video_id"], slice(0, video["n_frames"]))
    assert actual.dtype == np.float16
    np.testing.assert_array_equal(actual, expected.astype(np.float16))


def test_a_run_prints_ids_failures_and_the_metrics_table(
    store: Path, demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sevila("run", demo, store) == 0
    printed = capsys.readouterr().out
    assert "2 of 10 videos failed (1 truncated, 1 empty)" in printed
    assert artifact(store, "metrics").id in printed
    assert "overall" in printed and "colour" in printed


def test_a_second_run_reuses_everything(store: Path, demo: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = {path: path.stat().st_mtime_ns for path in (store / "artifacts").rglob("*")}
    with caplog.at_level("INFO", "sevila"):
        assert sevila("run", demo, store) == 0
    assert {path: path.stat().st_mtime_ns for path in (store / "artifacts").rglob("*")} == before
    assert len([record for record in caplog.records if "reused" in record.message]) == 10
    assert "made" not in caplog.text


def test_an_edited_question_reuses_frames_and_features(store: Path, demo: Path, tmp_path: Path) -> None:
    def edit(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        return [{**row, "question": row["question"].replace("What", "Which")} for row in rows]

    before = set(records(store))
    assert sevila("run", edited(demo, tmp_path / "edited", edit), store) == 0
    stages = {"list_questions", "score_frames", "select_keyframes", "answer_questions", "evaluate"}
    assert built_since(before, store).keys() == stages


def test_a_changed_video_is_decoded_again(store: Path, demo: Path, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(demo, tmp_path / "changed"))
    videos = sorted((changed / "videos").glob("*.mp4"))
    shutil.copy(videos[1], videos[0])
    before = set(records(store))
    assert sevila("run", changed, store) == 0
    built = built_since(before, store)
    assert "sample_frames" in built and "extract_features" in built and "list_questions" not in built


def test_a_moved_folder_gives_the_same_ids(finished: Path, demo: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(demo, tmp_path / "elsewhere"))
    assert sevila("run", moved, tmp_path / "store") == 0
    assert files(tmp_path / "store") == files(finished)


@pytest.mark.parametrize(
    "execution",
    [("--batch-tokens", "150"), ("--batch-tokens", "1000", "--shard-megabytes", "0.005"), ("--decode-workers", "1")],
)
def test_batch_size_and_shard_count_change_no_decision(
    finished: Path, demo: Path, tmp_path: Path, execution: tuple[str, ...]
) -> None:
    assert sevila("run", demo, tmp_path / "store", *execution) == 0
    assert_equal_decisions(finished, tmp_path)


def test_questions_of_one_video_can_be_scored_in_several_shards(
    finished: Path, demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.inference.frame_by_frame.MAX_PAIRS", 20)  # two questions of 8 frames
    assert sevila("run", demo, tmp_path / "store") == 0
    scores = artifact(tmp_path / "store", "frame_scores")
    by_shard = [
        {row["video_id"] for row in read_rows([path], scores.tables["frame_scores"])}
        for path in scores.files("frame_scores", ".parquet")
    ]
    assert len(by_shard) > len(set().union(*by_shard))
    assert_equal_decisions(finished, tmp_path)


def test_questions_share_batches_across_windows(
    finished: Path, demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[type] = []

    def counted(model: type, name: str) -> None:
        original = getattr(model, name)
        monkeypatch.setattr(model, name, lambda *given: calls.append(model) or original(*given))

    counted(Localizer, "score")
    counted(Answerer, "answer")
    for module in ("frame_by_frame", "keyframe_reader"):
        monkeypatch.setattr(f"pipeline.inference.{module}.WINDOW_FRAMES", 9)  # of one video: each has 8 frames
    assert sevila("run", demo, tmp_path / "store", "--batch-tokens", "100000") == 0
    assert_equal_decisions(finished, tmp_path)
    assert calls == [Localizer, Answerer], "all windows together are one batch"


def assert_equal_decisions(finished: Path, tmp_path: Path) -> None:
    assert set(records(tmp_path / "store")) == set(records(finished))
    for kind, table, exact in (
        ("frame_scores", "frame_scores", ("question_id", "position", "frame_index", "truncated")),
        ("keyframes", "keyframes", ("question_id", "positions", "frame_indices")),
        ("answers", "answers", ("question_id", "status", "reason", "prediction", "first_token_id", "n_frames")),
    ):
        rows, others = artifact(finished, kind).rows(table), artifact(tmp_path / "store", kind).rows(table)
        assert [[row[name] for name in exact] for row in rows] == [[row[name] for name in exact] for row in others]
        for name in ("logit_yes", "logit_no", "probability_yes", "scores", "option_logits"):
            if name in rows[0]:
                values, other_values = [np.concatenate([np.atleast_1d(row[name]) for row in t]) for t in (rows, others)]
                np.testing.assert_allclose(values, other_values, rtol=0, atol=1e-5)


def start(demo: Path, store: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cli", *arguments("run", demo, store, *more)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=store.parent, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )


SMALL_SHARDS = ("--shard-megabytes", "0.005")


def notes(store: Path, stage: str) -> dict[str, int]:
    """Return the modification times of the notes of an unfinished stage's shards."""
    return {path.name: path.stat().st_mtime_ns for path in store.glob(f"partial/{stage}-*/progress/0*.json")}


@pytest.fixture(scope="module")
def uninterrupted(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store after one uninterrupted run in small shards; tests must not change it."""
    store = tmp_path_factory.mktemp("uninterrupted") / "store"
    assert sevila("run", demo, store, *SMALL_SHARDS) == 0
    return store


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["extract_features", "answer_questions"])
def test_a_killed_run_resumes_to_the_same_bytes(demo: Path, uninterrupted: Path, tmp_path: Path, stage: str) -> None:
    killed = tmp_path / "killed"
    process = start(demo, killed, *SMALL_SHARDS)
    wait_until(lambda: notes(killed, stage) or process.poll() is not None, 900, 0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = notes(killed, stage)
    assert before, "the stage finished before the kill"
    assert not [id for id in records(killed) if id.startswith(stage)]
    assert sevila("run", demo, killed, *SMALL_SHARDS) == 0
    [folder] = (killed / "artifacts").glob(f"{stage}-*")
    after = {path.name: path.stat().st_mtime_ns for path in (folder / "progress").glob("0*.json")}
    assert {name: after[name] for name in before} == before, "a finished shard was rebuilt"
    assert files(killed) == files(uninterrupted)


@pytest.mark.slow
def test_two_processes_on_one_store_give_the_bytes_of_one(demo: Path, uninterrupted: Path, tmp_path: Path) -> None:
    pair = [start(demo, tmp_path / "two", *SMALL_SHARDS) for _ in range(2)]
    assert [process.wait(timeout=900) for process in pair] == [0, 0]
    assert files(tmp_path / "two") == files(uninterrupted)


def test_plan_of_an_empty_store_builds_everything_and_writes_nothing(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sevila("plan", demo, tmp_path / "store") == 0
    printed = capsys.readouterr().out
    assert "0 exists, 10 build, 0 blocked" in printed
    assert "score_frames" in printed and not (tmp_path / "store" / "artifacts").exists()


def test_plan_of_a_changed_key_names_what_is_built_and_why(
    finished: Path, demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sevila("plan", demo, finished, "--set", "select_keyframes.k=2") == 0
    lines = {line.split()[1]: line for line in capsys.readouterr().out.splitlines()[:-1]}
    assert lines["score_frames"].startswith("exists")
    assert lines["select_keyframes"].startswith("build") and "k: 4 -> 2" in lines["select_keyframes"]
    assert lines["answer_questions"].startswith("build") and "keyframes" in lines["answer_questions"]


def test_plan_without_data_names_missing_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "nextqa", "--store", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "--annotations nextqa=PATH" in printed and "blocked" in printed


def test_one_stage_is_built_from_cached_inputs(store: Path, demo: Path) -> None:
    before = set(records(store))
    more = ("select_keyframes", "--set", "select_keyframes.rank_by=yes_versus_no")
    assert sevila("stage", demo, store, *more) == 0
    assert built_since(before, store) == {"select_keyframes": 1}


def test_a_stage_without_its_inputs_names_the_stage_to_run(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sevila("stage", demo, tmp_path / "empty", "score_frames") == 1
    assert "score_frames needs questions: list_questions has not been run" in capsys.readouterr().err


def test_rebuilding_a_stage_gives_the_same_bytes(store: Path, demo: Path) -> None:
    before = files(store)
    assert sevila("stage", demo, store, "extract_features", "--again") == 0
    assert files(store) == before


@pytest.mark.parametrize("method", ["uniform", "random"])
def test_keyframes_without_the_localizer_need_no_scores(demo: Path, tmp_path: Path, method: str) -> None:
    assert sevila("run", demo, tmp_path, "--set", f"select_keyframes.method={method}") == 0
    assert not [id for id in records(tmp_path) if id.startswith(("score_frames", "init_localizer"))]
    rows = [row for row in artifact(tmp_path, "keyframes").rows("keyframes") if row["status"] == "ok"]
    assert all(len(row["positions"]) == 4 and row["scores"] == [] for row in rows)
    if method == "uniform":
        assert all(row["positions"] == [1, 3, 5, 7] for row in rows)
    else:
        assert len({tuple(row["positions"]) for row in rows}) > 1


def test_questions_without_true_moments_count_as_wrong_with_oracle_keyframes(
    demo: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moments = {"moments": [[1.0, 3.0]]}
    rows = [row | moments if number % 3 else row for number, row in enumerate(json_rows(demo))]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = ("--set", "select_keyframes.method=oracle")
    assert sevila("run", demo, store, "--annotations", str(path), *more) == 0
    answers = artifact(store, "answers").rows("answers")
    failed = [row for row in answers if row["reason"].startswith("no_moments")]
    assert len(failed) == 8  # a third of 24; 6 others have no video
    assert all(row["prediction"] is None for row in failed)
    keyframes = [row for row in artifact(store, "keyframes").rows("keyframes") if row["status"] == "ok"]
    assert len(keyframes) == 16 and all(1 <= second <= 3 for row in keyframes for second in row["seconds"])
    metrics = artifact(store, "metrics")
    assert metrics.rows("metrics")[0]["n_unanswered"] == 14
    assert len(metrics.rows("missing_videos")) == 2
    assert "8 no_moments (26.7 %)" in capsys.readouterr().out


def test_votes_are_counted_over_per_frame_answers(store: Path, demo: Path) -> None:
    assert sevila("run", demo, store, "--set", "answer_questions.method=vote") == 0
    answers = artifact(store, "answers")
    by_question: dict[str, list[int]] = {}
    for row in answers.rows("frame_answers"):
        by_question.setdefault(row["question_id"], []).append(row["prediction"])
    for row in answers.rows("answers"):
        if row["status"] == "ok":
            counts = np.bincount(by_question[row["question_id"]], minlength=len(row["option_logits"]))
            assert row["votes"] == counts.tolist() and counts[row["prediction"]] == counts.max()


@pytest.mark.parametrize("method", ["concatenate", "vote"])
def test_answers_are_read_from_the_texts_of_the_options(store: Path, demo: Path, method: str) -> None:
    answers = {}
    for readout in ("text", "text_per_token"):
        settings = (f"answer_questions.readout={readout}", f"answer_questions.method={method}")
        assert sevila("run", demo, store, *(f"--set={setting}" for setting in settings)) == 0
        answers[readout] = artifact(store, "answers").rows("answers")
    for row, other in zip(*answers.values(), strict=True):
        if row["status"] == "ok":
            assert row["first_token_id"] is None and max(row["option_logits"]) < max(other["option_logits"]) < 0
            if method == "concatenate":
                assert row["prediction"] == int(np.argmax(row["option_logits"]))


@pytest.mark.parametrize(
    ("setting", "n_frames"),
    [("sample_frames.sampling=random", {8}), ("sample_frames.sampling=fixed_rate", {6})],
)
def test_frames_are_sampled_at_random_or_at_a_fixed_rate(
    demo: Path, tmp_path: Path, setting: str, n_frames: set[int]
) -> None:
    assert sevila("run", demo, tmp_path, "--set", setting) == 0
    videos = [row for row in artifact(tmp_path, "frames").rows("videos") if row["status"] == "ok"]
    assert {row["n_frames"] for row in videos} == n_frames  # 6 s of 8 frames a second


def test_clips_of_one_video_share_its_decoded_frames(demo: Path, tmp_path: Path) -> None:
    bounds = [("", ""), ("1.0", "3.0"), ("5.5", "99")]

    def edit(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        picked = zip(rows[:3], bounds, strict=True)
        return [{**row, "start_seconds": start, "end_seconds": end} for row, (start, end) in picked]

    assert sevila("run", edited(demo, tmp_path / "clips", edit), tmp_path / "store") == 0
    frames = artifact(tmp_path / "store", "frames")
    [video] = frames.rows("videos")
    clips: dict[str, list[dict[str, Any]]] = {}
    for row in frames.rows("frames"):
        clips.setdefault(row["clip_id"], []).append(row)
    indices = [[row["frame_index"] for row in rows] for rows in clips.values()]
    # edges = linspace(start, end, 9) cut to int, midpoints: 0..48, 8..24 and 44..48 of 48 frames
    assert indices == [
        [3, 9, 15, 21, 27, 33, 39, 45],
        [9, 11, 13, 15, 17, 19, 21, 23],
        [44, 44, 45, 45, 46, 46, 47, 47],
    ]
    assert video["n_frames"] == len({index for clip in indices for index in clip})
    scores = artifact(tmp_path / "store", "frame_scores").rows("frame_scores")
    assert [row["frame_index"] for row in scores] == [index for clip in indices for index in clip]
    assert "99" in video["note"] and "clamped" in video["note"]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_an_official_checkpoint_is_merged_into_a_backbone(demo: Path, store: Path, tmp_path: Path, suffix: str) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    from tests.official_names import official_names

    official = official_names(load_file(demo / "tiny-blip2" / "model.safetensors"), seed=5)
    path = tmp_path / f"sevila{suffix}"
    if suffix == ".pth":
        torch.save({"model": official, "epoch": 3}, path)
    else:
        save_file(official, path)
    settings = ("--set", "init_localizer.weights=sevila", "--set", "init_answerer.weights=sevila")
    assert sevila("run", demo, store, "--weights", f"sevila={path}", *settings) == 0
    record = max((r for r in records(store).values() if r.stage == "init_localizer"), key=lambda r: r.finished)
    tensors = load_file(Store(store).path(record.id) / "visual_prompt.safetensors")
    torch.testing.assert_close(tensors["query_tokens"], official["query_tokens_loc"].float(), rtol=0, atol=0)


def test_a_wrong_checkpoint_is_refused_with_its_missing_and_unexpected_keys(
    demo: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from safetensors.torch import save_file

    save_file(
        {"ln_vision_loc.weight": torch.ones(32), "Qformer_loc.bert.pooler": torch.ones(1)}, tmp_path / "bad.safetensors"
    )
    weights = ("--weights", f"bad={tmp_path / 'bad.safetensors'}", "--set", "init_localizer.weights=bad")
    assert sevila("run", demo, store, *weights) == 1
    message = capsys.readouterr().err
    assert "bad.safetensors" in message and "query_tokens" in message and "Qformer_loc.bert.pooler" in message


def test_an_incomplete_backbone_is_refused_before_decoding(
    demo: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    broken = Path(shutil.copytree(demo, tmp_path / "broken"))
    tensors = load_file(broken / "tiny-blip2" / "model.safetensors")
    del tensors["language_model.lm_head.weight"]
    save_file(tensors, broken / "tiny-blip2" / "model.safetensors")
    before = set(records(store))
    assert sevila("run", broken, store) == 1
    assert "lm_head.weight" in capsys.readouterr().err
    assert set(records(store)) == before


def test_a_run_finishes_if_every_video_fails(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for video in (demo / "videos").iterdir():
        (tmp_path / "empty" / video.name).touch()
    assert sevila("run", demo, tmp_path / "store", "--videos", str(tmp_path / "empty")) == 0
    printed = capsys.readouterr().out
    assert "10 of 10 videos failed (10 empty)" in printed and "100.0 %" in printed
    assert {row["status"] for row in artifact(tmp_path / "store", "answers").rows("answers")} == {"failed"}


def test_a_clip_is_not_confused_with_a_video_of_the_same_name(demo: Path, tmp_path: Path) -> None:
    def edit(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        name = rows[0]["video"]
        clip = {**rows[0], "start_seconds": "1.0", "end_seconds": "3.0"}
        return [clip, {**rows[1], "start_seconds": "", "end_seconds": "", "video": f"{name}[1.0-3.0]"}]

    folder = edited(demo, tmp_path / "names", edit)
    first = next((folder / "videos").glob("00_*.mp4"))
    shutil.copy(next((folder / "videos").glob("01_*.mp4")), first.with_name(f"{first.stem}[1.0-3.0].mp4"))
    assert sevila("run", folder, tmp_path / "store") == 0
    keyframes = artifact(tmp_path / "store", "keyframes").rows("keyframes")
    assert len(keyframes) == 2
    for row in keyframes:
        assert row["frame_indices"] == sorted(row["frame_indices"])
        assert row["clip_id"] == row["video_id"] or all(8 <= index < 24 for index in row["frame_indices"])


def test_the_order_of_questions_changes_no_frames(store: Path, demo: Path, tmp_path: Path) -> None:
    before = set(records(store))
    assert sevila("run", edited(demo, tmp_path / "reversed", lambda rows: rows[::-1]), store) == 0
    built = built_since(before, store)
    assert "sample_frames" not in built and "extract_features" not in built


def test_frames_are_scored_without_the_videos(store: Path, demo: Path, caplog: pytest.LogCaptureFixture) -> None:
    more = ("score_frames", "--set", "score_frames.instruction=information_needed")
    command = arguments("stage", demo, store, *more)
    index = command.index("--videos")
    with caplog.at_level("INFO", "sevila"):
        assert main(command[:index] + command[index + 2 :]) == 0
    assert "videos 'plain': not on this machine" in caplog.text


WITHOUT_DECODERS = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("av", "decord", "prefect"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from cli import main

for stage in ("score_frames", "select_keyframes", "answer_questions"):
    if status := main(["stage", stage, *sys.argv[1:]]):
        sys.exit(f"{stage} ended with {status}")
"""


def test_stages_run_without_decoders_and_prefect(store: Path, demo: Path) -> None:
    """GPU machines may score, select and answer with features from another machine."""
    command = [sys.executable, "-c", WITHOUT_DECODERS, *arguments("run", demo, store, "--again")[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize("kind", ["annotations", "videos", "weights"])
def test_a_wrong_path_is_refused_even_if_the_store_knows_the_source(
    store: Path, demo: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "tiny-blip2" if kind == "weights" else "plain"
    assert sevila("run", demo, store, f"--{kind}", f"{name}={demo / 'gone'}") == 1
    assert f"should lie at {demo / 'gone'}, but nothing is there" in capsys.readouterr().err


def test_an_unsupported_frame_size_is_refused_before_decoding(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sevila("run", demo, tmp_path, "--set", "sample_frames.size=224") == 1
    assert "--set sample_frames.size=28" in capsys.readouterr().err
    assert not [id for id in records(tmp_path) if id.startswith("sample_frames")]


def test_damaged_weights_are_refused(store: Path, demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = next((store / "artifacts").glob("init_answerer-*/visual_prompt.safetensors"))
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert sevila("run", demo, store, "--set", "answer_questions.method=vote") == 1
    assert "visual_prompt.safetensors" in capsys.readouterr().err


def test_answers_in_words_are_printed_as_csv(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["answers", "answer_questions", "--store", str(finished)]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    answered = [row for row in rows if not row["reason"]]
    assert len(rows) == 30 and len(answered) == 24
    assert all(len(row["keyframe_seconds"].split()) == 4 and row["answer"].isalpha() for row in answered)
    assert {row["correct"] for row in answered} <= {"True", "False"}


@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_a_submission_has_the_chosen_option_of_every_question(
    suffix: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / f"submission{suffix}"
    assert main(["answers", "answer_questions", "--submission", str(file), "--store", str(finished)]) == 0
    assert capsys.readouterr().out == f"{file}\n"
    predictions = {row["question_id"]: row["prediction"] for row in artifact(finished, "answers").rows("answers")}
    text = file.read_text()
    assert suffix == ".json" or text.startswith("q_uid,answer\n")  # no carriage returns
    rows = json.loads(text) if suffix == ".json" else {q: int(n) for q, n in list(csv.reader(text.splitlines()))[1:]}
    assert rows == {id: -1 if option is None else option for id, option in predictions.items()}
    assert list(rows.values()).count(-1) == 6  # of the two unreadable videos


def test_a_submission_with_another_suffix_is_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "submission.txt"
    assert main(["answers", "answer_questions", "--submission", str(file), "--store", str(finished)]) == 1
    assert "ends in .txt; expected .json" in capsys.readouterr().err and not file.exists()


@pytest.mark.parametrize(("precision", "tolerance"), [("bfloat16", 0.1), ("int8", 0.2), ("fp8", 0.5)])
def test_reduced_precision_gives_nearly_the_same_scores_under_another_id(
    precision: str, tolerance: float, finished: Path, store: Path, demo: Path
) -> None:
    stages = {"extract_features": "bfloat16", "score_frames": precision, "answer_questions": precision}
    settings = [part for stage, each in stages.items() for part in ("--set", f"{stage}.precision={each}")]
    assert sevila("run", demo, store, *settings) == 0
    assert artifact(store, "frame_scores").record.config["precision"] == precision
    assert artifact(store, "frame_scores").id != artifact(finished, "frame_scores").id
    exact, reduced = (
        artifact(place, "frame_scores").columns("frame_scores", "logit_yes") for place in (finished, store)
    )
    difference = np.abs(exact["logit_yes"] - reduced["logit_yes"]).max()
    assert 0 < difference < tolerance


@pytest.mark.slow
def test_a_full_disk_is_reported_and_the_run_resumes_with_more_room(
    demo: Path, tmp_path: Path, uninterrupted: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1400k", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("cannot mount a small file system on this machine")
    try:
        process = subprocess.run(
            [sys.executable, "-m", "cli", *arguments("run", demo, small / "store", *SMALL_SHARDS)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert process.returncode == 1, process.stderr
        assert "bytes free" in process.stderr and "Traceback" not in process.stderr
        unfinished = shutil.copytree(small / "store", tmp_path / "store")
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert sevila("run", demo, Path(unfinished), *SMALL_SHARDS) == 0
    assert files(Path(unfinished)) == files(uninterrupted)


REAL = ROOT.parent / "shared" / "data" / "videos"


@pytest.fixture
def real_videos(tmp_path: Path) -> Path:
    """The shared real files if present, a good one, and broken ones."""
    folder = tmp_path / "real"
    folder.mkdir()
    for path in sorted(REAL.glob("*")) if REAL.is_dir() else []:
        shutil.copy(path, folder)
    make_video(folder / "good.mp4")
    (folder / "zero.mp4").write_bytes(b"")
    make_garbage(folder / "noise.mp4")
    make_audio_only(folder / "sound.mp4")
    return folder


def test_a_run_over_mixed_files_names_those_that_failed_and_why(
    real_videos: Path, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [*sorted(path.name for path in real_videos.iterdir()), "gone.mp4", "../outside.mp4"]
    with (tmp_path / "questions.jsonl").open("w") as stream:
        for name in names:
            row = {"video": name, "question": "What is seen?", "options": ["a street", "a café", "nothing"]}
            stream.write(json.dumps(row | {"answer": 0}) + "\n")
    weights = ["--weights", f"tiny-blip2={demo / 'tiny-blip2'}", "--store", str(tmp_path / "store"), "--device", "cpu"]
    places = ["--annotations", str(tmp_path / "questions.jsonl"), "--videos", str(real_videos)]
    assert main(["run", SMALL, *places, *weights]) == 0
    videos = {row["video_id"]: row for row in artifact(tmp_path / "store", "frames").rows("videos")}
    reasons = {name: row["reason"].split(":")[0] for name, row in videos.items() if row["status"] == "failed"}
    assert reasons["zero.mp4"] == "empty"
    assert reasons["noise.mp4"] == "unreadable"
    assert reasons["sound.mp4"] == "no_video_stream"
    assert reasons["gone.mp4"] == "missing"
    assert videos["good.mp4"]["status"] == "ok"
    printed = capsys.readouterr().out
    for name in reasons:
        assert f"{name}: {reasons[name]}" in printed
    if REAL.is_dir():
        assert "corrupted.mp4" in reasons
        assert {name for name, row in videos.items() if row["status"] == "ok"} >= {"nasa_13013.mp4", "street_demo1.mp4"}
