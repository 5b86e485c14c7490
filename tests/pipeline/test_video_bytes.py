"""Files that are replaced, written to or unreadable while they are decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import av  # noqa: F401 - before decord, see test_decoding.py
import numpy as np
import pytest

from cache.digests import stamp
from cache.fingerprint import file_digest
from pipeline.video import decode_worker
from pipeline.video.decode_messages import Failed, Finished, Trouble
from pipeline.video.decode_worker import read_with_decord, read_with_pyav, serve
from pipeline.video.decoding import DecodeRequest
from pipeline.video.frames import UniformSampling
from pipeline.video.probing import probe
from tests import videos


def decode(
    path: Path, on_message: Callable[[object], None], n_frames: int = 48, decord_failure: str = ""
) -> tuple[list[int], object]:
    """Return the indices shown by the frames of a file and the last message; `on_message` gets None per heartbeat."""
    request = DecodeRequest(path, UniformSampling(n_frames), digest=file_digest(path), stamp=stamp(path))
    request = replace(request, decord_failure=decord_failure)
    sent: list[object] = []

    def send(message: object) -> None:
        on_message(message)
        sent.append(message)

    serve(request, 64, send, lambda: on_message(None))
    frames = [frame for message in sent if isinstance(message, list) for frame in message]
    return [videos.read_index(frame) for frame in frames], sent[-1]


@pytest.mark.parametrize("name", ["a.ts", "a.mp4"])
def test_retargeting_a_link_during_decoding_changes_no_frame(tmp_path: Path, name: str) -> None:
    right = videos.make_video(tmp_path / f"right{name}")
    wrong = videos.make_video(tmp_path / f"wrong{name}", ticks=range(48), gop=5, n_frames=20)
    link = tmp_path / name
    link.symlink_to(right)

    def switch(message: object) -> None:
        target = right if isinstance(message, Finished) else wrong
        link.unlink()
        link.symlink_to(target)

    assert decode(link, switch) == (list(range(48)), Finished())


@pytest.mark.parametrize("name", ["a.ts", "a.mp4"])
def test_a_file_written_to_during_decoding_is_reported_for_another_try(tmp_path: Path, name: str) -> None:
    path = videos.make_video(tmp_path / name)
    content = path.read_bytes()
    _, last = decode(path, lambda message: None if isinstance(message, Finished) else ignore(path.write_bytes(content)))
    assert last == Trouble("it was written to while it was read")


def test_a_decoder_that_fails_once_is_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []

    def fails_once(path: Path, *rest: object) -> object:
        calls.append(path)
        if len(calls) == 1:
            raise RuntimeError("cannot open")
        return read_with_decord(path, *rest)  # type: ignore[arg-type]

    readers = decode_worker.READERS
    changed = tuple((name, fails_once if name == "decord" else read) for name, read in readers["decord"])
    monkeypatch.setitem(readers, "decord", changed)
    messages: list[object] = []
    shown, last = decode(videos.make_video(tmp_path / "a.mp4"), messages.append)
    probe = next(message.probe for message in messages if isinstance(message, decode_worker.Started))
    assert (shown, last, probe.decoder, probe.note) == (list(range(48)), Finished(), "decord", "")


def test_the_second_decoder_decodes_the_whole_video_after_a_late_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = videos.make_video(tmp_path / "a.mp4", n_frames=600)

    def fails_late(*rest: object) -> Iterator[np.ndarray]:
        yield from islice(read_with_decord(*rest), 590)  # type: ignore[arg-type]
        raise RuntimeError("cannot go on")

    monkeypatch.setitem(decode_worker.READERS, "decord", (("decord", fails_late), ("pyav", read_with_pyav)))
    shown, last = decode(path, ignore, 600)
    assert (len(shown), last) == (576, Failed("decord: cannot go on", is_halfway=True))
    messages: list[object] = []
    shown, last = decode(path, messages.append, 600, decord_failure="decord: cannot go on")
    probe = next(message.probe for message in messages if isinstance(message, decode_worker.Started))
    assert (shown, last) == (list(range(600)), Finished())
    assert (probe.decoder, probe.note) == ("pyav", "decord: cannot go on")


def test_garbage_bytes_are_reported_as_unreadable(tmp_path: Path) -> None:
    _, last = decode(videos.make_garbage(tmp_path / "a.mp4"), ignore)
    assert last == Failed("unreadable: Invalid data found when processing input")


def test_decoding_reports_heartbeats_during_a_long_seek(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, heartbeats = videos.make_video(tmp_path / "a.mp4", n_frames=300, gop=300), []
    monkeypatch.setattr(decode_worker, "SEEK_PIXELS", 64 * 48 * 10)  # ten frames
    [frame] = read_with_decord(path, probe(path), np.array([299]), 64, lambda: heartbeats.append(None))
    assert videos.read_index(frame) == 299 and len(heartbeats) >= 10


def ignore(message: object) -> None:
    pass
