"""Files that are switched, written to or unreadable at the very moment they are decoded."""

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


def served(
    path: Path, meanwhile: Callable[[object], None], n_frames: int = 48, decord_failure: str = ""
) -> tuple[list[int], object]:
    """The indices that the frames of an identified file show, and the last message; `meanwhile` sees every sign of life."""
    request = DecodeRequest(path, UniformSampling(n_frames), digest=file_digest(path), stamp=stamp(path))
    request = replace(request, decord_failure=decord_failure)
    sent: list[object] = []

    def send(message: object) -> None:
        meanwhile(message)
        sent.append(message)

    serve(request, 64, send, lambda: meanwhile(None))
    frames = [frame for message in sent if isinstance(message, np.ndarray) for frame in message]
    return [videos.read_index(frame) for frame in frames], sent[-1]


@pytest.mark.parametrize("name", ["a.ts", "a.mp4"])
def test_a_link_that_is_switched_while_its_file_is_decoded_changes_no_frame(tmp_path: Path, name: str) -> None:
    right = videos.make_video(tmp_path / f"right{name}")
    wrong = videos.make_video(tmp_path / f"wrong{name}", ticks=range(48), gop=5, n_frames=20)
    link = tmp_path / name
    link.symlink_to(right)

    def switch(message: object) -> None:
        target = right if isinstance(message, Finished) else wrong
        link.unlink()
        link.symlink_to(target)

    assert served(link, switch) == (list(range(48)), Finished())


@pytest.mark.parametrize("name", ["a.ts", "a.mp4"])
def test_a_file_that_is_written_to_while_it_is_decoded_is_to_be_decoded_again(tmp_path: Path, name: str) -> None:
    path = videos.make_video(tmp_path / name)
    content = path.read_bytes()
    _, last = served(path, lambda message: None if isinstance(message, Finished) else void(path.write_bytes(content)))
    assert last == Trouble("it was written to while it was read")


def test_a_decoder_that_fails_once_does_not_leave_the_video_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Path] = []

    def fails_once(path: Path, *rest: object) -> object:
        calls.append(path)
        if len(calls) == 1:
            raise RuntimeError("cannot open")
        return read_with_decord(path, *rest)  # type: ignore[arg-type]

    readers = decode_worker.READERS
    changed = tuple((name, fails_once if name == "decord" else read) for name, read in readers["decord"])
    monkeypatch.setitem(readers, "decord", changed)
    started: list[object] = []
    shown, last = served(videos.make_video(tmp_path / "a.mp4"), started.append)
    probe = next(message.probe for message in started if isinstance(message, decode_worker.Started))
    assert (shown, last, probe.decoder, probe.note) == (list(range(48)), Finished(), "decord", "")


def test_a_decoder_that_fails_late_leaves_the_whole_video_to_the_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = videos.make_video(tmp_path / "a.mp4", n_frames=600)

    def fails_late(*rest: object) -> Iterator[np.ndarray]:
        yield from islice(read_with_decord(*rest), 590)  # type: ignore[arg-type]
        raise RuntimeError("cannot go on")

    monkeypatch.setitem(decode_worker.READERS, "decord", (("decord", fails_late), ("pyav", read_with_pyav)))
    shown, last = served(path, void, 600)
    assert (len(shown), last) == (576, Failed("decord: cannot go on", is_halfway=True))
    messages: list[object] = []
    shown, last = served(path, messages.append, 600, decord_failure="decord: cannot go on")
    probe = next(message.probe for message in messages if isinstance(message, decode_worker.Started))
    assert (shown, last) == (list(range(600)), Finished())
    assert (probe.decoder, probe.note) == ("pyav", "decord: cannot go on")


def test_bad_bytes_that_can_be_read_are_to_blame(tmp_path: Path) -> None:
    _, last = served(videos.make_garbage(tmp_path / "a.mp4"), lambda message: None)
    assert last == Failed("unreadable: Invalid data found when processing input")


def test_a_decoder_shows_signs_of_life_on_the_long_way_to_one_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, signs = videos.make_video(tmp_path / "a.mp4", n_frames=300, gop=300), []
    monkeypatch.setattr(decode_worker, "SEEK_PIXELS", 64 * 48 * 10)  # ten frames
    [frame] = read_with_decord(path, probe(path), np.array([299]), 64, lambda: signs.append(None))
    assert videos.read_index(frame) == 299 and len(signs) >= 10


def void(value: object) -> None:
    pass
