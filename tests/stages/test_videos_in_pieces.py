"""Videos stored in several pieces: a killed run keeps the pieces it has stored, and a rerun does not repeat them."""

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
N_KEPT_PIECES = 2  # when the run is killed


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


def sample_every_frame(folder: Path, root: Path) -> Any:
    """Return the artifact with every frame of the video."""
    store = Store(root)
    sources = Sources(store.digests, {"annotations": [str(folder / "q.jsonl")], "videos": [str(folder / "videos")]})
    run = RunContext(store, device="cpu", decode_workers=1, sources=sources)
    listing: Any = STAGES["list_questions"]
    sampling: Any = STAGES["sample_frames"]
    questions: Any = build(listing, listing.config(), run, [sources.annotations("plain", "")])
    config = sampling.config(sampling="fixed_rate", frames_per_second=FPS, size=32)
    return build(sampling, config, run, [sources.videos("plain", questions)])


def sample_until_killed(folder: Path, root: Path, n_pieces: int) -> None:
    """Sample until `n_pieces` are stored, then kill this process while it writes the next, without any cleanup."""
    write = Pool.write
    started_keys: list[str] = []
    published = threading.Semaphore(0)

    def write_or_kill(pool: Pool, key: str, indices: Any, shape: Any, dtype: str, pieces: Any, facts: Any) -> Any:
        def pieces_then_kill() -> Any:
            for piece in pieces:
                yield piece
                if len(started_keys) > n_pieces:
                    for _ in range(n_pieces):  # other threads sync and digest them
                        published.acquire()
                    os.kill(os.getpid(), signal.SIGKILL)

        started_keys.append(key)
        publish = write(pool, key, indices, shape, dtype, pieces_then_kill(), facts)
        return lambda: (publish(), published.release())

    Pool.write = write_or_kill  # type: ignore[method-assign, assignment]
    with pytest.MonkeyPatch.context() as patch:
        in_small_pieces(patch)
        sample_every_frame(folder, root)


def run_until_killed(folder: Path, root: Path, n_pieces: int) -> None:
    process = multiprocessing.get_context("spawn").Process(target=sample_until_killed, args=(folder, root, n_pieces))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


def pieces(root: Path) -> dict[Path, tuple[int, int]]:
    """The stored pieces, each with the inode and modification time of its file."""
    notes = root.glob("pool/sample_frames-*/*/*/*.json")
    files = [note.with_suffix(".h5") for note in notes]
    return {file.relative_to(root): (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def content(root: Path) -> dict[Path, bytes]:
    """The bytes of the frames, and of the tables that locate them."""
    files = [*root.glob("pool/sample_frames-*/*/*/*.h5"), *root.glob("artifacts/sample_frames-*/*/*.parquet")]
    return {file.relative_to(root): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def uninterrupted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a run that was not killed."""
    root = tmp_path_factory.mktemp("whole")
    frames = sample_every_frame(folder, root)
    (indices,) = frames.frame_indices().values()
    assert indices.tolist() == list(range(N_FRAMES))
    reader = frames.open()
    shown = [videos.read_index(frame) for frame in reader.read("talk.mp4", slice(0, 40))]
    assert shown == list(range(40))
    return root


def test_a_run_killed_inside_a_video_keeps_its_pieces_and_resumes_to_the_same_bytes(
    folder: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    run_until_killed(folder, tmp_path / "store", N_KEPT_PIECES)
    kept = pieces(tmp_path / "store")
    assert len(kept) == N_KEPT_PIECES and not list(tmp_path.glob("store/artifacts/sample_frames-*"))
    sample_every_frame(folder, tmp_path / "store")
    after = pieces(tmp_path / "store")
    assert {path: after[path] for path in kept} == kept  # not written again
    assert content(tmp_path / "store") == content(uninterrupted)


def test_stored_frames_are_neither_decoded_nor_sent_again(folder: Path) -> None:
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
def test_damage_after_stored_frames_is_reported(folder: Path, tmp_path: Path, decoder: str) -> None:
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


def test_only_a_lost_piece_is_decoded_again(folder: Path, uninterrupted: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    shutil.copytree(uninterrupted, root)
    for artifact in root.glob("artifacts/sample_frames-*"):
        shutil.rmtree(artifact)
    before = pieces(root)
    lost = min(before)
    (root / lost).with_suffix(".json").unlink()
    sample_every_frame(folder, root)
    assert {path: stat for path, stat in pieces(root).items() if path != lost} == {
        path: stat for path, stat in before.items() if path != lost
    }
    assert content(root) == content(uninterrupted)


def test_pieces_of_another_decoder_are_replaced(folder: Path, uninterrupted: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    run_until_killed(folder, root, N_KEPT_PIECES)
    for path in root.glob("pool/sample_frames-*/*/*/*.json"):
        note = read_note(path)
        write_note(path, {**note, "facts": {"probe": {**note["facts"]["probe"], "decoder": "pyav"}}})
    assert decoders_of_pieces(root) == {"pyav"}
    kept = pieces(root)
    sample_every_frame(folder, root)
    assert decoders_of_pieces(root) == {"decord"} and content(root) == content(uninterrupted)
    after = pieces(root)
    assert not any(after[path] == stat for path, stat in kept.items())


def decoders_of_pieces(root: Path) -> set[str]:
    notes = root.glob("pool/sample_frames-*/*/*/*.json")
    return {read_note(note)["facts"]["probe"]["decoder"] for note in notes}


def test_progress_inside_a_long_video_counts_its_frames(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SHOW_EVERY_SECONDS", -1.0)
    shown: list[tuple[str, str]] = []
    with progress.shown_by(lambda what, percent, words: shown.append((what, words))):
        sample_every_frame(folder, tmp_path)
    inside = [words for what, words in shown if what == "sample_frames, talk.mp4"]
    assert [words.split(" frames")[0] for words in inside] == [f"{n} of {N_FRAMES}" for n in (128, 256, N_FRAMES)]
