"""Videos of more frames than are stored at once: what was done of one is kept when a run is killed, and not done again."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cache.notes import read_note, write_note
from cache.pool import Pool
from cache.store import Store
from pipeline.engine import progress
from pipeline.engine.build import build
from pipeline.engine.sources import Sources
from pipeline.engine.stage import RunContext
from pipeline.video import decode_worker, stored_video
from pipeline.video.decoding import DecodeRequest
from pipeline.video.frames import FixedRateSampling
from stages import sample_frames
from stages.all import STAGES
from tests import videos

PIECE_FRAMES = 128
N_FRAMES = 300  # two pieces and a rest
FPS = 12
KEPT = 2  # pieces when it is killed


def in_small_pieces(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(stored_video, "STORED_FRAMES", PIECE_FRAMES)
    patch.setattr(sample_frames, "STORED_FRAMES", PIECE_FRAMES)


@pytest.fixture(scope="module", autouse=True)
def small_pieces() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        in_small_pieces(patch)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one long video and a question about it."""
    folder = tmp_path_factory.mktemp("long")
    (folder / "videos").mkdir()
    videos.make_video(folder / "videos" / "talk.mp4", N_FRAMES, FPS)
    question = {"video": "talk.mp4", "question": "What is seen?", "options": ["a", "b"], "answer": 0}
    (folder / "q.jsonl").write_text(json.dumps(question))
    return folder


def sampled(folder: Path, root: Path) -> Any:
    """Return the artifact with every frame of the video."""
    store = Store(root)
    sources = Sources(store.digests, {"annotations": [str(folder / "q.jsonl")], "videos": [str(folder / "videos")]})
    run = RunContext(store, device="cpu", decode_workers=1, sources=sources)
    listing: Any = STAGES["list_questions"]
    sampling: Any = STAGES["sample_frames"]
    questions: Any = build(listing, listing.config(), run, [sources.annotations("plain", "")])
    config = sampling.config(sampling="fixed_rate", frames_per_second=FPS, size=32)
    return build(sampling, config, run, [sources.videos("plain", questions)])


def sampled_until_killed(folder: Path, root: Path, n_pieces: int) -> None:
    """Sample until so many pieces are safe, and die while the next one is written: nothing is caught, nothing cleaned up."""
    write = Pool.write
    begun: list[str] = []
    safe = threading.Semaphore(0)

    def write_or_die(pool: Pool, key: str, indices: Any, shape: Any, dtype: str, pieces: Any, facts: Any) -> Any:
        def dying() -> Any:
            for piece in pieces:
                yield piece
                if len(begun) > n_pieces:
                    for _ in range(n_pieces):  # which other threads sync and digest
                        safe.acquire()
                    os.kill(os.getpid(), signal.SIGKILL)

        begun.append(key)
        publish = write(pool, key, indices, shape, dtype, dying(), facts)
        return lambda: (publish(), safe.release())

    Pool.write = write_or_die  # type: ignore[method-assign, assignment]
    with pytest.MonkeyPatch.context() as patch:
        in_small_pieces(patch)
        sampled(folder, root)


def killed(folder: Path, root: Path, n_pieces: int) -> None:
    process = multiprocessing.get_context("spawn").Process(target=sampled_until_killed, args=(folder, root, n_pieces))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


def pieces(root: Path) -> dict[Path, tuple[int, int]]:
    """The pieces that are stored, each with its file's number and time."""
    notes = root.glob("pool/sample_frames-*/*/*/*.json")
    files = [note.with_suffix(".h5") for note in notes]
    return {file.relative_to(root): (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def content(root: Path) -> dict[Path, bytes]:
    """The bytes of the frames, and of the tables that say where they are."""
    files = [*root.glob("pool/sample_frames-*/*/*/*.h5"), *root.glob("artifacts/sample_frames-*/*/*.parquet")]
    return {file.relative_to(root): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of a run that nobody killed."""
    root = tmp_path_factory.mktemp("whole")
    frames = sampled(folder, root)
    (indices,) = frames.frame_indices().values()
    assert indices.tolist() == list(range(N_FRAMES))
    reader = frames.open()
    shown = [videos.read_index(frame) for frame in reader.read("talk.mp4", slice(0, 40))]
    assert shown == list(range(40))
    return root


def test_a_run_killed_inside_a_video_keeps_its_pieces_and_ends_with_the_same_bytes(
    folder: Path, whole: Path, tmp_path: Path
) -> None:
    killed(folder, tmp_path / "store", KEPT)
    kept = pieces(tmp_path / "store")
    assert len(kept) == KEPT and not list(tmp_path.glob("store/artifacts/sample_frames-*"))
    sampled(folder, tmp_path / "store")
    after = pieces(tmp_path / "store")
    assert {path: after[path] for path in kept} == kept  # not written again
    assert content(tmp_path / "store") == content(whole)


def test_frames_that_are_held_are_neither_decoded_again_nor_sent(folder: Path) -> None:
    path = folder / "videos" / "talk.mp4"
    held = {"decord": list(range(256)), "pyav": list(range(100))}
    request = DecodeRequest(path, FixedRateSampling(FPS), held=held)
    sent: list[Any] = []
    decode_worker.serve(request, 32, sent.append, lambda: None)
    started, *chunks = [message for message in sent if not isinstance(message, decode_worker.Finished)]
    assert started.probe.decoder == "decord"
    assert started.frame_indices.tolist() == list(range(256, N_FRAMES))
    assert sum(map(len, chunks)) == N_FRAMES - 256


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_damage_behind_frames_that_are_held_is_seen_however_few_frames_are_missing(
    folder: Path, tmp_path: Path, decoder: str
) -> None:
    path = tmp_path / "talk.mp4"
    shutil.copy(folder / "videos" / "talk.mp4", path)
    content = bytearray(path.read_bytes())
    mdat = content.index(b"mdat")
    place = mdat + int(0.95 * int.from_bytes(content[mdat - 4 : mdat], "big"))
    content[place : place + 200] = bytes(byte ^ 0x55 for byte in content[place : place + 200])
    path.write_bytes(content)
    request = DecodeRequest(
        path,
        FixedRateSampling(FPS / 100),  # the last of its three frames is number 200
        held={decoder: [0, 100]},
        decord_failure="" if decoder == "decord" else "decord: damaged",
    )
    sent: list[Any] = []
    decode_worker.serve(request, 32, sent.append, lambda: None)
    assert isinstance(sent[-1], decode_worker.Failed) and "damaged" in sent[-1].reason


def test_a_piece_that_is_lost_is_decoded_again_and_no_other(folder: Path, whole: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    shutil.copytree(whole, root)
    for artifact in root.glob("artifacts/sample_frames-*"):
        shutil.rmtree(artifact)
    before = pieces(root)
    lost = min(before)
    (root / lost).with_suffix(".json").unlink()
    sampled(folder, root)
    assert {path: of for path, of in pieces(root).items() if path != lost} == {
        path: of for path, of in before.items() if path != lost
    }
    assert content(root) == content(whole)


def test_pieces_by_another_decoder_are_not_mixed_with_these(folder: Path, whole: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    killed(folder, root, KEPT)
    for path in root.glob("pool/sample_frames-*/*/*/*.json"):
        note = read_note(path)
        write_note(path, {**note, "facts": {"probe": {**note["facts"]["probe"], "decoder": "pyav"}}})
    assert held_by(root) == {"pyav"}
    kept = pieces(root)
    sampled(folder, root)
    assert held_by(root) == {"decord"} and content(root) == content(whole)
    after = pieces(root)
    assert not any(after[path] == of for path, of in kept.items())


def held_by(root: Path) -> set[str]:
    notes = root.glob("pool/sample_frames-*/*/*/*.json")
    return {read_note(note)["facts"]["probe"]["decoder"] for note in notes}


def test_progress_inside_a_long_video_counts_its_frames(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SHOW_EVERY_SECONDS", -1.0)
    shown: list[tuple[str, str]] = []
    with progress.shown_by(lambda what, percent, words: shown.append((what, words))):
        sampled(folder, tmp_path)
    inside = [words for what, words in shown if what == "sample_frames, talk.mp4"]
    assert [words.split(" frames")[0] for words in inside] == [f"{n} of {N_FRAMES}" for n in (128, 256, N_FRAMES)]
