"""`sevila doctor`: problems of the machine, and the estimate for a recipe."""

import errno
import json
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cli import main
from pipeline.text_table import wrap_words
from reports import machine_check
from reports.recipe_check import RecipeEstimate, StepEstimate, estimate_text
from tests.stages.runs import arguments


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no sevila.toml
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


def doctor(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, Any]:
    capsys.readouterr()
    status = main(["doctor", *options, "--json"])
    return status, json.loads(capsys.readouterr().out)


def problems(content: Any) -> str:
    return "\n".join(finding["text"] for finding in content["findings"] if finding["state"] == "problem")


def test_a_runnable_recipe_has_status_zero_and_another_names_all_that_is_missing(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = arguments("doctor", demo, tmp_path / "store")[1:]
    status, content = doctor(capsys, *options)
    assert (status, problems(content)) == (0, "")
    steps = {step["stage"]: step for step in content["estimate"]["steps"]}
    assert steps["extract_features"]["amount"] == 10 * 8  # videos, frames of each
    assert steps["score_frames"]["amount"] == 30 * 8 and steps["answer_questions"]["amount"] == 30  # questions
    assert steps["extract_features"]["disk_bytes"] == 80 * 257 * 1408 * 2
    assert content["estimate"]["card"] == "NVIDIA H100 80GB HBM3"
    assert not (tmp_path / "store" / "artifacts").exists()
    status, content = doctor(capsys, "nextqa", "--store", str(tmp_path / "store"))
    assert status == 1
    for name in ("annotations 'nextqa'", "videos 'nextqa'", "'Salesforce/blip2-flan-t5-xl'", "'sevila-pretrained'"):
        assert name in problems(content)
    assert "extract_features in float16 on a CPU" in problems(content)


def test_a_recipe_of_rendered_videos_is_checked_without_rendering_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, content = doctor(capsys, "demo", "--store", str(tmp_path / "store"))
    texts = "\n".join(each["text"] for each in content["findings"])
    assert (status, content["estimate"]) == (0, None)
    assert "a run renders its own videos and questions first" in texts
    assert "no estimate of time and disk: the chain trains its backbone" in texts
    assert not (tmp_path / "store").exists()
    status, content = doctor(capsys, "shapes_long", "--store", str(tmp_path / "store"))
    assert status == 1 and "weights 'shapes-sevila'" in problems(content) and "annotations" not in problems(content)


def test_paths_of_the_command_are_checked_and_wrong_ones_have_a_fix(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = "Salesforce/blip2-flan-t5-xl", "sevila-pretrained"
    store, tiny = ("--store", str(tmp_path / "store")), demo / "tiny-blip2"
    for places in ([f"{name}={tiny}" for name in names], [str(tiny)]):
        options = [word for place in places for word in ("--weights", place)]
        _, content = doctor(capsys, *store, *options, "--videos", f"nextqa={demo}")
        texts = [each["text"] for each in content["findings"] if each["subject"] in ("weights", "data sets")]
        assert not [text for text in texts if "has no place" in text or "none has a place" in text]
        assert f"videos nextqa: {demo}" in texts and sum(f"{tiny}, here" in text for text in texts) == len(places)
    _, content = doctor(capsys, *store, "--weights", f"{names[0]}={demo / 'gone'}", "--videos", str(demo / "gone"))
    fixes = {each["subject"]: each["fix"] for each in content["findings"] if str(demo / "gone") in each["text"]}
    assert fixes["weights"].startswith(f"--weights {names[0]}=PATH") and "change --videos" in fixes["data sets"]


def test_a_recipe_with_a_vlm_answerer_needs_no_backbone(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    vlm_options = ["--set", "select_keyframes.method=uniform", "--set", "chain.answerer=vlm"]
    options = [*arguments("doctor", demo, tmp_path / "store")[1:], *vlm_options]
    index = options.index("--weights")
    del options[index : index + 2]
    status, content = doctor(capsys, *options, "--set", "answer_with_vlm.weights=qwen")
    assert status == 1 and "the weights 'qwen'" in problems(content) and "tiny-blip2" not in problems(content)
    frames = next(step for step in content["estimate"]["steps"] if step["stage"] == "sample_frames")
    assert frames["amount"] == 10 * 8
    status, content = doctor(capsys, *options, "--set", "answer_with_vlm.served=qwen")
    assert status == 1 and "OPENAI_BASE_URL" in problems(content)


def test_estimates_follow_the_sampling_and_the_stored_features(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = arguments("doctor", demo, tmp_path / "store")[1:]
    fixed_rate = ["--set", "sample_frames.sampling=fixed_rate", "--set", "sample_frames.most_frames=50"]
    every_second = ["--set", "sample_frames.sampling=every_second"]
    for more, frames in ((fixed_rate, 10 * 50), (every_second, 10 * 600)):
        _, content = doctor(capsys, *options, *more, "--set", "extract_features.level=queries")
        steps = {step["stage"]: step for step in content["estimate"]["steps"]}
        assert steps["sample_frames"]["amount"] == frames
        assert steps["extract_features"]["disk_bytes"] == frames * 2 * 32 * 768 * 2  # Localizer's and Answerer's


def test_missing_scores_are_named(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = arguments("doctor", demo, tmp_path / "store")[1:]
    status, content = doctor(capsys, *options, "--set", "chain.scorer=imported", "--set", "import_scores.scores=aks")
    assert status == 1 and problems(content).count("the scores 'aks'") == 1


def test_existing_artifacts_are_not_estimated(demo: Path, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments("doctor", demo, finished)) == 0
    assert capsys.readouterr().out.endswith("no problems\n\neverything is in the store\n")


def test_every_problem_of_the_machine_comes_with_its_fix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sevila.toml").write_text('[weights]\nours = "gone.pth"\n[videos]\nplain = "gone"\n')
    monkeypatch.setattr(machine_check, "installed_decoders", lambda: ("decord-0.5.0", "pyav-18.1.0"))
    monkeypatch.setattr(machine_check.fcntl, "flock", lambda file, kind: None)  # as on a disk that does not lock
    store = tmp_path / "store"
    store.mkdir()
    (tmp_path / "pool").mkdir()
    status, content = doctor(capsys, "--store", str(store))
    assert status == 1
    for text in ("ours: ", "videos plain: ", "decord-0.5.0", "do not lock"):
        (finding,) = [each for each in content["findings"] if text in each["text"]]
        assert finding["state"] == "problem" and finding["fix"]
    (store / "pool").symlink_to(tmp_path / "pool")
    status, content = doctor(capsys, "--store", str(store))
    assert "link" in problems(content)
    (tmp_path / "sevila.toml").write_text("[wieghts]\n")
    status, content = doctor(capsys, "--store", str(tmp_path / "other"))
    assert status == 1 and "[wieghts]" in problems(content)


def test_a_store_whose_folders_cannot_be_synced_is_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CIFS and FUSE file systems behave so."""
    fsync = os.fsync

    def of_files_only(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", of_files_only)
    _, content = doctor(capsys, "--store", str(tmp_path / "store"))
    of_store = {each["text"]: each["state"] for each in content["findings"] if each["subject"] == "store"}
    assert "problem" not in of_store.values()
    assert of_store["folders cannot be synced: a power failure may lose the last finished artifacts"] == "note"


def test_lines_break_only_between_words() -> None:
    text = "from https://huggingface.co/Salesforce/blip2-flan-t5-xl-of-a-very-long-name-that-has-no-end to the folder"
    lines = wrap_words(text, 40, "", "  ")
    assert " ".join(" ".join(lines).split()) == text and len(lines) == 3


def test_an_estimate_states_time_disk_and_gpu_memory_if_there_are_any() -> None:
    known = StepEstimate("score_frames", "", 703 * 60, "pairs", 60.0, 5_000_000_000, 7.5e9)
    text = estimate_text(RecipeEstimate("a card", [known]))
    assert "60 s" in text and "5.0 GB of disk" in text and "7.5 GB of GPU memory at most" in text
    assert estimate_text(RecipeEstimate("a card", [replace(known, amount=0)])).startswith("no estimate: ")
