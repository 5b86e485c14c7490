"""`sevila cache` on the small world: ls, why, ancestry, gc and du."""

import json
import shutil
from pathlib import Path

import pytest

from cache.names import named_run
from cache.store import Store
from cli import main
from stages.all import STAGES
from tests.stages.runs import UNIFORM, arguments, edited

TABLES = {
    (stage.output.kind, table): schema for stage in STAGES.values() for table, schema in stage.output.tables.items()
}


def printed(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    capsys.readouterr()
    assert main(command) == 0
    return capsys.readouterr().out


def why(capsys: pytest.CaptureFixture[str], demo: Path, store: Path, *more: str, stage: str = "") -> str:
    recipe, *places = arguments("run", demo, store)[1:]
    return printed(capsys, "cache", "why", recipe, *([stage] if stage else []), *places, *more)


def id_of(store: Path, run: str, stage: str) -> str:
    return next(pin.id for pin in named_run(Store(store), run).artifacts if pin.stage == stage)


def test_listing_shows_changed_settings_runs_and_the_store(
    named: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(capsys, "cache", "ls", "--stage", "select_keyframes", "--store", str(named)).splitlines()
    assert lines[0].endswith("6 failed  run baseline") and lines[1].endswith("6 failed  [method=uniform]  run uniform")
    below = ("--store", str(tmp_path / "own"), "--below", str(named))
    listing = json.loads(printed(capsys, "cache", "ls", "--json", *below))
    assert len(listing) == len(list(Store(named))) and {line["below"] for line in listing} == {str(named)}
    assert printed(capsys, "cache", "ls", "--stage", "select_keyframes", *below).count(f"in {named}") == 2
    assert [line["name"] for line in json.loads(printed(capsys, "runs", "--json", *below))] == ["baseline", "uniform"]
    assert "would free 0 B" in printed(capsys, "cache", "du", *below)


def test_a_changed_key_is_traced_upstream_and_printed_once(
    named: Path, demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert why(capsys, demo, named) == "everything is in the store\n"
    lines = why(capsys, demo, named, "--set", "sample_frames.frames=4").splitlines()
    assert [line.split()[1] for line in lines if line.startswith("build")] == [
        *("sample_frames", "extract_features", "score_frames", "select_keyframes", "answer_questions", "evaluate")
    ]
    assert [line.strip() for line in lines if line.startswith("        ")] == ["sample_frames.frames: 8 -> 4"]
    assert sum(line.endswith(": the same changes as above") for line in lines) == 5


def test_why_compares_with_a_named_run(named: Path, demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = why(capsys, demo, named, *UNIFORM, "--set", "select_keyframes.k=2", "--than", "uniform", stage="evaluate")
    assert output.splitlines()[1:] == [
        f"    changed from {id_of(named, 'uniform', 'evaluate')}:",
        "        select_keyframes.k: 4 -> 2",
    ]


def test_a_damaged_record_stops_neither_plan_nor_why_nor_rebuilding_its_inputs(
    named: Path, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Path(shutil.copytree(named, tmp_path / "store"))
    record = store / "artifacts" / id_of(named, "uniform", "select_keyframes") / "record.json"
    record.write_text(record.read_text().replace("keyframes", "keyframeZ", 1))
    wider = ("--set", "select_keyframes.k=2")
    assert "k: 4 -> 2" in printed(capsys, *arguments("plan", demo, store, *wider))
    assert "select_keyframes.k: 4 -> 2" in why(capsys, demo, store, *wider, stage="select_keyframes")
    assert main(arguments("stage", demo, store, "list_questions", "--again")) == 0


def test_why_counts_added_changed_and_missing_videos(
    named: Path, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def add_video(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        return [*rows, rows[0] | {"video": "new"}]

    world = edited(demo, tmp_path / "demo", add_video)
    videos = sorted((world / "videos").glob("*.mp4"))
    shutil.copy(videos[0], world / "videos" / "new.mp4")
    shutil.copy(videos[1], videos[2])
    videos[3].unlink()
    output = why(capsys, world, named, stage="sample_frames")
    changed = f"sample_frames.videos: 1 added (new), 1 changed ({videos[2].stem}), 1 now missing ({videos[3].stem})"
    assert changed in output


def test_ancestry_names_each_ancestor_once(named: Path, capsys: pytest.CaptureFixture[str]) -> None:
    id = id_of(named, "uniform", "evaluate")
    text = printed(capsys, "cache", "ancestry", id, "--store", str(named))
    pins = {pin.id for pin in named_run(Store(named), "uniform").artifacts}
    assert all(pin in text for pin in pins) and "(method='uniform')" in text
    assert text.count("frames=8, size=28") == 1 and "annotations: annotations-" in text


def test_gc_removes_unnamed_artifacts_and_du_counts_the_pool(
    named: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Path(shutil.copytree(named, tmp_path / "store"))
    options = ("--store", str(store))
    output = printed(capsys, "runs", "rm", "uniform", *options)
    assert output.startswith("removed; `sevila cache gc` would now free 0 B")
    for note in (store / "recent").glob("*.json"):
        note.unlink()
    candidates = json.loads(printed(capsys, "cache", "gc", "--older-than", "0", "--json", *options))
    assert [item["stage"] for item in candidates["goes"] if item["kind"] == "artifact"] == [
        *("evaluate", "answer_questions", "select_keyframes")
    ]
    assert len(list(Store(store))) == 13
    printed(capsys, "cache", "gc", "--older-than", "0", "--delete", *options)
    assert set(Store(store)) == {pin.id for pin in named_run(Store(store), "baseline").artifacts}
    usage = json.loads(printed(capsys, "cache", "du", "--json", *options))
    assert all(share["count"] == share["n_referenced"] for share in usage["pool"].values())
