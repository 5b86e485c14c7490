"""`cache verify --drop` removes only damaged pieces; the next run of the recipe rebuilds only those, byte for byte."""

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import pytest

from cache.gc import survey
from cache.names import pinning
from cache.notes import read_note, write_note
from cache.record import Record, artifact_id, describe_files
from cache.store import Store, remove_folder
from cache.tables import Schema, write_rows
from cli import main
from tests.stages.runs import artifact, sevila

pytestmark = pytest.mark.slow

Files = dict[Path, tuple[bytes, int, int]]


def verify(store: Path, *more: str) -> int:
    ids = () if more and not more[0].startswith("-") else ("--all",)
    return main(["cache", "verify", *ids, *more, "--store", f"{store}"])


def contents(store: Path) -> Files:
    """Return the bytes, inode and modification time of every file of artifacts and of the pool."""
    paths = [path for folder in ("artifacts", "pool") for path in (store / folder).rglob("*") if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[random.Random(path.name).randrange(len(content))] ^= 16
    path.write_bytes(content)


def first(store: Path, pattern: str) -> Path:
    return sorted(store.glob(pattern))[0]


def assert_rebuilt(store: Path, before: Files, rebuilt: list[Path]) -> None:
    """Assert that only files below `rebuilt` were replaced, all with the same bytes; records may differ."""
    after = contents(store)
    assert after.keys() == before.keys()
    for path, (content, *place) in after.items():
        may_differ = any(path.is_relative_to(each) for each in rebuilt)
        if path.name != "record.json" and "progress" not in path.parts:
            assert content == before[path][0], path
        assert may_differ or tuple(place) == before[path][1:], f"{path} was touched"
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
    "artifacts/select_keyframes-*/record.json",
    "artifacts/evaluate-*/metrics.json",
    "pool/sample_frames-*/*/*/*.h5",
    "pool/extract_features-*/*/*/*.h5",
    "pool/extract_features-*/*/*/*.json",
]


def test_verify_refuses_a_missing_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "verify", "--all", "--store", f"{tmp_path / 'gone'}"]) == 1
    assert "there is no store to verify" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_verify_lists_damaged_pieces_of_all_kinds_and_changes_nothing(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = [path for path in (first(store, pattern) for pattern in PIECES) if path.exists()]
    for path, damage in zip(damaged, cycle(DAMAGE)):
        damage(path)
    before = contents(store)
    assert verify(store) == 1
    output = capsys.readouterr().out
    for path in damaged:
        assert str(path.with_suffix("")) in output, path
    assert "nothing is changed without it" in output and contents(store) == before


def test_drop_without_damage_removes_nothing(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(store)
    assert verify(store, "--drop") == 0
    assert "all as written" in capsys.readouterr().out and contents(store) == before


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_run_rebuilds_only_the_dropped_pieces(damage: Callable[[Path], object], demo: Path, store: Path) -> None:
    before = contents(store)
    damaged = [first(store, pattern) for pattern in PIECES]
    for path in damaged:
        damage(path)
    verify(store, "--drop")  # does not list an artifact without shards whose record is gone
    assert sevila("run", demo, store) == 0
    rebuilt = [path.parents[len(path.relative_to(store).parts) - 3] for path in damaged if "pool" not in path.parts]
    rebuilt += [path.with_suffix(end) for path in damaged for end in (".h5", ".json") if "pool" in path.parts]
    rebuilt.append(first(store, "artifacts/extract_features-*"))  # points to the damaged part of the pool
    assert_rebuilt(store, before, rebuilt)
    assert verify(store) == 0


def test_intact_pieces_are_never_dropped(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = first(store, "artifacts/score_frames-*/frame_scores/00000.parquet")
    flip(path)
    before = contents(store)
    assert verify(store, "--drop") == 0
    output = capsys.readouterr().out
    assert f"{path.parents[1].name}: shard 1 of 1 is removed" in output
    after = contents(store)
    assert all(after.get(file) == before[file] for file in before if not file.is_relative_to(path.parents[1]))
    partial = store / "partial" / path.parents[1].name
    assert {file.relative_to(partial).as_posix() for file in partial.rglob("*.json")} == {
        "dropped.json",
        "progress/plan.json",
    }


@pytest.mark.parametrize("piece", ["videos/00001.parquet", "record.json"])
def test_only_the_damaged_shard_is_rebuilt(
    piece: str, demo: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = tmp_path / "store"
    small = ("--shard-megabytes", "0.08")
    assert sevila("run", demo, store, *small) == 0
    before = contents(store)
    frames, part = first(store, "artifacts/sample_frames-*"), first(store, "pool/sample_frames-*/*/*/*.h5")
    for path in (frames / piece, part):
        flip(path)
    assert verify(store, "--drop") == 0
    caplog.clear()
    assert sevila("run", demo, store, *small) == 0
    messages = [record.getMessage() for record in caplog.records]
    finished_shards = {line.partition("] ")[2].split(" done in")[0] for line in messages if " done in" in line}
    expected = {"sample_frames: shard 1 of 3"}
    assert finished_shards == (expected | {"sample_frames: shard 2 of 3"} if piece != "record.json" else expected)
    assert_rebuilt(store, before, [frames, part, part.with_suffix(".json")])


def test_a_lost_record_is_rebuilt_from_the_shards(
    demo: Path, store: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    before = contents(store)
    path = first(store, "artifacts/sample_frames-*/record.json")
    path.unlink()
    assert verify(store, path.parent.name) == 1 and f"{path}: is gone" in capsys.readouterr().out
    assert verify(store, "--drop") == 0
    assert "all its shards stay" in capsys.readouterr().out
    caplog.clear()
    assert sevila("run", demo, store) == 0
    assert "done in" not in caplog.text
    assert_rebuilt(store, before, [path.parent])


@pytest.mark.parametrize("name", ["00000.json", "plan.json"])
def test_a_damaged_note_of_a_finished_artifact_is_dropped_alone(
    name: str, store: Path, demo: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = contents(store)
    path = first(store, f"artifacts/sample_frames-*/progress/{name}")
    flip(path)
    assert verify(store) == 1
    assert verify(store, "--drop") == 0 and verify(store) == 0
    after = contents(store)
    assert before.keys() - after.keys() == {path} and all(after[each] == before[each] for each in after)
    caplog.clear()
    assert sevila("run", demo, store) == 0 and ": made " not in caplog.text


def test_a_missing_artifact_is_a_problem_only_for_a_named_run_that_needs_it(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames, features = first(store, "artifacts/sample_frames-*"), first(store, "artifacts/extract_features-*")
    shutil.rmtree(frames)
    assert verify(store) == 0
    output = capsys.readouterr().out
    assert frames.name in output and "all as written; not in the store: 1 artifact that no named run needs" in output
    for pinned in (features, frames):  # its reader; itself
        with pinning(Store(store), "x", "recipe", {}, [], replace=True) as pins:
            pins.add(pinned.name, "stage", "")
        assert verify(store) == 1
        output = capsys.readouterr().out
        assert f"{frames}: is gone" in output and "1 problem" in output
        assert "run its recipe again, which makes it" in output
    assert verify(store, "--drop") == 1


def test_a_damaged_name_is_kept_and_the_command_that_removes_it_printed(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pinning(Store(store), "x", "recipe", {}, []):
        pass
    path = store / "names" / "x.json"
    path.write_text("{")
    assert verify(store, "--drop") == 1
    assert "sevila runs rm x" in capsys.readouterr().out and path.exists()


def test_gc_keeps_the_inputs_of_a_dropped_artifact_of_a_named_run(store: Path, tmp_path: Path) -> None:
    scores = artifact(store, "frame_scores")
    for record in ("intact", "damaged"):
        copy = Path(shutil.copytree(store, tmp_path / record))
        for path in copy.glob("artifacts/*"):  # other readers of the inputs
            if path.name.split("-")[0] in ("select_keyframes", "answer_questions", "evaluate", "evaluate_localization"):
                remove_folder(path)
        shutil.rmtree(copy / "recent")
        flip(first(copy, f"artifacts/{scores.id}/frame_scores/*.parquet"))
        with pinning(Store(copy), "x", "recipe", {}, []) as pins:
            pins.add(scores.id, "score_frames", "")
        if record == "damaged":
            flip(copy / "artifacts" / scores.id / "record.json")
        assert verify(copy, "--drop") == 0
        if record == "damaged":
            with pytest.raises(ValueError, match="run its recipe again first"):
                survey(Store(copy), older_than_days=0)
        else:
            removed = {item.name for item in survey(Store(copy), older_than_days=0).goes if item.kind == "artifact"}
            assert not removed & set(scores.record.inputs.values())


def test_damage_in_a_store_below_is_kept(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for pattern in (PIECES[4], PIECES[8]):
        flip(first(store, pattern))
    below, own = contents(store), tmp_path / "own"
    own.mkdir()
    assert verify(own, "--drop", "--below", f"{store}") == 1
    assert f"--drop --store {store}` drops it there" in capsys.readouterr().out
    assert contents(store) == below and not (own / "artifacts").exists()


def test_a_damaged_part_of_an_unfinished_artifact_is_rebuilt(demo: Path, store: Path) -> None:
    before = contents(store)
    frames, part = first(store, "artifacts/sample_frames-*"), first(store, "pool/sample_frames-*/*/*/*.h5")
    (frames / "record.json").unlink()
    (store / "partial").mkdir(exist_ok=True)
    frames.rename(store / "partial" / frames.name)  # as a killed run leaves it
    flip(part.with_suffix(".json"))
    assert verify(store, "--drop") == 0
    assert sevila("run", demo, store) == 0
    assert_rebuilt(store, before, [frames, part, part.with_suffix(".json")])


def test_weights_are_not_dropped_with_a_damaged_measured_table(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema = Schema(1, step="int64", seconds="float64")
    id = artifact_id("train_things", 1, {}, {})
    folder = Store(store).partial(id)
    write_rows(folder / "curves.parquet", schema, [{"step": 1, "seconds": 0.5}])
    (folder / "weights.bin").write_bytes(b"weights")
    files = describe_files(folder, ["curves.parquet", "weights.bin"])
    schemas = {"curves": schema.as_dict() | {"measured": True}}
    Store(store).publish(Record(id, "train_things", 1, "x", {}, {}, files=files, rows={"curves": 1}, schemas=schemas))
    flip(store / "artifacts" / id / "curves.parquet")
    before = contents(store)
    assert verify(store, id, "--drop") == 1
    assert "sevila stage train_things RECIPE --again" in capsys.readouterr().out and contents(store) == before
    flip(store / "artifacts" / id / "weights.bin")
    assert verify(store, id, "--drop") == 0 and not Store(store).exists(id)


def test_a_reader_names_the_damaged_file_and_the_command_that_drops_it(
    demo: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    id = next(id for id in Store(store) if id.startswith("score_frames"))
    flip(first(store, f"artifacts/{id}/frame_scores/*.parquet"))
    assert sevila("stage", demo, store, "select_keyframes", "--again") == 1
    output = capsys.readouterr().err
    assert "frame_scores/00000.parquet" in output and f"sevila cache verify {id} --drop" in output
    flip(first(store, PIECES[9]))
    assert sevila("stage", demo, store, "score_frames", "--again") == 1
    output = capsys.readouterr().err
    name = output[output.index("sevila cache verify") : output.index("--drop")].split()[3]
    assert verify(store, name) == 1 and verify(store, name, "--drop") == 0
    assert sevila("run", demo, store) == 0


def test_artifacts_are_rebuilt_when_a_dropped_input_is_rebuilt_with_other_content(demo: Path, store: Path) -> None:
    scores = artifact(store, "frame_scores")  # rewritten with the values of another machine:
    name, folder = "frame_scores/00000.parquet", scores.path
    rows = [{**row, "logit_yes": row["logit_yes"] + 1e-5} for row in scores.rows("frame_scores")]
    write_rows(folder / name, scores.tables["frame_scores"], rows)
    record = replace(scores.record, files=scores.record.files | describe_files(folder, [name])).sealed()
    write_note(folder / "record.json", record.as_note())
    write_note(folder / "progress/00000.json", read_note(folder / "progress/00000.json") | {"files": record.files})
    assert sevila("run", demo, store) == 0  # rebuilds all that reads the scores
    former = artifact(store, "keyframes").record.input_contents
    flip(folder / name)
    assert verify(store, scores.id, "--drop") == 0
    assert sevila("run", demo, store) == 0 and verify(store) == 0
    assert artifact(store, "keyframes").record.input_contents != former


@pytest.mark.parametrize("name", ["plan.json", "00000.json"])
def test_a_damaged_plan_or_note_of_unfinished_work_is_reported_and_rebuilt(
    name: str, demo: Path, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = contents(store)
    scores = first(store, "artifacts/score_frames-*")
    (scores / "record.json").unlink()
    (store / "partial").mkdir(exist_ok=True)
    scores.rename(store / "partial" / scores.name)  # as a killed run leaves it
    flip(store / "partial" / scores.name / "progress" / name)
    assert sevila("stage", demo, store, "score_frames") == 0
    assert f"progress/{name}" in caplog.text and "rebuilt" in caplog.text
    assert_rebuilt(store, before, [scores])


@pytest.mark.parametrize("suffix", [".json", ".h5"])
def test_a_folder_in_place_of_a_pool_part_is_dropped_and_rebuilt(demo: Path, store: Path, suffix: str) -> None:
    path = first(store, f"pool/extract_features-*/*/*/*{suffix}")
    expected = path.read_bytes()
    path.unlink()
    path.mkdir()
    assert verify(store, "--drop") == 0
    assert sevila("run", demo, store) == 0
    assert verify(store) == 0 and (suffix == ".json" or path.read_bytes() == expected)


@pytest.mark.parametrize("suffix", [".json", ".h5"])
def test_a_link_in_the_pool_is_reported_and_kept(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    path = first(store, f"pool/extract_features-*/*/*/*{suffix}")
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    ids = set(Store(store))
    assert verify(store, "--drop") == 1
    out = capsys.readouterr().out
    assert f"{path}: is a link" in out and "\ndropped:" not in out
    assert path.is_symlink() and set(Store(store)) == ids
    path.unlink()
    (tmp_path / "elsewhere").rename(path)
    assert verify(store) == 0


def test_verify_refuses_an_unknown_pool_part(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(finished, "a/b/c", "--drop") == 1
    assert "a/b/c: is not in the pool" in capsys.readouterr().err
