"""Frames written to pictures and clips with the aspect ratio of the video."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline.video.keyframe_files import KeyframeFile, KeyframeFiles, write_files
from tests.videos import make_image_folder, make_truncated, make_video, orient, pattern, read_index, rotate

SIZE = (64, 48)


def request(video: Path, *files: KeyframeFile, height: int | None = None) -> KeyframeFiles:
    return KeyframeFiles(video, None, (), files, height)


@contextmanager
def open_files_limit(limit: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def pictures(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_a_clip_contains_exactly_its_frames_in_order(tmp_path: Path) -> None:
    decord = pytest.importorskip("decord")
    video, clip = make_video(tmp_path / "a.mp4"), tmp_path / "clip.mp4"
    assert write_files(request(video, KeyframeFile(clip, (3, 17, 18, 40)))) == ""
    assert [read_index(picture) for picture in pictures(clip)] == [3, 17, 18, 40]
    reader = decord.VideoReader(str(clip))
    evenly = np.linspace(0, len(reader) - 1, 4).astype(int)
    assert [read_index(frame) for frame in reader.get_batch(evenly).asnumpy()] == [3, 17, 18, 40]


def test_a_repeated_frame_is_repeated_in_the_clip(tmp_path: Path) -> None:
    video, clip = make_video(tmp_path / "a.mp4"), tmp_path / "clip.mp4"
    assert write_files(request(video, KeyframeFile(clip, (5, 5, 9)))) == ""
    assert [read_index(picture) for picture in pictures(clip)] == [5, 5, 9]


def test_pictures_match_the_frames_of_the_video(tmp_path: Path) -> None:
    video = make_video(tmp_path / "a.mp4", codec_options={"crf": "1"})
    files = [KeyframeFile(tmp_path / "7.jpg", (7,)), KeyframeFile(tmp_path / "clip.mp4", (7,))]
    assert write_files(request(video, *files)) == ""
    for file in files:
        (picture,) = pictures(file.path)
        assert np.abs(picture.astype(int) - pattern(7, *SIZE)).mean() < 4


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_rotated_video_gives_upright_pictures(tmp_path: Path, degrees: int) -> None:
    video = rotate(make_video(tmp_path / "a.mp4"), degrees)
    assert write_files(request(video, KeyframeFile(tmp_path / "9.jpg", (9,)))) == ""
    (picture,) = pictures(tmp_path / "9.jpg")
    assert picture.shape == ((64, 48, 3) if degrees != 180 else (48, 64, 3))
    assert read_index(np.rot90(picture, degrees // 90)) == 9


def test_a_mirrored_video_gives_unmirrored_pictures(tmp_path: Path) -> None:
    video = orient(make_video(tmp_path / "a.mp4"), -1, 0, 0, 1)
    assert write_files(request(video, KeyframeFile(tmp_path / "9.jpg", (9,)))) == ""
    (picture,) = pictures(tmp_path / "9.jpg")
    assert read_index(picture[:, ::-1]) == 9


def test_non_square_pixels_become_square(tmp_path: Path) -> None:
    video = tmp_path / "a.mkv"
    with av.open(str(video), "w") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(12))
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        for index in range(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pattern(index, *SIZE), format="rgb24")))
        container.mux(stream.encode(None))
    assert write_files(request(video, KeyframeFile(tmp_path / "3.jpg", (3,)))) == ""
    (picture,) = pictures(tmp_path / "3.jpg")
    assert picture.shape == (48, 128, 3)


def test_a_height_keeps_the_aspect_ratio_with_even_sides(tmp_path: Path) -> None:
    video = make_video(tmp_path / "a.mp4", size=(128, 48))
    assert write_files(request(video, KeyframeFile(tmp_path / "0.mp4", (0, 1)), height=31)) == ""
    assert pictures(tmp_path / "0.mp4")[0].shape == (32, 82, 3)


def test_frames_of_an_image_folder_are_written(tmp_path: Path) -> None:
    folder, clip = make_image_folder(tmp_path / "a"), tmp_path / "clip.mp4"
    assert write_files(request(folder, KeyframeFile(clip, (2, 11)))) == ""
    assert [read_index(picture) for picture in pictures(clip)] == [2, 11]


def test_a_video_that_ends_before_a_frame_gives_a_reason_and_no_file(tmp_path: Path) -> None:
    video = make_video(tmp_path / "a.mp4", n_frames=12)
    files = [KeyframeFile(tmp_path / "clip.mp4", (3, 30)), KeyframeFile(tmp_path / "3.jpg", (3,))]
    assert "frame 30 was wanted" in write_files(request(video, *files))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4"]


def test_a_truncated_video_gives_a_reason_and_no_file(tmp_path: Path) -> None:
    video = make_truncated(tmp_path / "a.mp4")
    assert write_files(request(video, KeyframeFile(tmp_path / "clip.mp4", (3, 40)))) != ""
    assert not list(tmp_path.glob("clip*"))


def test_many_pictures_need_few_open_files(tmp_path: Path) -> None:
    video = make_video(tmp_path / "a.mp4")
    files = [KeyframeFile(tmp_path / f"{copy}-{n}.jpg", (n,)) for copy in range(8) for n in range(48)]
    with open_files_limit(128):
        assert write_files(request(video, *files)) == ""
    assert all(read_index(pictures(file.path)[0]) == file.frames[0] for file in files[:48])


def test_too_many_open_files_raise_an_error_and_leave_no_file(tmp_path: Path) -> None:
    video = make_video(tmp_path / "a.mp4", n_frames=96)  # more than an encoder looks ahead before it writes
    files = [KeyframeFile(tmp_path / f"{n}.mp4", tuple(range(96))) for n in range(48)]
    with open_files_limit(40), pytest.raises(OSError, match="Too many open files"):
        write_files(request(video, *files))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4"]
