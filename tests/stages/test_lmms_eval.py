"""Keyframes exported as an lmms-eval task, run by the published package."""

import ast
import csv
import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pipeline.option_letters import OPTION_LETTERS, parse_option
from pipeline.video.pictures import pictures
from stages.list_questions import Questions
from stages.select_keyframes import Keyframes
from tests.stages.runs import artifact
from tests.stages.test_keyframe_export import export

TESTS = Path(__file__).parents[1]
PYTHON = TESTS.parent / ".venv-lmms" / "bin" / "python"


def install_tiny_model(folder: Path) -> None:
    """Install the tiny model as a package with an entry point."""
    about = folder / "tiny_lmms-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-lmms\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[lmms_eval.models]\ntiny_llava = tiny_lmms:manifest\n")
    (folder / "tiny_lmms.py").write_bytes((TESTS / "tiny_lmms.py").read_bytes())


def read_frames(path: Path, size: tuple[int, int]) -> np.ndarray:
    return np.stack([picture.reformat(*size, "rgb24").to_ndarray() for picture in pictures(path)]).astype(np.float32)


def test_the_documented_vlmevalkit_table_lists_the_keyframes_of_each_question(
    finished: Path, demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind, folder in (("lmms-eval", "kf32"), ("images", "kf32-images")):
        assert export(finished, tmp_path / folder, "--as", kind, "--videos", str(demo / "videos")) == 0
    (code,) = re.findall("```python\n(.*?)```", (TESTS.parent / "docs" / "other_models.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "table.py", "exec"), {})
    keyframes: Keyframes = artifact(finished, "keyframes")
    frames = {row["question_id"]: row["frame_indices"] for row in keyframes.rows("keyframes")}
    questions: Questions = artifact(finished, "questions")
    chosen = [frames[question.question_id] for question in questions.questions() if frames[question.question_id]]
    with (tmp_path / "kf32.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    paths = [list(map(Path, ast.literal_eval(row["image_path"]))) for row in rows]  # as VLMEvalKit reads them
    assert [[int(path.stem) for path in question_paths] for question_paths in paths] == chosen
    assert all(path.is_file() for question_paths in paths for path in question_paths)
    assert all(row[row["answer"]] and row["question"] for row in rows)


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-lmms: `make .venv-lmms/.installed` builds it")
def test_lmms_eval_runs_the_exported_task_and_its_model_sees_only_the_keyframes(
    finished: Path, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = tmp_path / "my keyframes"
    assert export(finished, task, "--as", "lmms-eval", "--videos", str(demo / "videos")) == 0
    assert f"--include_path '{task}' --tasks sevila_my_keyframes" in capsys.readouterr().out
    moved = task.rename(tmp_path / "moved")  # as when it is copied to another machine
    keyframes: Keyframes = artifact(finished, "keyframes")
    chosen = {row["question_id"]: row for row in keyframes.rows("keyframes")}
    k = max(len(row["frame_indices"]) for row in chosen.values())

    install_tiny_model(tmp_path / "package")
    command = [PYTHON, "-m", "lmms_eval", "--model", "tiny_llava", "--include_path", moved]
    command += ["--model_args", f"max_frames_num={k},seen={tmp_path / 'seen.npz'}", "--tasks", "sevila_my_keyframes"]
    command += ["--batch_size", "1", "--output_path", tmp_path / "results"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "PYTHONPATH": str(tmp_path / "package")}
    done = subprocess.run(list(map(str, command)), env=os.environ | offline, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

    questions: Questions = artifact(finished, "questions")
    questions_by_id = {question.question_id: question for question in questions.questions()}
    correct, unparsed, seen = [], [], np.load(tmp_path / "seen.npz")
    for question_id, row in chosen.items():
        if not row["frame_indices"]:
            assert f"{question_id} frames" not in seen
            continue
        question, frames = questions_by_id[question_id], seen[f"{question_id} frames"]
        video = read_frames(demo / "videos" / f"{row['video_id']}.mp4", frames.shape[2:0:-1])
        nearest = [int(((video - frame) ** 2).mean(axis=(1, 2, 3)).argmin()) for frame in frames.astype(np.float32)]
        assert nearest == row["frame_indices"]
        context = str(seen[f"{question_id} context"])
        assert context.startswith(f"{question.question}\nA. {question.options[0]}\nB. {question.options[1]}\n")
        number = parse_option(str(seen[f"{question_id} reply"]), question.options)
        correct.append(number is not None and number == question.answer_index)
        unparsed.append(number is None)
    (results,) = (tmp_path / "results").rglob("*results.json")
    metrics = json.loads(results.read_text())["results"]["sevila_my_keyframes"]
    assert metrics["accuracy,none"] == pytest.approx(np.mean(correct)) and 0 < np.mean(correct) < 1
    assert metrics["unparsed,none"] == pytest.approx(np.mean(unparsed)) and np.mean(unparsed) == pytest.approx(1 / 3)
    left_out = {row["question_id"] for row in json.loads((moved / "left_out.json").read_text())}
    assert left_out == {question_id for question_id, row in chosen.items() if not row["frame_indices"]}
    targets = [json.loads(line)["target"] for line in (moved / "questions.jsonl").read_text().splitlines()]
    assert set(targets) <= set(OPTION_LETTERS)
