"""Frames and features are computed once per content, independent of names of videos, data sets, recipes and stores."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from cache.pool_listing import every_part, references
from cache.store import Store
from cli import main
from tests.small_world import SMALL
from tests.stages.runs import artifact, edited, sevila
from tests.stages.runs import records as records_of


def parts(store: Path) -> dict[str, set[str]]:
    """Return the pool's parts by stage."""
    by_stage: dict[str, set[str]] = {"sample_frames": set(), "extract_features": set()}
    for space, key, name in every_part(store):
        by_stage[space.split("-v")[0]].add(f"{key}/{name}")
    return by_stage


def test_only_new_videos_are_decoded_and_encoded(demo: Path, store: Path, tmp_path: Path) -> None:
    before = parts(store)
    assert {stage: len(names) for stage, names in before.items()} == {"sample_frames": 8, "extract_features": 8}
    old = artifact(store, "features")
    other = shutil.copytree(demo, tmp_path / "other")
    broken = min((other / "videos").glob("*.mp4"), key=lambda path: path.stat().st_size)
    readable = max((other / "videos").glob("*.mp4"), key=lambda path: path.stat().st_size)
    with broken.open("wb") as file:  # the same frames, other bytes: a box that players skip
        file.write(readable.read_bytes() + b"\x00\x00\x00\x0cfreemore")
    assert sevila("run", other, store) == 0
    after = parts(store)
    assert {stage: len(after[stage] - before[stage]) for stage in after} == {"sample_frames": 1, "extract_features": 1}
    new = artifact(store, "features")
    assert new.id != old.id
    for row in old.rows("videos"):
        if row["status"] == "ok":
            np.testing.assert_array_equal(
                new.open().read(row["video_id"], slice(None)), old.open().read(row["video_id"], slice(None))
            )
    assert new.open().read(broken.stem, slice(None)).shape == old.open().read(readable.stem, slice(None)).shape


def test_videos_are_identified_by_content_and_not_by_name(demo: Path, store: Path, tmp_path: Path) -> None:
    before = parts(store)
    names = [path.stem for path in sorted((demo / "videos").glob("*.mp4"))]
    first, second = names[0], names[1]

    def rename(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        return [{**row, "video": f"new_{row['video']}"} for row in rows]

    other = edited(demo, tmp_path / "other", rename)
    for path in (other / "videos").glob("*.mp4"):
        path.rename(path.with_name(f"new_{path.name}"))
    assert sevila("run", other, store) == 0
    assert parts(store) == before
    features = artifact(store, "features")
    renamed = features.open().read(f"new_{first}", slice(None))
    # The second video's bytes under the first one's name and modification time.
    target, source = other / "videos" / f"new_{first}.mp4", other / "videos" / f"new_{second}.mp4"
    times = target.stat()
    target.write_bytes(source.read_bytes())
    os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert sevila("run", other, store) == 0
    assert parts(store) == before
    changed = artifact(store, "features").open()
    np.testing.assert_array_equal(changed.read(f"new_{first}", slice(None)), changed.read(f"new_{second}", slice(None)))
    assert not np.array_equal(changed.read(f"new_{first}", slice(None)), renamed)


def test_denser_sampling_encodes_only_new_frames(demo: Path, store: Path) -> None:
    before = parts(store)["extract_features"]
    old = artifact(store, "features")
    every_frame = ["--set", "sample_frames.sampling=fixed_rate", "--set", "sample_frames.frames_per_second=8"]
    assert sevila("run", demo, store, *every_frame) == 0
    new, sampled = artifact(store, "features"), artifact(store, "frames").frame_indices()
    for old_part in old.rows("parts"):
        rows = [row for row in new.rows("parts") if row["video_id"] == old_part["video_id"]]
        shared, added = sorted(rows, key=lambda row: f"{row['key']}/{row['part']}" not in before)
        assert shared["frame_indices"] == old_part["frame_indices"] and not set(added["frame_indices"]) & set(
            old_part["frame_indices"]
        )
        assert sorted(shared["frame_indices"] + added["frame_indices"]) == sampled[old_part["video_id"]].tolist()
        video = new.open().read(old_part["video_id"], slice(None))
        np.testing.assert_array_equal(video[shared["rows"]], old.open().read(old_part["video_id"], slice(None)))


def test_a_store_below_is_read_and_not_changed(demo: Path, finished: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    own = tmp_path / "own"
    assert sevila("run", demo, own, "--below", f"{finished}", "--set", "select_keyframes.k=2") == 0
    assert {record.stage for record in records_of(own).values()} == {"select_keyframes", "answer_questions", "evaluate"}
    assert list(every_part(own)) == []
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before
    # Without --videos: the store below remembers where they are.
    options = [SMALL, "--annotations", f"{demo / 'questions.csv'}", "--weights", f"tiny-blip2={demo / 'tiny-blip2'}"]
    options += ["--store", f"{own}", "--below", f"{finished}", "--device", "cpu"]
    assert main(["run", *options, "--set", "select_keyframes.k=3"]) == 0
    both = Store(own, [finished])
    assert all(references(both, both.record(id)) <= set(every_part(finished)) for id in both)


def test_a_missing_store_below_is_an_error(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sevila("run", demo, tmp_path / "own", "--below", f"{tmp_path / 'typo'}") == 1
    assert "is not a store: it has no folder `artifacts`" in capsys.readouterr().err


def test_two_backbones_with_the_same_vit_share_features(demo: Path, store: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    other = shutil.copytree(demo, tmp_path / "other")
    weights = other / "tiny-blip2" / "model.safetensors"
    tensors = load_file(weights)
    tensors["language_model.lm_head.weight"] = tensors["language_model.lm_head.weight"] * 1.01
    save_file(tensors, weights, metadata={"format": "pt"})
    before = parts(store)
    old = artifact(store, "features")
    assert sevila("run", other, store) == 0
    assert artifact(store, "features").id != old.id
    assert parts(store) == before
    tensors["vision_model.embeddings.class_embedding"] = tensors["vision_model.embeddings.class_embedding"] + 0.01
    save_file(tensors, weights, metadata={"format": "pt"})
    assert sevila("run", other, store) == 0
    spaces = {space for space, _, _ in every_part(store) if space.startswith("extract_features-v")}
    assert len(spaces) == 2 and parts(store) == before  # the same keys and frames, in a space of their own
