"""Videos decoded side by side do not wait for each other, and a failure ends all of them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cache.errors import ReadingError
from pipeline.video.decoding import DecodeRequest, DecodeResult
from pipeline.video.frames import UniformSampling
from pipeline.video.lanes import DecoderPool, KeyedRequest
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
    with DecoderPool(2, 1.0, 32) as decoders:
        finished = list(decoders.decode(five, write))
    assert finished == ["150.mp4", "100.mp4", "20.mp4", "100.mp4", "waits"]


def test_every_video_has_its_own_frames(folder: Path) -> None:
    names = [f"{n}.mp4" for n in (150, 100, 20)] * 3
    with DecoderPool(3, 60.0, 224) as decoders:
        finished = list(decoders.decode(requests(folder, *names), key_and_indices))
    assert sorted(finished) == sorted((name, list(range(int(name.split(".")[0])))) for name in names)


def test_an_error_of_the_writer_or_the_requests_ends_all_processes(folder: Path) -> None:
    before = workers_of(os.getpid())

    def write(key: str, result: DecodeResult) -> str:
        if key == "20.mp4":
            raise OSError(28, "No space left on device")
        return key

    with pytest.raises(OSError, match="No space left"):
        list(DecoderPool(2, 60.0, 32).decode(requests(folder, "waits", "100.mp4", "20.mp4", "100.mp4"), write))

    def broken() -> Iterator[KeyedRequest]:
        yield from requests(folder, "waits", "100.mp4")
        raise ReadingError("the list is gone")

    with pytest.raises(ReadingError, match="the list is gone"):
        list(DecoderPool(2, 60.0, 32).decode(broken(), write))
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
        list(DecoderPool(2, 60.0, 32).decode(slow(), write))
    assert all(n_chunks == 0 for _, _, n_chunks in written), written


def test_closing_the_iterator_ends_all_processes(folder: Path) -> None:
    before = workers_of(os.getpid())
    finished = DecoderPool(2, 60.0, 224).decode(requests(folder, "waits", "100.mp4", "20.mp4"), key_and_indices)
    assert next(finished)[0] == "100.mp4"
    finished.close()  # type: ignore[attr-defined]
    assert workers_of(os.getpid()) == before


def test_decoders_are_kept_from_one_call_to_the_next_until_they_are_renewed(folder: Path) -> None:
    before = workers_of(os.getpid())

    def decode_two() -> set[int]:
        names = [name for name, _ in decoders.decode(requests(folder, "100.mp4", "20.mp4"), key_and_indices)]
        assert sorted(names) == ["100.mp4", "20.mp4"]
        return workers_of(os.getpid()) - before

    with DecoderPool(2, 60.0, 224) as decoders:
        first = decode_two()
        assert first and decode_two() >= first
        decoders.renew()
        assert workers_of(os.getpid()) == before
        assert not decode_two() & first
    assert workers_of(os.getpid()) == before


def test_an_idle_decoder_that_was_killed_is_started_again_and_fails_no_video(folder: Path) -> None:
    before = workers_of(os.getpid())
    with DecoderPool(1, 60.0, 224) as decoders:
        for _ in range(2):
            finished = list(decoders.decode(requests(folder, "20.mp4", "100.mp4"), key_and_indices))
            assert finished == [("20.mp4", list(range(20))), ("100.mp4", list(range(100)))]
            (idle,) = workers_of(os.getpid()) - before
            os.kill(idle, signal.SIGKILL)
            os.waitid(os.P_PID, idle, os.WEXITED | os.WNOWAIT)  # until all its threads have ended


def test_the_next_request_is_ready_before_a_decoder_is_free(folder: Path) -> None:
    prepared: list[str] = []
    written: list[tuple[str, list[str]]] = []

    def preparing() -> Iterator[KeyedRequest]:
        for each in requests(folder, "150.mp4", "100.mp4", "20.mp4"):
            prepared.append(each.key)
            yield each

    def write(key: str, result: DecodeResult) -> str:
        written.append((key, [*prepared]))
        return key_and_indices(key, result)[0]

    with DecoderPool(1, 60.0, 224) as decoders:
        list(decoders.decode(preparing(), write))
    assert written[0][0] == "150.mp4" and "100.mp4" in written[0][1]
