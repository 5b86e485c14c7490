"""`sevila keyframes export`: the keyframes of a run for other models."""

import json
import os
import resource
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import pyarrow.parquet as pq
import pytest

from cli import main
from stages.list_questions import Questions
from stages.select_keyframes import Keyframes
from tests.stages.runs import artifact, edited, sevila


def export(store: Path, output: Path, *more: str) -> int:
    return main(["keyframes", "export", "select_keyframes", "-o", str(output), *more, "--store", str(store)])


def keyframes_by_question(store: Path) -> dict[str, Any]:
    keyframes: Keyframes = artifact(store, "keyframes")
    return {row["question_id"]: row for row in keyframes.rows("keyframes")}


def question_order(store: Path) -> list[str]:
    questions: Questions = artifact(store, "questions")
    return [question.question_id for question in questions.questions()]


def n_images(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_the_table_has_one_row_per_keyframe_with_score_and_rank(finished: Path, tmp_path: Path) -> None:
    assert export(finished, tmp_path / "deep" / "keyframes.parquet") == 0
    assert export(finished, tmp_path / "keyframes.json") == 0
    rows = pq.read_table(tmp_path / "deep" / "keyframes.parquet").to_pylist()
    assert json.loads((tmp_path / "keyframes.json").read_text()) == rows
    for question_id, row in keyframes_by_question(finished).items():
        of_question = [frame for frame in rows if frame["question_id"] == question_id]
        assert [frame["frame_index"] for frame in of_question] == row["frame_indices"]
        assert [frame["score"] for frame in of_question] == row["scores"]
        by_rank = sorted(of_question, key=lambda frame: frame["rank"])
        assert [frame["score"] for frame in by_rank] == sorted(row["scores"], reverse=True)


def test_export_takes_the_name_of_a_run(named: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for name in ("baseline", "uniform", "select_keyframes"):
        output = tmp_path / f"{name}.json"
        assert main(["keyframes", "export", name, "-o", str(output), "--store", str(named)]) == 0
        texts.append(output.read_text())
    assert texts[0] != texts[1] == texts[2]  # the newest artifact is the uniform run's
    capsys.readouterr()
    assert main(["keyframes", "export", "basline", "-o", str(tmp_path / "x.json"), "--store", str(named)]) == 1
    assert "did you mean 'baseline'" in capsys.readouterr().err


def test_frame_lists_follow_the_annotations_and_are_empty_for_failed_videos(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert export(finished, tmp_path / "selected_frames.json", "--as", "aks") == 0
    rows = keyframes_by_question(finished)
    expected = [rows[question_id]["frame_indices"] for question_id in question_order(finished)]
    assert json.loads((tmp_path / "selected_frames.json").read_text()) == expected
    assert [] in expected and "have no keyframes: " in caplog.text


@pytest.mark.parametrize(("kind", "suffix"), [("clips", ".mp4"), ("images", ".jpg")])
def test_clips_and_images_are_listed_with_their_files(
    finished: Path, demo: Path, tmp_path: Path, kind: str, suffix: str
) -> None:
    videos = ("--videos", str(demo / "videos"), "--height", "64")
    assert export(finished, tmp_path / "out", "--as", kind, *videos) == 0
    listed = json.loads((tmp_path / "out" / "keyframes.json").read_text())
    rows = {question_id: row for question_id, row in keyframes_by_question(finished).items() if row["status"] == "ok"}
    assert [row["question_id"] for row in listed] == [id for id in question_order(finished) if id in rows]
    for row in listed:
        frames = rows[row["question_id"]]["frame_indices"]
        assert row["frame_indices"] == frames
        files = [tmp_path / "out" / name for name in row["files"]]
        assert {file.suffix for file in files} == {suffix}
        assert sum(map(n_images, files)) == len(frames)


def test_an_export_resumes_and_refuses_a_folder_of_another_export(finished: Path, demo: Path, tmp_path: Path) -> None:
    out, videos = tmp_path / "out", ("--videos", str(demo / "videos"))
    assert export(finished, out, "--as", "clips", *videos) == 0
    clips = sorted(out.glob("*.mp4"))
    clips[0].unlink()
    before = {clip: clip.stat().st_mtime_ns for clip in clips[1:]}
    assert export(finished, out, "--as", "clips", *videos) == 0
    assert sorted(out.glob("*.mp4")) == clips
    assert {clip: clip.stat().st_mtime_ns for clip in clips[1:]} == before
    assert export(finished, out, "--as", "clips", "--height", "32", *videos) == 1
    assert export(finished, demo / "videos", "--as", "clips", *videos) == 1


def test_a_changed_video_is_reported_and_the_others_are_exported(
    finished: Path, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = Path(shutil.copytree(demo / "videos", tmp_path / "videos"))
    first, second, *_ = sorted(videos.glob("*.mp4"))
    shutil.copy(second, first)
    assert export(finished, tmp_path / "out", "--as", "clips", "--videos", str(videos)) == 1
    assert f"{first.stem}: " in capsys.readouterr().out
    listed = json.loads((tmp_path / "out" / "keyframes.json").read_text())
    with_frames = {row["video_id"] for row in keyframes_by_question(finished).values() if row["status"] == "ok"}
    assert {row["video_id"] for row in listed} == with_frames - {first.stem}


def test_unsafe_question_ids_stay_in_the_folder(demo: Path, tmp_path: Path) -> None:
    def edit(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        return [row | {"question_id": f"../what? {number}"} for number, row in enumerate(rows)]

    data = edited(demo, tmp_path / "data", edit)
    assert sevila("run", data, tmp_path / "store", "--set", "list_questions.limit=2") == 0
    assert export(tmp_path / "store", tmp_path / "out", "--as", "clips", "--videos", str(data / "videos")) == 0
    assert [clip.parent for clip in tmp_path.rglob("*what*.mp4")] == [tmp_path / "out"] * 2


def test_another_kind_of_artifact_is_refused(finished: Path, tmp_path: Path) -> None:
    id = artifact(finished, "answers").id
    command = ["keyframes", "export", id, "-o", str(tmp_path / "x.json"), "--store", str(finished)]
    assert main(command) == 1
    assert not (tmp_path / "x.json").exists()


def test_pipes_and_links_are_written_to_and_folders_are_refused(finished: Path, tmp_path: Path) -> None:
    pipe, target, link = tmp_path / "pipe.json", tmp_path / "target.json", tmp_path / "link.json"
    target.write_text("old")
    link.symlink_to(target)
    assert export(finished, link, "--as", "aks") == 0
    assert link.is_symlink() and json.loads(target.read_text())
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as thread:
        written = thread.submit(pipe.read_text)
        assert export(finished, pipe, "--as", "aks") == 0
        assert written.result() == target.read_text() and pipe.is_fifo()
    os.mkfifo(tmp_path / "pipe")
    assert export(finished, tmp_path / "pipe") == 1 and (tmp_path / "pipe").is_fifo()
    for output in ("", ".", str(tmp_path), str(tmp_path / "keyframes.csv")):
        with pytest.raises(SystemExit) as refused:
            main(["keyframes", "export", "select_keyframes", "-o", output, "--store", str(finished)])
        assert refused.value.code == 2


def test_reserved_names_and_names_that_differ_only_in_case_are_changed(demo: Path, tmp_path: Path) -> None:
    ids = ["keyframes.json", "Q", "q"]

    def edit(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        return [row | {"question_id": ids[number] if number < 3 else f"n{number}"} for number, row in enumerate(rows)]

    data = edited(demo, tmp_path / "data", edit)
    assert sevila("run", data, tmp_path / "store", "--set", "list_questions.limit=4") == 0
    videos = ("--videos", str(data / "videos"))
    assert export(tmp_path / "store", tmp_path / "out", "--as", "images", *videos) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names & {*ids, "n3"} == {"keyframes.json", "n3"} and len({name.lower() for name in names}) == len(names) == 6


def test_partial_files_of_a_killed_export_are_removed_by_the_next(finished: Path, demo: Path, tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as killed:
        pass
    out = tmp_path / "out"
    out.mkdir()
    of_this_process, of_killed = out / f"a.mp4.{os.getpid()}.part", out / f"b.mp4.{killed.pid}.part"
    of_this_process.touch()
    of_killed.touch()
    assert export(finished, out, "--as", "clips", "--videos", str(demo / "videos")) == 0
    assert [*out.glob("*.part")] == [of_this_process]


def test_a_full_disk_is_not_reported_as_a_failed_video(
    finished: Path, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limit[1]))  # child processes inherit it
    try:
        status = export(finished, tmp_path / "out", "--as", "clips", "--videos", str(demo / "videos"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    output = capsys.readouterr()
    assert status == 1 and "File too large" in output.err and "failed; run" not in output.out
    assert not [*(tmp_path / "out").glob("*.mp4*")]
