"""Files with misleading names or headers, cut or damaged files: they give the right frames or a reason."""

import errno
import io
import os
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from cache.errors import DecodeError, HalfwayError, ReadingError
from pipeline.video.decoding import DecodeRequest, DecoderProcess
from pipeline.video.frames import UniformSampling, VideoProbe
from pipeline.video.pictures import pictures
from pipeline.video.probing import probe
from pipeline.video.video_bytes import VideoBytes
from tests import videos

DASH = {"movflags": "dash+global_sidx+frag_keyframe+empty_moov"}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
PLAYLISTS = {
    "ffconcat version 1.0\nfile other.mp4\n": "ffconcat",
    "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nother.ts\n#EXT-X-ENDLIST\n": "m3u8",
    '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" profiles="x"/>\n': "DASH",
}


@pytest.fixture(scope="module")
def decoder() -> Iterator[DecoderProcess]:
    with DecoderProcess(timeout_seconds=60) as decoder:
        yield decoder


def read(
    decoder: DecoderProcess, path: Path, k: int = 5000, decord_failure: str = ""
) -> tuple[VideoProbe | None, np.ndarray, str]:
    """Return the probe, the frames and the reason if there are none; retried like in the stage if decord fails halfway."""
    request = DecodeRequest(path, UniformSampling(k), image_folder_fps=3.0, decord_failure=decord_failure)
    (result,) = [
        (result.probe, list(chunks_and_error(result.frames)), result.reason) for result in decoder.decode([request])
    ]
    probed, chunks, reason = result
    if chunks and isinstance(chunks[-1], HalfwayError):
        return read(decoder, path, k, str(chunks[-1]))
    if chunks and isinstance(chunks[-1], str):
        return probed, np.empty(0), chunks[-1]
    return probed, np.concatenate(chunks) if chunks else np.empty(0), reason


def chunks_and_error(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray | str | HalfwayError]:
    try:
        yield from (chunk.copy() for chunk in frames)
    except HalfwayError as error:
        yield error
    except DecodeError as error:
        yield str(error)


def indices_shown(frames: np.ndarray) -> list[int]:
    return [videos.read_index(frame) for frame in frames]


@pytest.mark.parametrize("text", PLAYLISTS)
@pytest.mark.parametrize("name", ["video.mp4", "video.m3u8", "video.mkv"])
def test_a_playlist_is_refused_under_any_name(tmp_path: Path, decoder: DecoderProcess, text: str, name: str) -> None:
    videos.make_video(tmp_path / "other.mp4")
    videos.make_video(tmp_path / "other.ts")
    (tmp_path / name).write_text(text)
    assert read(decoder, tmp_path / name)[2].startswith(
        f"unreadable: a playlist ({PLAYLISTS[text]}) that names other files"
    )


def test_a_playlist_among_images_is_refused(tmp_path: Path, decoder: DecoderProcess) -> None:
    folder = videos.make_image_folder(tmp_path / "frames")
    (folder / "5.jpg").write_text("ffconcat version 1.0\nfile 4.jpg\n")
    assert read(decoder, folder)[2].startswith("corrupt: images: 5.jpg: unreadable: a playlist (ffconcat)")


def test_an_mp4_reference_to_another_file_is_not_followed(tmp_path: Path, decoder: DecoderProcess) -> None:
    path = videos.make_video(tmp_path / "refers.mp4")
    videos.make_video(tmp_path / "other.mp4", n_frames=20)
    url = b"url \0\0\0\0other.mp4\0"  # flags 0: the pictures are in another file
    content = path.read_bytes().replace(struct.pack(">I", 12) + b"url \0\0\0\1", struct.pack(">I", 4 + len(url)) + url)
    grown = len(url) - 8
    for kind in (b"dref", b"dinf", b"minf", b"mdia", b"trak", b"moov"):
        place = content.index(kind) - 4
        (length,) = struct.unpack_from(">I", content, place)
        content = content[:place] + struct.pack(">I", length + grown) + content[place + 4 :]
    path.write_bytes(content)
    assert indices_shown(read(decoder, path)[1]) == list(range(48))  # its own frames


def test_an_absurd_frame_count_is_refused(tmp_path: Path) -> None:
    path = videos.make_video(tmp_path / "video.mp4")
    content = bytearray(path.read_bytes())
    struct.pack_into(">II", content, content.index(b"stsz") + 8, 1, 30_000_000)  # of one byte each
    path.write_bytes(content)
    with pytest.raises(DecodeError, match=r"^unreadable: more than 4,000,000 frames"):
        probe(path)


def test_a_file_replaced_while_it_is_read_raises_a_reading_error(tmp_path: Path) -> None:
    path = videos.make_video(tmp_path / "video.mp4", n_frames=20)
    source = VideoBytes(path, None, (), lambda: None)
    # A replaced file cannot be distinguished from one that was written to, so nothing of it is kept.
    with pytest.raises(ReadingError, match="while it was read"), source.checked_path(check_first=False) as same:
        videos.make_video(tmp_path / "new.mp4", n_frames=10).replace(path)
        assert (probe(same).n_frames, probe(path).n_frames) == (20, 10)


CUTS = {
    "vp9.webm": {"codec": "libvpx-vp9", "gop": 20},
    "vp8.webm": {"codec": "libvpx", "gop": 20},
    "h264.mkv": {"gop": 20},
    "h264.mp4": {"gop": 20},
    "h265.mkv": {"codec": "libx265", "gop": 20, "codec_options": {"x265-params": "log-level=none:open-gop=0"}},
    "mpeg4.mkv": {"codec": "mpeg4", "gop": 20, "codec_options": {"sc_threshold": "1000000000"}},
}


@pytest.mark.parametrize("name", CUTS)
def test_a_file_that_starts_without_a_keyframe_gives_the_decodable_frames(
    tmp_path: Path, decoder: DecoderProcess, name: str
) -> None:
    source = videos.make_video(tmp_path / f"whole_{name}", n_frames=80, **CUTS[name])
    path = videos.copy_packets(source, tmp_path / name, first=27)
    probed, frames, reason = read(decoder, path)
    assert reason == "" and probed is not None and probed.decoder == "pyav"
    assert indices_shown(frames) == list(range(40, 80))
    assert indices_shown(read(decoder, path, 8)[1]) == [42, 47, 52, 57, 62, 67, 72, 77]


OPEN_GROUPS = {
    "h265.mkv": {"codec": "libx265", "codec_options": {"x265-params": "log-level=none:open-gop=1:bframes=4:b-adapt=0"}},
    "h264.mkv": {"codec_options": {"x264-params": "open-gop=1:bframes=3:b-adapt=0"}},
}


@pytest.mark.parametrize("name", OPEN_GROUPS)
def test_a_cut_at_an_open_group_of_pictures_excludes_undecodable_frames(
    tmp_path: Path, decoder: DecoderProcess, name: str
) -> None:
    source = videos.make_video(tmp_path / f"whole_{name}", n_frames=80, gop=20, **OPEN_GROUPS[name])
    with av.open(str(source)) as container:
        keyframes = [place for place, packet in enumerate(container.demux(video=0)) if packet.is_keyframe]
    path = videos.copy_packets(source, tmp_path / name, first=keyframes[1])
    probed, frames, reason = read(decoder, path)
    assert reason == "" and probed is not None and probed.n_frames == len(frames)
    assert indices_shown(frames) == list(range(80 - len(frames), 80)) and 55 <= len(frames) <= 60
    for k in (1, 8, 32):
        assert read(decoder, path, k)[2] == ""


def test_hidden_pictures_are_not_counted(tmp_path: Path, decoder: DecoderProcess) -> None:
    source = videos.make_video(tmp_path / "source.webm", n_frames=60, codec="libvpx", gop=12)
    path = videos.copy_packets(source, tmp_path / "hidden.webm", first=0, hidden_keyframes=True)
    probed, frames, reason = read(decoder, path)
    assert reason == "" and probed is not None
    assert (probed.n_frames, probed.note) == (60, "not decord: 4 packets hold no picture")
    assert probed.fps == pytest.approx(12, rel=1e-3)
    assert indices_shown(frames) == list(range(60))


def test_a_cut_with_intra_refresh_gives_the_frames_after_recovery(tmp_path: Path, decoder: DecoderProcess) -> None:
    options = {"x264-params": "intra-refresh=1:keyint=20:bframes=0"}
    source = videos.make_video(tmp_path / "source.mkv", n_frames=100, codec_options=options, size=(160, 96))
    path = videos.copy_packets(source, tmp_path / "cut.mkv", first=27)
    probed, frames, reason = read(decoder, path)
    assert reason == "" and probed is not None and 30 <= probed.n_frames < 73
    assert indices_shown(frames) == list(range(100 - probed.n_frames, 100))
    assert read(decoder, path, 32)[2] == read(decoder, path, 8)[2] == ""


def damage(path: Path, tenths: int) -> None:
    """Change 300 bytes after `tenths` tenths of the file."""
    content = bytearray(path.read_bytes())
    start = len(content) * tenths // 10
    content[start : start + 300] = bytes(byte ^ 0x5A for byte in content[start : start + 300])
    path.write_bytes(content)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_damage_is_reported_for_any_number_of_requested_frames(
    tmp_path: Path, decoder: DecoderProcess, suffix: str
) -> None:
    path = videos.make_video(tmp_path / f"damaged{suffix}", n_frames=240, size=(160, 96), gop=24)
    damage(path, tenths=6)
    assert {read(decoder, path, k)[2].split(":")[0] for k in (1, 2, 3, 8, 32, 240)} == {"corrupt"}


def test_damage_in_a_long_video_is_reported_for_few_requested_frames(tmp_path: Path, decoder: DecoderProcess) -> None:
    path = videos.make_video(tmp_path / "long.mp4", n_frames=6000, gop=50)
    damage(path, tenths=3)
    assert {read(decoder, path, k)[2].split(":")[0] for k in (1, 8)} == {"corrupt"}


@pytest.mark.parametrize("options", [DASH, FRAGMENTS], ids=["with an index", "without an index"])
def test_fragments_missing_in_the_middle_are_detected(tmp_path: Path, options: dict[str, str]) -> None:
    path = tmp_path / "lost.mp4"
    videos.make_fragments_lost(path, slice(5, 9), n_frames=204, container_options=options)
    with pytest.raises(DecodeError, match=r"^truncated: fragment \d+ follows on \d+"):
        probe(path)


def test_fragments_missing_at_the_end_are_detected_by_the_index(tmp_path: Path) -> None:
    path = tmp_path / "lost.mp4"
    videos.make_fragments_lost(path, slice(8, None), n_frames=204, container_options=DASH)
    with pytest.raises(DecodeError, match=r"^truncated: the index promises 17\.00 s, the fragments hold 8\.00 s"):
        probe(path)
    source = videos.make_fragments_lost(path, slice(0), n_frames=204, container_options=DASH)
    assert (probe(source).n_frames, probe(source).decoder) == (204, "decord")


def test_a_fragmented_file_cut_inside_a_fragment_is_truncated(tmp_path: Path) -> None:
    path = videos.make_truncated(tmp_path / "cut.mp4", 0.6, n_frames=204, container_options=FRAGMENTS)
    with pytest.raises(DecodeError, match=r"^truncated: the file ends inside a fragment"):
        probe(path)


ORIENTATIONS = [(a, 0, 0, d) for a in (1, -1) for d in (1, -1)] + [(0, b, c, 0) for b in (1, -1) for c in (1, -1)]


@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_rotated_and_mirrored_videos_are_decoded_as_displayed(
    tmp_path: Path, decoder: DecoderProcess, matrix: tuple[int, int, int, int]
) -> None:
    upright = read(decoder, videos.make_video(tmp_path / "upright.mp4", size=(64, 64)), 8)[1]
    path = videos.orient(videos.make_video(tmp_path / "turned.mp4", size=(64, 64)), *matrix)
    _, turned, reason = read(decoder, path, 8)
    a, b, c, d = matrix
    y, x = np.mgrid[0:224, 0:224] * 2 - 223  # from the centre
    expected = np.empty_like(upright)
    expected[:, (b * x + d * y + 223) // 2, (a * x + c * y + 223) // 2] = upright
    assert reason == "" and np.abs(turned.astype(int) - expected).mean() < 2


def test_a_rotated_matroska_file_is_decoded_upright(tmp_path: Path, decoder: DecoderProcess) -> None:
    upright = videos.make_video(tmp_path / "upright.mp4", size=(64, 64))
    rotated = videos.rotate(videos.make_video(tmp_path / "rotated.mp4", size=(64, 64)), 180)
    path = videos.copy_packets(rotated, tmp_path / "rotated.mkv", first=0)
    if not probe(path).note:
        pytest.skip("this FFmpeg does not write the rotation into Matroska")
    assert np.abs(read(decoder, path, 4)[1][:, ::-1, ::-1].astype(int) - read(decoder, upright, 4)[1]).mean() < 2


def renamed(folder: Path, names: list[str]) -> Path:
    """Create a folder of images in which picture n has the n-th name."""
    videos.make_image_folder(folder, len(names))
    for index in range(len(names)):
        (folder / f"{index + 1}.jpg").rename(folder / f"picture{index}")
    for index, name in enumerate(names):
        (folder / f"picture{index}").rename(folder / name)
    return folder


CLEAR = {
    "padded decimals": [f"{i:.5f}.jpg" for i in range(12)],
    "half seconds": ["0.0.jpg", "0.5.jpg", "1.0.jpg"],
    "uneven times": ["0.00.jpg", "0.25.jpg", "1.75.jpg", "10.50.jpg"],
    "times as written": [f"{i * 0.25}.jpg" for i in range(12)],
    "thirtieths": [f"frame_{i / 30}.jpg" for i in range(12)],
    "n of": [f"{i}_of_12.jpg" for i in range(1, 13)],
    "number and time": [f"frame{i}_{i * 0.5:.1f}s.jpg" for i in range(12)],
    "number behind a point": [f"clip1.{i}.jpg" for i in range(1, 13)],
    "mixed suffixes": ["1.jpg", "2.JPG", "3.jpeg", "10.jpg"],
    "a number in front": [f"{i}_camera2.jpg" for i in (1, 2, 10)],
    "dates": ["2024-01-31_10-00-59.jpg", "2024-01-31_10-01-00.jpg"],
    "times of day": ["00-00-59.jpg", "00-01-00.jpg", "01-00-00.jpg"],
    "shots": ["shot01_frame0001.jpg", "shot01_frame0002.jpg", "shot02_frame0001.jpg", "shot02_frame0002.jpg"],
    "cameras": ["cam1_001.jpg", "cam1_002.jpg", "cam2_001.jpg"],
    "unpadded shots": ["s1_f9.jpg", "s1_f10.jpg", "s2_f1.jpg"],
    "shots and frames": [f"{shot}.{frame}.jpg" for shot in (1, 2) for frame in range(1, 13)],
    "rounded times": [f"{round(i / 30, 3)}.jpg" for i in range(1, 12)],
    "rounded times without the first": ["0.1.jpg", "0.133.jpg", "0.167.jpg", "0.2.jpg", "0.233.jpg"],
    "uneven times as written": ["0.125.jpg", "0.5.jpg", "2.25.jpg", "2.5.jpg"],
    "exponents": ["0.0.jpg", "1e-05.jpg", "2.5e-05.jpg", "0.0001.jpg"],
    "commas": ["1,0.jpg", "1,5.jpg"],
    "commas of unequal length": ["0,25.jpg", "0,5.jpg", "1,0.jpg"],
    "times without a point": ["1.jpg", "1.5.jpg", "2.jpg"],
    "letters": ["a.jpg", "b.jpg", "c.jpg"],
    "two letters": ["camera2_ay.jpg", "camera2_az.jpg", "camera2_ba.jpg"],
    "hyphens": ["img-9.jpg", "img-10.jpg"],
    "numbers that look like years": ["00011999.jpg", "00012000.jpg", "00021900.jpg"],
    "shots and frames that look like years": ["1_1999.jpg", "1_2000.jpg", "2_0001.jpg"],
    "years of two digits": ["24-01-31.jpg", "24-02-01.jpg", "24-02-05.jpg"],
    "days of one month": ["05-03-24.jpg", "17-03-24.jpg", "28-03-24.jpg"],
    "scenes, shots and frames": [f"{n}-{m}-{i:02}.jpg" for n in (1, 2) for m in (1, 2) for i in (0, 1, 2)],
    "scenes and sparse frames": ["1_01_09.jpg", "1_01_48.jpg", "2_01_07.jpg", "2_02_70.jpg", "3_01_12.jpg"],
    "uneven times of day": ["10-05-03.jpg", "10-07-41.jpg", "11-02-10.jpg"],
    "every 30 seconds": [f"01-0{i // 2 + 1}-{i % 2 * 30:02}.jpg" for i in range(6)],
    "six digits": ["010960.jpg", "010980.jpg", "011000.jpg", "011020.jpg"],
    "years of two digits and months": [f"{21 + n // 12}-{n % 12 + 1:02}.jpg" for n in range(2, 22)],
    "months and days": [*(f"03-{day}.jpg" for day in range(28, 32)), *(f"04-{day:02}.jpg" for day in range(1, 5))],
    "sparse shots and frames": ["01_03.jpg", "01_07.jpg", "02_02.jpg", "02_09.jpg", "03_01.jpg"],
    "named shots and frames": ["s01_f04.jpg", "s01_f09.jpg", "s02_f01.jpg", "s02_f06.jpg", "s03_f02.jpg"],
    "many scenes": [f"video-Scene-{scene:03}-{image:02}.jpg" for scene in range(1, 40) for image in (1, 2, 3)],
    "cameras and frames": [f"cam{camera}_{frame:06}.jpg" for camera in (1, 2) for frame in range(110, 131)],
    "a camera's dates and times": [f"2301{day:02}_12{minute:02}10.jpg" for day in (5, 6) for minute in range(1, 12)],
    "days of one year": ["2023-06-05.jpg", "2023-07-03.jpg", "2023-08-07.jpg", "2023-09-04.jpg"],
    "one of a hundred lost": [f"{n:02}.jpg" for n in range(100) if n != 7],
    "one of twelve lost": [f"{n:02}.jpg" for n in range(1, 13) if n != 5],
    "minutes and seconds": ["00-03.jpg", "01-12.jpg", "02-05.jpg", "03-01.jpg", "03-09.jpg"],
    "shots and every tenth frame": [f"{shot:02}_{frame:02}.jpg" for shot in (1, 2) for frame in (4, 8, 12)],
    "a number and a score": ["0_0.91.jpg", "1_0.17.jpg", "2_0.53.jpg"],
    "some times of day": ["09h05m01s010.jpg", "09h05m02s900.jpg", "10h00m00s001.jpg"],
    "months and days of one year": ["12-01.jpg", "12-02.jpg", "12-03.jpg", "12-31.jpg"],
    "a pause of a whole day": [f"{m // 60:02}-{m % 60:02}.jpg" for m in (*range(0, 400, 20), *range(900, 1300, 20))],
    "evenings": ["2024-05-06_1959.jpg", "2024-05-06_2000.jpg", "2024-06-06_1930.jpg"],
}
UNCLEAR = {
    "points as letters": (["0p5.jpg", "1p0.jpg", "1p25.jpg", "1p5.jpg"], ["1p25.jpg"]),
    "shot or decimal": (["1.9.jpg", "1.10.jpg", "2.1.jpg"], ["1.9.jpg", "1.10.jpg"]),
    "every tenth frame of shot 1": ([f"1.{i}.jpg" for i in range(5, 120, 10)], ["1.105.jpg"]),
    "minus": (["-2.jpg", "-1.jpg"], ["-2.jpg", "-1.jpg"]),
    "minus behind a name": (["t_-1.jpg", "t_0.jpg"], ["t_-1.jpg"]),
    "days first": (["31-01-2024.jpg", "01-02-2024.jpg"], ["31-01-2024.jpg"]),
    "days first without points": (["31012024.jpg", "01022024.jpg"], ["31012024.jpg"]),
    "months of several years": (["12_2023.jpg", "01_2024.jpg"], ["12_2023.jpg"]),
    "days first, years of two digits": (["31-12-99.jpg", "01-01-00.jpg"], ["31-12-99.jpg", "01-01-00.jpg"]),
    "months first, years of two digits": (
        [f"cam_{d}_8h.jpg" for d in ("12.30.23", "12.31.23", "01.01.24")],
        ["12.31.23"],
    ),
    "years of two digits at the turn of the century": (["99-12-31.jpg", "00-01-01.jpg"], ["00-01-01.jpg"]),
    "every day of two months": ([f"{d:02}{m:02}24.jpg" for m in (1, 2) for d in range(1, 29)], ["010124.jpg"]),
    "the first of each month": (["01-11-23.jpg", "01-12-23.jpg", "01-01-24.jpg"], ["01-01-24.jpg"]),
    "months and years of two digits": (
        ["11-20.jpg", "12-20.jpg", "01-21.jpg", "02-21.jpg"],
        ["11-20.jpg", "01-21.jpg"],
    ),
    "whole years of months": ([f"{month:02}{year}.jpg" for year in (20, 21) for month in range(1, 13)], ["0121.jpg"]),
    "months of two centuries": (["99-11.jpg", "99-12.jpg", "00-01.jpg", "00-02.jpg"], ["99-11.jpg", "00-01.jpg"]),
    "days and months": (["30-03.jpg", "31-03.jpg", "01-04.jpg", "02-04.jpg"], ["30-03.jpg", "01-04.jpg"]),
    "days and months without points": (["3003.jpg", "3103.jpg", "0104.jpg", "0204.jpg"], ["3003.jpg", "0104.jpg"]),
    "every day of January and February": (
        [f"{n % 31 + 1:02}-{n // 31 + 1:02}.jpg" for n in range(59)],
        ["01-02.jpg"],
    ),
    "weeks": (["W51-20.jpg", "W52-20.jpg", "W01-21.jpg", "W02-21.jpg"], ["W51-20.jpg"]),
    "a time before its date": (
        [f"{h:02}00_2021-03-3{d}.jpg" for d in (0, 1) for h in (9, 15)],
        ["0900_2021-03-31.jpg"],
    ),
    "frames before their shots": (["4_7.jpg", "5_7.jpg", "1_8.jpg", "2_8.jpg"], ["1_8.jpg"]),
    "a score before a number": (["0.91_0.jpg", "0.17_1.jpg", "0.53_2.jpg"], ["0.91_0.jpg"]),
    "a size before a number": (["640x480_0.jpg", "320x240_1.jpg", "640x480_2.jpg"], ["320x240_1.jpg"]),
    "a night": ([f"{m // 60 % 24:02}-{m % 60:02}.jpg" for m in range(1380, 1500, 15)], ["00-00.jpg"]),
    "a night without points": ([f"{m // 60 % 24:02}{m % 60:02}00.jpg" for m in range(1380, 1500, 15)], ["000000.jpg"]),
    "noon": (["11_00.jpg", "11_30.jpg", "12_00.jpg", "12_30.jpg", "1_00.jpg", "1_30.jpg"], ["1_00.jpg"]),
    "after midnight, AM": (["12.30AM.jpg", "1.00AM.jpg"], ["12.30AM.jpg"]),
    "a camera's full counter": ([f"DSC_{n:04}.jpg" for n in (9998, 9999, 1, 2)], ["DSC_9998.jpg"]),
    "days over the turn of a year": (["12-30.jpg", "12-31.jpg", "01-01.jpg", "01-02.jpg"], ["12-30.jpg", "01-01.jpg"]),
    "days over it without points": (["1230.jpg", "1231.jpg", "0101.jpg", "0102.jpg"], ["1230.jpg", "0101.jpg"]),
    "months over it": (["11.jpg", "12.jpg", "01.jpg", "02.jpg"], ["11.jpg", "01.jpg"]),
    "a byte": ([f"{n}.jpg" for n in (254, 255, 0, 1)], ["254.jpg"]),
    "a true minus": (["t\u22122.jpg", "t\u22121.jpg"], ["t\u22122.jpg"]),
    "thousands with points": (["999.jpg", "1.000.jpg", "1.001.jpg"], ["1.000.jpg"]),
    "thousands": (["998.jpg", "999.jpg", "1,000.jpg"], ["1,000.jpg"]),
    "two of a number": (["1.jpg", "2.jpg", "02.jpg"], ["2.jpg", "02.jpg"]),
    "a stranger": (["frame1.jpg", "frame2.jpg", "thumb1.jpg"], ["thumb1.jpg"]),
    "numbers as words": (["one.jpg", "two.jpg", "three.jpg"], ["one.jpg", "two.jpg", "three.jpg"]),
    "months": (["jan.jpg", "feb.jpg", "mar.jpg"], ["jan.jpg", "feb.jpg", "mar.jpg"]),
    "Roman numbers": (["VI.jpg", "VII.jpg", "IX.jpg"], ["VI.jpg", "IX.jpg"]),
    "letters left out": (["l.jpg", "m.jpg", "r.jpg"], ["l.jpg", "r.jpg"]),
    "hashes": (["frame1_ab3f.jpg", "frame2_c9d1.jpg", "frame3_0f7e.jpg"], ["_c9d1"]),
}


@pytest.mark.parametrize("names", CLEAR.values(), ids=CLEAR)
def test_images_are_ordered_by_name(tmp_path: Path, decoder: DecoderProcess, names: list[str]) -> None:
    _, frames, reason = read(decoder, renamed(tmp_path / "frames", names))
    assert reason == "" and indices_shown(frames) == list(range(len(names)))


@pytest.mark.parametrize(("names", "at_fault"), UNCLEAR.values(), ids=UNCLEAR)
def test_images_without_a_clear_order_are_refused_with_their_names(
    tmp_path: Path, decoder: DecoderProcess, names: list[str], at_fault: list[str]
) -> None:
    _, _, reason = read(decoder, renamed(tmp_path / "frames", names))
    assert reason.startswith("unreadable: no clear order in the images' names, see ")
    assert all(name in reason for name in at_fault)


def test_special_files_among_images_are_skipped_with_a_note(tmp_path: Path, decoder: DecoderProcess) -> None:
    folder = videos.make_image_folder(tmp_path / "frames", n_frames=3)
    os.mkfifo(folder / "4.jpg")  # opening it waits for a writer
    (folder / "5.jpg").mkdir()
    (folder / "6.jpg").symlink_to("nowhere.jpg")
    probed, frames, reason = read(decoder, folder)
    assert reason == "" and probed is not None and indices_shown(frames) == [0, 1, 2]
    assert probed.note == "; ".join(
        f"{name} is no regular file and was left out" for name in ("4.jpg", "5.jpg", "6.jpg")
    )


@pytest.mark.parametrize("names", [[".5.jpg", "1.jpg", "1.5.jpg"], [".25.jpg", ".5.jpg"], [".1.jpg", "1.jpg", "2.jpg"]])
def test_an_image_that_starts_with_a_dot_is_refused(tmp_path: Path, decoder: DecoderProcess, names: list[str]) -> None:
    _, _, reason = read(decoder, renamed(tmp_path / "frames", names))
    assert reason.startswith(f"unreadable: is {min(names)} a hidden file, or a frame?") and f"0{min(names)}" in reason


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("keep", [0, 0.5, 0.98])
def test_a_half_written_image_is_corrupt_even_if_it_is_not_requested(
    tmp_path: Path, decoder: DecoderProcess, suffix: str, keep: float
) -> None:
    folder = videos.make_image_folder(tmp_path / "frames", size=(320, 240), suffix=suffix)
    image = folder / f"2{suffix}"
    content = image.read_bytes()
    for rest in (b"", bytes(len(content) - int(len(content) * keep))):  # cut, or padded with zeros
        image.write_bytes(content[: int(len(content) * keep)] + rest)
        for k in (1, 12):
            assert read(decoder, folder, k)[2].startswith(f"corrupt: images: 2{suffix}: ")


def test_more_than_a_thousand_frames_per_second_are_refused(tmp_path: Path) -> None:
    path = videos.make_video(tmp_path / "video.mkv", fps=25)
    content = path.read_bytes()
    place = content.index(b"\x23\xe3\x83\x84") + 4  # nanoseconds per frame
    path.write_bytes(content[:place] + struct.pack(">I", 11_111) + content[place + 4 :])
    assert probe(path).fps == pytest.approx(25, rel=0.03)
    with pytest.raises(DecodeError, match=r"^no_frame_rate: 5000 frames a second is not to be believed"):
        probe(videos.make_video(tmp_path / "fast.mp4", fps=5000))


def test_the_rate_of_an_avi_file_ignores_repeated_pictures(tmp_path: Path) -> None:
    """FFmpeg writes an empty chunk beside each B picture into AVI, and the header counts both."""
    source = videos.make_video(tmp_path / "video.mp4", fps=10, codec="mpeg4", codec_options={"bf": "2"})
    copied = probe(videos.copy_packets(source, tmp_path / "copied.avi", first=0))
    assert (copied.fps, copied.n_frames) == (10, 48)
    every_third_repeated = [index * 3 // 2 for index in range(48)]
    sparse = probe(videos.make_video(tmp_path / "sparse.avi", fps=30, codec="mpeg4", ticks=every_third_repeated))
    assert sparse.fps == pytest.approx(20, rel=0.02) and sparse.n_frames == 48
    joined = tmp_path / "joined.avi"
    joined.write_bytes((tmp_path / "copied.avi").read_bytes() * 2)
    assert (probe(joined).fps, probe(joined).n_frames) == (10, 96)
    ntsc = Fraction(30000, 1001)
    assert probe(videos.make_video(tmp_path / "ntsc.avi", fps=ntsc, codec="mpeg4")).fps == float(ntsc)


@pytest.mark.parametrize("promised", [1, 4800])
def test_a_wrong_length_in_an_avi_header_does_not_change_the_rate(tmp_path: Path, promised: int) -> None:
    path = videos.make_video(tmp_path / "video.avi", fps=10, codec="mpeg4")
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.index(b"strh") + 40, promised)
    path.write_bytes(content)
    assert (probe(path).fps, probe(path).n_frames) == (10, 48)


@pytest.mark.parametrize(("suffix", "codec"), [(".h264", "libx264"), (".m4v", "mpeg4"), (".m2v", "mpeg2video")])
def test_a_stream_without_timestamps_has_the_rate_of_its_codec(tmp_path: Path, suffix: str, codec: str) -> None:
    fps = 24  # not 25, FFmpeg's default; MPEG-2 knows few rates
    assert probe(videos.make_video(tmp_path / f"video{suffix}", fps=fps, codec=codec)).fps == fps


def test_a_stream_without_any_rate_is_refused(tmp_path: Path) -> None:
    path = videos.make_video(tmp_path / "video.mjpeg", codec="mjpeg", pixel_format="yuvj420p")
    with pytest.raises(DecodeError, match=r"^no_frame_rate: neither the header nor the timestamps"):
        probe(path)


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_transport_streams_may_be_joined_but_not_miss_packets(tmp_path: Path, codec: str) -> None:
    content = videos.make_video(tmp_path / "video.ts", fps=25, codec=codec, size=(160, 96)).read_bytes()
    joined = tmp_path / "joined.ts"
    joined.write_bytes(content + content)
    assert probe(joined).n_frames == 96
    of_video = [start for start in range(0, len(content), 188) if content[start + 1] & 0x1F == 1]  # stream 0x100
    for start in of_video[len(of_video) // 3 :: 7]:
        path = tmp_path / f"lost{start}.ts"
        path.write_bytes(content[:start] + content[start + 188 :])
        with pytest.raises(DecodeError, match=r"^corrupt: "):
            probe(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_follow_their_exif_orientation(tmp_path: Path, decoder: DecoderProcess, orientation: int) -> None:
    image = videos.make_image_folder(tmp_path / "frames", n_frames=1, size=(64, 64)) / "1.jpg"
    upright = read(decoder, image.parent)[1][0]
    tags = b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x112, 3, 1, orientation, 0, 0)
    content = image.read_bytes()
    image.write_bytes(content[:2] + b"\xff\xe1" + struct.pack(">H", len(tags) + 2) + tags + content[2:])
    expected = upright.swapaxes(0, 1) if orientation > 4 else upright
    if orientation in (2, 3, 6, 7):
        expected = expected[:, ::-1]
    if orientation in (3, 4, 7, 8):
        expected = expected[::-1]
    assert np.abs(read(decoder, image.parent)[1][0].astype(int) - expected).mean() < 2


def test_a_video_of_an_unknown_codec_is_unreadable(tmp_path: Path, decoder: DecoderProcess) -> None:
    path = videos.make_video(tmp_path / "video.mkv")
    path.write_bytes(path.read_bytes().replace(b"V_MPEG4/ISO/AVC", b"V_MPEG9/ISO/AVC"))
    assert read(decoder, path)[2] == "unreadable: its codec is unknown"


def test_a_trimmed_mpeg4_file_starts_at_its_edit_list(tmp_path: Path) -> None:
    path = videos.make_edit_list(tmp_path / "trimmed.mp4", n_skipped=5, codec="mpeg4", n_frames=30)
    assert indices_shown(np.stack([frame.to_ndarray(format="rgb24") for frame in pictures(path)])) == list(
        range(5, 30)
    )  # the keyframe before them is decoded and hidden


def test_a_disk_failure_during_reading_raises_and_prints_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path, n_left = videos.make_video(tmp_path / "good.mp4", size=(320, 240), n_frames=200), 3

    class FailingFile(io.FileIO):
        def read(self, size: int = -1) -> bytes:
            nonlocal n_left
            n_left -= 1
            if n_left < 0:
                raise OSError(errno.EIO, "Input/output error")
            return super().read(size)

    monkeypatch.setattr(Path, "open", lambda path, *_, **__: FailingFile(str(path)))
    with pytest.raises(OSError, match="Input/output error"):
        list(pictures(path))
    assert capfd.readouterr().err == ""
