"""Videos decoded side by side do not wait for each other, and a failure ends all of them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cache.errors import ReadingError
from pipeline.video.decoding import DecodeRequest, DecodeResult
from pipeline.video.frames import UniformSampling
from pipeline.video.lanes import KeyedRequest, decode_side_by_side
from tests import videos
from tests.decoders import workers_of


def requests(folder: Path, *names: str) -> Iterator[KeyedRequest]:
    for name in names:
        yield KeyedRequest(name, DecodeRequest(folder / name, UniformSampling(200)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "waits")  # opening it waits for a writer that never comes
    for n_frames in (150, 100, 20):
        videos.make_video(tmp_path / f"{n_frames}.mp4", n_frames=n_frames)
    return tmp_path


def key_and_indices(key: str, result: DecodeResult) -> tuple[str, list[int]]:
    frames = np.concatenate([chunk.copy() for chunk in result.frames])
    return key, [videos.read_index(frame) for frame in frames]


def test_a_stalled_video_does_not_delay_the_others(folder: Path) -> None:
    def write(key: str, result: DecodeResult) -> str:
        if key == "waits":
            assert isinstance(result.error, ReadingError) and "neither computed nor answered" in str(result.error)
        return key

    five = requests(folder, "waits", "150.mp4", "100.mp4", "20.mp4", "100.mp4")
    finished = list(decode_side_by_side(2, 1.0, 32, five, write))
    assert finished == ["150.mp4", "100.mp4", "20.mp4", "100.mp4", "waits"]


def test_every_video_has_its_own_frames(folder: Path) -> None:
    names = [f"{n}.mp4" for n in (150, 100, 20)] * 3
    finished = list(decode_side_by_side(3, 60.0, 224, requests(folder, *names), key_and_indices))
    assert sorted(finished) == sorted((name, list(range(int(name.split(".")[0])))) for name in names)


def test_an_error_of_the_writer_or_the_requests_ends_all_processes(folder: Path) -> None:
    before = workers_of(os.getpid())

    def write(key: str, result: DecodeResult) -> str:
        if key == "20.mp4":
            raise OSError(28, "No space left on device")
        return key

    with pytest.raises(OSError, match="No space left"):
        list(decode_side_by_side(2, 60.0, 32, requests(folder, "waits", "100.mp4", "20.mp4", "100.mp4"), write))

    def broken() -> Iterator[KeyedRequest]:
        yield from requests(folder, "waits", "100.mp4")
        raise ReadingError("the list is gone")

    with pytest.raises(ReadingError, match="the list is gone"):
        list(decode_side_by_side(2, 60.0, 32, broken(), write))
    assert workers_of(os.getpid()) == before


def test_a_request_after_a_failure_is_not_decoded(folder: Path) -> None:
    failed, written = threading.Event(), []

    def write(key: str, result: DecodeResult) -> str:
        if key == "20.mp4":
            failed.set()
            raise OSError(28, "No space left on device")
        written.append((key, result.error, len(list(result.frames))))
        return key

    def slow() -> Iterator[KeyedRequest]:
        yield from requests(folder, "20.mp4")
        failed.wait(60)
        time.sleep(0.3)  # until the error is in the queue
        yield from requests(folder, "150.mp4")

    with pytest.raises(OSError, match="No space left"):
        list(decode_side_by_side(2, 60.0, 32, slow(), write))
    assert all(n_chunks == 0 for _, _, n_chunks in written), written


def test_closing_the_iterator_ends_all_processes(folder: Path) -> None:
    before = workers_of(os.getpid())
    finished = decode_side_by_side(2, 60.0, 224, requests(folder, "waits", "100.mp4", "20.mp4"), key_and_indices)
    assert next(finished)[0] == "100.mp4"
    finished.close()  # type: ignore[attr-defined]
    assert workers_of(os.getpid()) == before
