"""Artifacts whose inputs have changed content are stale: reported, refused as inputs and rebuilt."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cache.notes import write_note
from cache.pool import Pool
from cache.record import RECORD, describe_files
from cache.store import Store
from cache.tables import write_rows
from cache.verify import Verification
from cli import main
from tests.stages.runs import UNIFORM, artifact, files, records, sevila
from tests.stages.test_drop import verify

BELOW_FRAMES = ("extract_features", "score_frames", "select_keyframes", "answer_questions", "evaluate")


def change_frames(store: Path) -> str:
    """Change the content of the frames, with a matching record, as of a run on another machine; return their id."""
    frames = artifact(store, "frames")
    name = "videos/00000.parquet"
    rows = [row | {"note": "decoded on another machine"} for row in frames.rows("videos")]
    write_rows(frames.path / name, frames.tables["videos"], rows)
    files = frames.record.files | describe_files(frames.path, [name])
    record = replace(frames.record, files=files).sealed(frames.record.content.split(".")[1])
    write_note(frames.path / RECORD, record.as_note())
    return str(frames.id)


def finished_times(store: Path) -> dict[str, str]:
    return {record.stage: record.finished for record in records(store).values()}


def plan_by_stage(demo: Path, store: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    capsys.readouterr()
    assert sevila("plan", demo, store) == 0
    lines = [line.split(maxsplit=3) for line in capsys.readouterr().out.splitlines()]
    return {line[1]: " ".join([line[0], *line[3:]]) for line in lines if line[0] in ("exists", "build")}


def test_artifacts_below_changed_content_are_stale_and_rebuilt(
    store: Path, demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = change_frames(store)
    plan = plan_by_stage(demo, store, capsys)
    assert plan["sample_frames"] == "exists" and plan["import_backbone"] == "exists"
    assert all(plan[stage].startswith("build is stale: ") and frames in plan[stage] for stage in BELOW_FRAMES)
    for command in (["cache", "ls"], ["cache", "show", "evaluate"]):
        assert main([*command, "--store", f"{store}"]) == 0
        assert "stale" in capsys.readouterr().out
    verification = Verification(Store(store))
    verification.artifacts(Store(store))
    stale = [problem.id for problem in verification.problems if problem.piece == "stale"]
    assert {id.split("-v")[0] for id in stale} == set(BELOW_FRAMES)
    before = finished_times(store)
    assert sevila("run", demo, store) == 0
    after = finished_times(store)  # the keyframes are equal again, so answers and metrics are kept
    assert {stage for stage in after if after[stage] != before[stage]} == set(BELOW_FRAMES[:3])
    assert all(status == "exists" for status in plan_by_stage(demo, store, capsys).values())


@pytest.mark.parametrize("command", [["answers"], ["compare"], ["compare", "--json"], ["compare", "--changed=1"]])
def test_commands_that_read_stale_artifacts_warn_and_name_the_remedy(
    named: Path,
    demo: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    command: list[str],
) -> None:
    store = Path(shutil.copytree(named, tmp_path / "store"))
    ids = [id for id in Store(store) if id.startswith("answer_questions")]
    read = ids[:1] if command == ["answers"] else ["baseline", "uniform"] if "--changed=1" in command else ids
    assert main([*command, *read, "--store", f"{store}"]) == 0
    assert "stale" not in caplog.text
    frames = change_frames(store)
    assert main([*command, *read, "--store", f"{store}"]) == 0
    for id in ids[:1] if command[0] == "answers" else ids:
        assert f"{id} is stale: " in caplog.text and frames in caplog.text and "`sevila run`" in caplog.text
    assert "stale" not in capsys.readouterr().out
    assert sevila("run", demo, store) == sevila("run", demo, store, *UNIFORM) == 0
    caplog.clear()
    assert main([*command, *read, "--store", f"{store}"]) == 0
    assert "stale" not in caplog.text


def test_stage_refuses_stale_inputs(store: Path, demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames, before = change_frames(store), files(store)
    assert sevila("stage", demo, store, "evaluate") == 1
    error = capsys.readouterr().err
    assert "is stale" in error and frames in error and "sevila run" in error
    assert files(store) == before


def test_pooled_features_are_recomputed_for_frames_with_other_pixels(store: Path, demo: Path) -> None:
    frames, before = artifact(store, "frames"), artifact(store, "features")
    video = next(video["video_id"] for video in frames.rows("videos") if video["status"] == "ok")
    former = {name: before.open().read(name, slice(None)) for name in before.open().videos}
    pool = Pool(Store(store), frames.record.pool)
    row = next(row for row in frames.rows("parts") if row["video_id"] == video)
    part = next(part for part in pool.parts(row["key"]) if part.name == row["part"])
    negatives = 255 - frames.open().read(video, slice(None))
    pool.write(part.key, part.frame_indices, negatives.shape[1:], "uint8", [negatives], part.facts)()
    assert verify(store, "--drop") == 0  # frames are published again with these pixels
    assert sevila("run", demo, store) == 0
    now = artifact(store, "features").open()
    assert [name for name in former if not np.array_equal(former[name], now.read(name, slice(None)))] == [video]
    assert verify(store) == 0
