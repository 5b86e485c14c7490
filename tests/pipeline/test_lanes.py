"""Videos that are decoded side by side: none waits for another, and whatever fails ends all of them."""

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


def shown(key: str, result: DecodeResult) -> tuple[str, list[int]]:
    frames = np.concatenate([chunk.copy() for chunk in result.frames])
    return key, [videos.read_index(frame) for frame in frames]


def test_a_video_that_is_slow_holds_no_other(folder: Path) -> None:
    def write(key: str, result: DecodeResult) -> str:
        if key == "waits":
            assert isinstance(result.error, ReadingError) and "neither computed nor answered" in str(result.error)
        return key

    asked = requests(folder, "waits", "150.mp4", "100.mp4", "20.mp4", "100.mp4")
    finished = list(decode_side_by_side(2, 1.0, 32, asked, write))
    assert finished == ["150.mp4", "100.mp4", "20.mp4", "100.mp4", "waits"]


def test_every_video_comes_with_its_own_frames_whoever_decodes_it(folder: Path) -> None:
    names = [f"{n}.mp4" for n in (150, 100, 20)] * 3
    finished = list(decode_side_by_side(3, 60.0, 224, requests(folder, *names), shown))
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


def test_a_request_that_comes_when_all_is_over_is_not_decoded(folder: Path) -> None:
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
        time.sleep(0.3)  # the error lies in the queue now, behind what is asked for
        yield from requests(folder, "150.mp4")

    with pytest.raises(OSError, match="No space left"):
        list(decode_side_by_side(2, 60.0, 32, slow(), write))
    assert all(n_chunks == 0 for _, _, n_chunks in written), written


def test_a_caller_that_goes_away_leaves_no_process(folder: Path) -> None:
    before = workers_of(os.getpid())
    finished = decode_side_by_side(2, 60.0, 224, requests(folder, "waits", "100.mp4", "20.mp4"), shown)
    assert next(finished)[0] == "100.mp4"
    finished.close()  # type: ignore[attr-defined]
    assert workers_of(os.getpid()) == before
