"""What is damaged in a store is found, and made again without a recipe: the same bytes, and no other file touched."""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import pytest

from cache.names import pinning
from cache.notes import read_note, write_note
from cache.record import Record, artifact_id, describe_files
from cache.store import Store
from cache.tables import write_rows
from cli import main
from stages.chain import STAGES
from tests.stages.runs import artifact, sevila

Files = dict[Path, tuple[bytes, int, int]]


def verify(demo: Path, store: Path, *more: str) -> int:
    places = ["--annotations", f"{demo / 'questions.csv'}", "--videos", f"{demo / 'videos'}"]
    places += ["--weights", f"tiny-blip2={demo / 'tiny-blip2'}", "--store", f"{store}", "--device", "cpu"]
    return main(["cache", "verify", *(more or ("--all",)), *places])


def contents(store: Path) -> Files:
    """Per file of artifacts and the pool: its bytes, and what changes when another file takes its place."""
    paths = [path for folder in ("artifacts", "pool") for path in (store / folder).rglob("*") if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[random.Random(path.name).randrange(len(content))] ^= 16
    path.write_bytes(content)


def one(store: Path, pattern: str) -> Path:
    return sorted(store.glob(pattern))[0]


def assert_repaired(store: Path, before: Files, damaged: list[Path]) -> None:
    after = contents(store)
    assert after.keys() == before.keys()
    for path, (content, *place) in after.items():
        assert content == before[path][0], path
        assert path in damaged or tuple(place) == before[path][1:], f"{path} was touched"
    assert not list((store / "partial").iterdir())


DAMAGE: tuple[Callable[[Path], object], ...] = (
    flip,
    lambda path: os.truncate(path, path.stat().st_size // 2),
    lambda path: path.unlink(),
)
PIECES = [
    "artifacts/list_questions-*/questions.parquet",
    "artifacts/import_backbone-*/backbone.json",
    "artifacts/sample_frames-*/frames/00000.parquet",
    "artifacts/sample_frames-*/parts/00000.parquet",
    "artifacts/score_frames-*/frame_scores/00000.parquet",
    "artifacts/init_localizer-*/*.safetensors",
    "artifacts/evaluate-*/metrics.json",
    "pool/sample_frames-*/*/*/*.h5",
    "pool/extract_features-*/*/*/*.h5",
    "pool/extract_features-*/*/*/*.json",
]


def test_a_store_that_is_not_there_is_not_said_to_be_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "verify", "--all", "--store", f"{tmp_path / 'gone'}"]) == 1
    assert "there is no store at" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_damaged_pieces_of_all_kinds_get_their_bytes_back_and_no_other_file_is_touched(
    demo: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(store)
    damaged = [one(store, pattern) for pattern in PIECES]
    for path, damage in zip(damaged, cycle(DAMAGE)):
        damage(path)
    assert verify(demo, store) == 1
    told = capsys.readouterr().out
    for path in damaged:
        assert str(path.with_suffix("")) in told, path
    assert verify(demo, store, "--all", "--repair") == 0
    of_parts = [path.with_suffix(end) for path in damaged for end in (".h5", ".json") if "pool" in path.parts]
    assert_repaired(store, before, damaged + of_parts)
    assert "all as written" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["record.json", "progress/record.json", "progress/00000.json", "progress/plan.json"])
def test_damaged_record_or_note_is_rebuilt_without_running_a_stage(
    name: str, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(store)
    path = one(store, f"artifacts/sample_frames-*/{name}")
    flip(path)
    verify_only = ["cache", "verify", "--all", "--store", f"{store}"]
    assert main(verify_only) == 1 and str(path) in capsys.readouterr().out
    assert main([*verify_only, "--repair"]) == 0
    assert_repaired(store, before, [path])


@pytest.mark.parametrize("by_id", [False, True])
def test_lost_record_is_found_and_put_back_from_its_copy(
    by_id: bool, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(store)
    path = one(store, "artifacts/sample_frames-*/record.json")
    path.unlink()
    verify_only = ["cache", "verify", path.parent.name if by_id else "--all", "--store", f"{store}"]
    assert main(verify_only) == 1 and f"{path}: it is gone" in capsys.readouterr().out
    assert main([*verify_only, "--repair"]) == 0
    assert_repaired(store, before, [path])


def test_missing_artifacts_are_problems_where_a_named_run_needs_them_and_never_all_as_written(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames, features = one(store, "artifacts/sample_frames-*"), one(store, "artifacts/extract_features-*")
    shutil.rmtree(frames)
    everything = ["cache", "verify", "--all", "--store", f"{store}"]
    assert main(everything) == 0
    said = capsys.readouterr().out
    assert (
        frames.name in said and "all as written of what is here; not here: 1 artifact that no named run needs" in said
    )
    for pinned in (features, frames):  # what was made from it; itself
        with pinning(Store(store), "x", "recipe", {}, [], replace=True) as pins:
            pins.add(pinned.name, "stage", "")
        assert main(everything) == 1
        said = capsys.readouterr().out
        assert f"{frames}: it is gone" in said and "1 problem; an artifact that is gone is made by its recipe" in said
    assert main([*everything, "--repair"]) == 1 and "run the recipe again" in capsys.readouterr().out


def test_verify_says_what_can_be_done_for_a_damaged_name(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pinning(Store(store), "x", "recipe", {}, []):
        pass
    (store / "names" / "x.json").write_text("{")
    assert main(["cache", "verify", "--all", "--store", f"{store}"]) == 1
    said = capsys.readouterr().out
    assert "--repair" not in said and "sevila runs rm NAME" in said


def test_shard_is_rebuilt_alone_and_the_others_are_not_made_again(
    demo: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = tmp_path / "store"
    assert sevila("stage", demo, store, "list_questions") == 0
    assert sevila("stage", demo, store, "sample_frames", "--shard-megabytes", "0.08") == 0
    before = contents(store)
    damaged = [one(store, "artifacts/sample_frames-*/videos/00001.parquet"), one(store, "pool/*/*/*/*.h5")]
    for path in damaged:
        flip(path)
    caplog.clear()
    assert verify(demo, store, "--all", "--repair") == 0
    made = {record.getMessage().split(" done")[0] for record in caplog.records if " done in" in record.getMessage()}
    assert made == {"sample_frames: shard 1 of 3", "sample_frames: shard 2 of 3"}
    assert_repaired(store, before, [*damaged, damaged[1].with_suffix(".json")])


def test_record_and_its_copy_damaged_both_mend_each_other(store: Path) -> None:
    before = contents(store)
    damaged = [one(store, f"artifacts/sample_frames-*/{name}") for name in ("record.json", "progress/record.json")]
    for place, path in enumerate(damaged):
        content = bytearray(path.read_bytes())
        content[300 + 500 * place] ^= 1
        path.write_bytes(content)
    assert main(["cache", "verify", "--all", "--repair", "--store", f"{store}"]) == 0
    assert_repaired(store, before, damaged)


@pytest.mark.parametrize("name", ["record.json", "progress/record.json"])
def test_of_two_whole_records_that_differ_the_one_that_fits_the_files_stays(name: str, store: Path) -> None:
    before = contents(store)
    path = one(store, f"artifacts/sample_frames-*/{name}")
    content = read_note(path)
    for file in content["files"].values():
        file["sha256"] = "0" * 64
    write_note(path, content)
    assert main(["cache", "verify", "--all", "--repair", "--store", f"{store}"]) == 0
    assert_repaired(store, before, [path])


def test_of_two_whole_records_that_differ_in_what_no_file_tells_none_is_chosen(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = one(store, "artifacts/sample_frames-*/record.json")
    write_note(path, read_note(path) | {"host": "elsewhere"})
    before = contents(store)
    assert main(["cache", "verify", "--all", "--repair", "--store", f"{store}"]) == 1
    said = capsys.readouterr().out
    assert "in host" in said and f"not repaired: {path} and" in said and "delete the wrong one" in said
    assert contents(store) == before


@pytest.mark.slow
def test_repair_that_was_killed_goes_on(demo: Path, store: Path) -> None:
    before = contents(store)
    damaged = [one(store, pattern) for pattern in (PIECES[0], PIECES[3], PIECES[8])]
    for path in damaged:
        flip(path)
    killed = (
        "import os, cli\nleft = 3\ndef replace(*a):\n global left\n left -= 1\n left or os._exit(9)\n return old(*a)\n"
    )
    code = f"{killed}old, os.replace = os.replace, replace\nimport tests.stages.test_repair as t; from pathlib import Path\n"
    code += f"t.verify(Path({str(demo)!r}), Path({str(store)!r}), '--all', '--repair')"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env={**os.environ, "PYTHONPATH": str(root)})
    assert done.returncode == 9
    assert verify(demo, store, "--all", "--repair") == 0
    assert_repaired(store, before, [*damaged, damaged[2].with_suffix(".json")])


def test_artifact_of_a_store_below_is_repaired_in_ones_own(demo: Path, store: Path, tmp_path: Path) -> None:
    damaged = [one(store, pattern) for pattern in (PIECES[4], PIECES[5], PIECES[7], PIECES[8])]
    for path in damaged:
        flip(path)
    below, own = contents(store), tmp_path / "own"
    own.mkdir()
    shutil.copy(store / "digests.json", own)
    assert verify(demo, own, "--all", "--below", f"{store}") == 1
    assert verify(demo, own, "--all", "--repair", "--below", f"{store}") == 0
    assert contents(store) == below
    assert verify(demo, own, "--all", "--below", f"{store}") == 0
    assert {path.name.split("-")[0] for path in (own / "artifacts").iterdir()} == {"score_frames", "init_localizer"}


def test_repair_says_what_is_missing_and_how_to_give_it(
    demo: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = one(store, PIECES[7])
    flip(path)
    assert main(["cache", "verify", "--all", "--repair", "--store", f"{store}"]) == 1
    told = capsys.readouterr().out
    assert "not repaired: sample_frames-v4" in told and "--videos plain=PATH" in told
    assert path.exists()  # damaged is better than gone


def test_artifact_of_another_version_of_its_stage_is_not_repaired_but_told(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    id = next(id for id in Store(store) if id.startswith("select_keyframes"))
    flip(one(store, f"artifacts/{id}/*.parquet"))
    monkeypatch.setitem(STAGES, "select_keyframes", replace(STAGES["select_keyframes"], version=9))
    assert main(["cache", "verify", id, "--repair", "--store", f"{store}"]) == 1
    assert "is of version 9 now; run the recipe" in capsys.readouterr().out


@pytest.mark.parametrize("config", [{"k": 3}, {"no such key": 1}])  # of before a key was added, or was given up
def test_artifact_of_other_settings_than_its_stage_has_now_is_not_repaired_but_told(
    config: dict[str, int], store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = STAGES["select_keyframes"]
    inputs: dict[str, str | None] = dict.fromkeys(stage.inputs)
    id = artifact_id(stage.name, stage.version, config, inputs)
    damaged = {"x.bin": {"size_bytes": 1, "sha256": "0" * 64}}
    Store(store).partial(id).mkdir(parents=True)
    Store(store).publish(Record(id, stage.name, stage.version, "keyframes", config, inputs, files=damaged))
    assert main(["cache", "verify", id, "--repair", "--store", f"{store}"]) == 1
    assert "takes other settings or inputs now; run the recipe" in capsys.readouterr().out


def test_reader_names_the_file_and_the_command_that_mends_it(
    demo: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    id = next(id for id in Store(store) if id.startswith("score_frames"))
    flip(one(store, f"artifacts/{id}/frame_scores/*.parquet"))
    assert sevila("stage", demo, store, "select_keyframes", "--again") == 1
    told = capsys.readouterr().err
    assert "frame_scores/00000.parquet" in told and f"sevila cache verify {id} --repair" in told
    flip(one(store, PIECES[8]))
    assert sevila("stage", demo, store, "score_frames", "--again") == 1
    told = capsys.readouterr().err
    command = told[told.index("sevila cache verify") : told.index("--repair")].split()[3:]
    assert verify(demo, store, *command) == 1 and verify(demo, store, *command, "--repair") == 0


def test_piece_made_again_with_other_bytes_is_told_with_what_was_made_from_the_former_and_nothing_is_removed(
    demo: Path, store: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = artifact(store, "frame_scores")  # as another machine would have made them:
    name, folder = "frame_scores/00000.parquet", scores.path
    rows = [{**row, "logit_yes": row["logit_yes"] + 1e-5} for row in scores.rows("frame_scores")]
    write_rows(folder / name, scores.tables["frame_scores"], rows)
    record = replace(scores.record, files=describe_files(folder, [name])).sealed()
    for path in ("record.json", "progress/record.json"):
        write_note(folder / path, record.as_note())
    write_note(folder / "progress/00000.json", read_note(folder / "progress/00000.json") | {"files": record.files})
    before = set(Store(store))
    assert verify(demo, store) == 1
    said = capsys.readouterr().out.splitlines()
    assert {line.split(": ")[1] for line in said[:-1]} and all("has other content now" in line for line in said[:-1])
    flip(folder / name)
    caplog.clear()
    assert verify(demo, store, scores.id, "--repair") == 0
    (warning,) = [entry.getMessage() for entry in caplog.records if entry.levelname == "WARNING"]
    made_from = [id for id in before if id.startswith(("select_keyframes", "answer_questions", "evaluate"))]
    assert scores.id in warning and all(id in warning for id in made_from)
    assert set(Store(store)) == before and verify(demo, store) == 0


@pytest.mark.parametrize("name", ["plan.json", "00000.json"])
def test_damaged_plan_or_note_of_unfinished_work_is_told_and_made_anew(
    name: str, demo: Path, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = contents(store)
    made = one(store, "artifacts/score_frames-*")
    (made / "record.json").unlink()
    (store / "partial" / made.name / "progress").mkdir(parents=True)
    for path in [path for path in made.rglob("*") if path.is_file()]:  # as a killed run leaves it
        place = store / "partial" / made.name / path.relative_to(made)
        place.parent.mkdir(exist_ok=True)
        path.rename(place)
    flip(store / "partial" / made.name / "progress" / name)
    assert sevila("stage", demo, store, "score_frames") == 0
    assert f"progress/{name}" in caplog.text and "made anew" in caplog.text
    after = contents(store)
    assert after.keys() == before.keys()
    assert all(after[path][0] == before[path][0] for path in before if path.suffix != ".json")
