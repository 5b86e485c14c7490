"""Damaged and truncated files are detected where a decoder can do so; intact files are never reported as damaged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from cache.errors import DecodeError
from pipeline.video.decoding import DecodeRequest, DecoderProcess
from pipeline.video.frames import UniformSampling
from pipeline.video.probing import probe
from tests import videos

QUIET = {"codec_options": {"x265-params": "log-level=none"}}
ONE_THREAD = {"codec_options": {"svtav1-params": "lp=1"}}
KINDS: dict[str, dict[str, Any]] = {
    "h264.mp4": {},
    "hevc.mp4": {"codec": "libx265", **QUIET},
    "hevc_closed.mkv": {"codec": "libx265", "codec_options": {"x265-params": "log-level=none:open-gop=0"}},
    "hevc.ts": {"codec": "libx265", **QUIET},
    "mjpeg.avi": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
    "mjpeg.mov": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "vp9.mp4": {"codec": "libvpx-vp9"},
    "wmv1.wmv": {"codec": "wmv1"},
    "wmv2.wmv": {"codec": "wmv2"},
    "msmpeg4.avi": {"codec": "msmpeg4"},
    "av1.mp4": {"codec": "libsvtav1", **ONE_THREAD},
    "av1.webm": {"codec": "libsvtav1", **ONE_THREAD},
    "mpeg2.ts": {"codec": "mpeg2video", "fps": 25},
    "mpeg1.mpg": {"codec": "mpeg1video", "fps": 25},
    "mpeg4.avi": {"codec": "mpeg4"},
    "flv1.flv": {"codec": "flv"},
    "ffv1.mkv": {"codec": "ffv1", "codec_options": {"level": "3", "slicecrc": "1"}},
    "picture.gif": {"codec": "gif", "pixel_format": "rgb8"},
    "png.mov": {"codec": "png", "pixel_format": "rgb24"},
    "vp8.ogv": {"codec": "libvpx"},
}
WITHOUT_CHECKS: dict[str, dict[str, Any]] = {  # damage that their decoders hardly detect
    "vp8.webm": {"codec": "libvpx"},
    "vp8_hidden.webm": {"codec": "libvpx", "codec_options": {"auto-alt-ref": "1", "lag-in-frames": "16"}},
    "huffyuv.avi": {"codec": "huffyuv", "pixel_format": "yuv422p"},
    "raw.avi": {"codec": "rawvideo"},
}
LIVE = {"live.webm": {"codec": "libvpx"}, "live.mkv": {}}
INTACT = {
    **KINDS,
    **WITHOUT_CHECKS,
    **{name: {**how, "container_options": {"live": "1"}} for name, how in LIVE.items()},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module")
def decoder() -> Iterator[DecoderProcess]:
    with DecoderProcess(timeout_seconds=60, size=32) as decoder:
        yield decoder


def intact_video(folder: Path, name: str) -> Path:
    path = folder / name
    return path if path.exists() else videos.make_video(path, **{"size": (160, 120), **INTACT[name]})


def damage_pictures(path: Path, damaged: Path, fill: str) -> Path:
    """Write a copy with other bytes inside each picture but the first; the container is unchanged."""
    content, rng = bytearray(path.read_bytes()), np.random.default_rng(0)
    with av.open(str(path)) as container:
        pictures = [bytes(packet) for packet in container.demux(video=0) if packet.size > 40]
    for picture in pictures[1:]:
        if (place := content.find(picture[:100])) >= 0:  # else it is split over the packets of a transport stream
            length = min(60, len(picture) // 3)
            begin = place + min(len(picture) // 4, 90)
            content[begin : begin + length] = bytes(length) if fill == "zeros" else rng.bytes(length)
    damaged.write_bytes(content)
    return damaged


def reason(decoder: DecoderProcess, path: Path) -> str:
    for result in decoder.decode([DecodeRequest(path, UniformSampling(4))]):
        try:
            list(result.frames)
        except DecodeError as error:
            return str(error)
        return result.reason
    raise AssertionError


@pytest.mark.parametrize("fill", ["zeros", "random bytes"])
@pytest.mark.parametrize("name", KINDS)
def test_damaged_pictures_make_the_video_corrupt(
    folder: Path, tmp_path: Path, decoder: DecoderProcess, name: str, fill: str
) -> None:
    assert reason(decoder, damage_pictures(intact_video(folder, name), tmp_path / name, fill)).startswith("corrupt: ")


@pytest.mark.parametrize("name", INTACT)
def test_an_intact_file_is_not_reported_as_damaged(folder: Path, decoder: DecoderProcess, name: str) -> None:
    assert reason(decoder, intact_video(folder, name)) == ""


@pytest.mark.parametrize("keep", [0.4, 0.7, 0.95])
@pytest.mark.parametrize("name", ["vp8.ogv", "picture.gif", "mjpeg.avi", "mpeg4.avi", "wmv2.wmv", "flv1.flv"])
def test_a_truncated_file_is_not_read_as_a_shorter_video(folder: Path, tmp_path: Path, name: str, keep: float) -> None:
    content = intact_video(folder, name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(keep * len(content))])
    with pytest.raises(DecodeError, match=r"^(truncated|corrupt): "):
        probe(tmp_path / name)


def test_a_gif_is_complete_only_with_its_trailer(folder: Path, tmp_path: Path) -> None:
    content = intact_video(folder, "picture.gif").read_bytes()
    (tmp_path / "longer.gif").write_bytes(content + bytes(7))
    assert probe(tmp_path / "longer.gif").n_frames == 48
    (tmp_path / "cut.gif").write_bytes(content[:-1])
    with pytest.raises(DecodeError, match=r"^truncated: the file ends before a GIF's trailer"):
        probe(tmp_path / "cut.gif")


def test_a_gap_in_an_avi_file_is_detected_by_its_index(folder: Path, tmp_path: Path) -> None:
    content = bytearray(intact_video(folder, "mpeg4.avi").read_bytes())
    chunk = content.index(b"00dc", len(content) // 2)
    content[chunk : chunk + 8] = bytes(8)
    (tmp_path / "hole.avi").write_bytes(content)
    with pytest.raises(DecodeError, match=r"^truncated: the index names 48 frames, file holds \d+"):
        probe(tmp_path / "hole.avi")


def test_damage_of_one_file_is_not_reported_for_the_next(folder: Path, tmp_path: Path, decoder: DecoderProcess) -> None:
    for name in ("mpeg2.ts", "hevc.mp4", "flv1.flv"):
        damaged = damage_pictures(intact_video(folder, name), tmp_path / name, "zeros")
        assert [bool(reason(decoder, path)) for path in (damaged, intact_video(folder, name))] == [True, False]
