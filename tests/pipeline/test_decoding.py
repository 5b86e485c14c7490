import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av  # noqa: F401 - before decord, whose bundled libvpx otherwise takes the place of PyAV's
import decord
import numpy as np
import psutil
import pytest

from cache.errors import DecodeError, DecoderDeathError, ReadingError
from pipeline.video.chunk_memory import N_CHUNKS, Chunk, ChunkMemory, chunk_file
from pipeline.video.decode_worker import read_with_decord, read_with_pyav
from pipeline.video.decoding import (
    DecodeRequest,
    DecodeResult,
    DecoderProcess,
    check_decoders,
    installed_decoders,
)
from pipeline.video.frames import Clip, FixedRateSampling, UniformSampling
from pipeline.video.probing import probe
from tests import videos
from tests.decoders import is_open, is_running, readers_of, workers_of
from tests.waiting import wait_until

REAL_VIDEOS = Path(__file__).parents[3] / "shared" / "data" / "videos"
REAL = sorted(REAL_VIDEOS.glob("*.m[op][v4]"))
UPRIGHT = {0: 0, 90: 1, 180: 2, 270: 3}  # quarter turns anticlockwise that undo a clockwise rotation

# file name: arguments of `make_video`, expected decoder
KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "h264.mp4": ({}, "decord"),
    "h264.mkv": ({}, "decord"),
    "h264.mov": ({}, "decord"),
    "no_b_frames.mp4": ({"codec_options": {"bf": "0"}}, "decord"),
    "one_gop.mp4": ({"gop": 250}, "decord"),
    "with_audio.mp4": ({"with_audio": True}, "decord"),
    "with_audio.mkv": ({"with_audio": True}, "decord"),
    "fragmented.mp4": ({"container_options": {"movflags": "frag_keyframe+empty_moov"}}, "decord"),
    "variable_rate.mp4": ({"ticks": [i + i * i // 20 for i in range(48)]}, "decord"),
    "variable_rate.mkv": ({"ticks": [i + i * i // 20 for i in range(48)]}, "decord"),
    "starts_late.mp4": ({"ticks": range(30, 78), "with_audio": True}, "decord"),
    "ntsc.mp4": ({"fps": videos.Fraction(30000, 1001)}, "decord"),
    "ntsc.mkv": ({"fps": videos.Fraction(24000, 1001)}, "decord"),
    "odd_size.mp4": ({"size": (75, 49), "pixel_format": "yuv444p"}, "decord"),
    "one_frame.mp4": ({"n_frames": 1}, "decord"),
    "one_frame.mkv": ({"n_frames": 1}, "pyav"),  # decord refuses it
    "ten_bits.mp4": ({"pixel_format": "yuv420p10le"}, "decord"),
    "mpeg4.mp4": ({"codec": "mpeg4"}, "decord"),
    "vp9.webm": ({"codec": "libvpx-vp9"}, "decord"),
    "vp8.webm": ({"codec": "libvpx"}, "decord"),
    "h265.mp4": ({"codec": "libx265", "codec_options": {"x265-params": "log-level=none:open-gop=0"}}, "decord"),
    "h265_open_gop.mp4": ({"codec": "libx265", "codec_options": {"x265-params": "log-level=none"}}, "pyav"),
    "h264_open_gop.mp4": ({"codec_options": {"x264-params": "open-gop=1:bframes=3"}}, "pyav"),
    "h264.ts": ({}, "pyav"),
    "h264.avi": ({}, "pyav"),
    "mpeg4_b_frames.avi": ({"codec": "mpeg4", "codec_options": {"bf": "2"}}, "pyav"),
    "mpeg2.mpg": ({"codec": "mpeg2video", "fps": 25}, "pyav"),
    "vidéo — 视频 %d.mp4": ({}, "decord"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module")
def decoder() -> Iterator[DecoderProcess]:
    with DecoderProcess(timeout_seconds=60) as decoder:
        yield decoder


def video(folder: Path, name: str) -> Path:
    return folder / name if (folder / name).exists() else videos.make_video(folder / name, **KINDS[name][0])


def all_frames(result: DecodeResult) -> np.ndarray:
    assert result.error is None
    return np.concatenate([chunk.copy() for chunk in result.frames])


def indices_shown(frames: np.ndarray) -> list[int]:
    return [videos.read_index(frame) for frame in frames]


def reasons(decoder: DecoderProcess, *paths: Path) -> list[str]:
    """Return the reason of each video that fails at once or midway, else an empty text."""
    texts = []
    for result in decoder.decode(DecodeRequest(path, UniformSampling(8), image_folder_fps=1.0) for path in paths):
        try:
            list(result.frames)
            texts.append(str(result.error or ""))
        except (DecodeError, ReadingError) as error:
            texts.append(str(error))
    return texts


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_gives_the_requested_frames(folder: Path, decoder: DecoderProcess, name: str) -> None:
    clips = (Clip(), Clip(0.3, 0.9), Clip(1.0, 3.0))
    request = DecodeRequest(video(folder, name), UniformSampling(7), clips)
    (result,) = [(result, all_frames(result)) for result in decoder.decode([request])]
    answer, frames = result
    assert answer.probe is not None and answer.probe.decoder == KINDS[name][1]
    assert frames.shape == (len(answer.frame_indices), 224, 224, 3) and frames.dtype == np.uint8
    assert indices_shown(frames) == answer.frame_indices.tolist()
    assert set(answer.frame_indices) == {index for clip in answer.clips for index in clip.frame_indices}


@pytest.mark.parametrize("name", [name for name, (_, decoder) in KINDS.items() if decoder == "decord"])
def test_length_and_rate_match_decord(folder: Path, name: str) -> None:
    path = video(folder, name)
    reader = decord.VideoReader(str(path), num_threads=1)
    probed = probe(path)
    assert (probed.n_frames, probed.fps) == (len(reader), pytest.approx(reader.get_avg_fps(), rel=1e-12))


@pytest.mark.parametrize("name", [name for name, (_, decoder) in KINDS.items() if decoder == "decord"])
def test_pyav_gives_the_pixels_of_decord(folder: Path, name: str) -> None:
    path = video(folder, name)
    assert_decoders_agree(path, max_difference=2)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_rotated_video_is_decoded_upright(folder: Path, degrees: int) -> None:
    path = videos.rotate(videos.make_video(folder / f"rotated{degrees}.mp4"), degrees)
    frames = assert_decoders_agree(path, max_difference=2)
    as_coded = np.rot90(frames, k=UPRIGHT[degrees], axes=(1, 2))
    assert indices_shown(as_coded) == list(range(48))


def assert_decoders_agree(path: Path, max_difference: int) -> np.ndarray:
    probed = probe(path)
    indices = np.arange(0, probed.n_frames, max(1, probed.n_frames // 48))
    readers = [read(path, probed, indices, 224, lambda: None) for read in (read_with_decord, read_with_pyav)]
    by_decord, by_pyav = (np.stack(list(frames)) for frames in readers)
    assert np.abs(by_decord.astype(int) - by_pyav).max() <= max_difference
    return by_pyav


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_folder_of_images_is_read_in_numeric_order(tmp_path: Path, decoder: DecoderProcess, suffix: str) -> None:
    folder = videos.make_image_folder(tmp_path / "frames %d", n_frames=12, suffix=suffix)
    (folder / "notes.txt").write_text("not an image")
    request = DecodeRequest(folder, UniformSampling(12), (Clip(), Clip(1.0, 2.0)), image_folder_fps=3.0)
    for result in decoder.decode([request]):
        frames = all_frames(result)
        assert result.probe is not None
        assert (result.probe.decoder, result.probe.n_frames, result.probe.fps) == ("images", 12, 3.0)
        assert indices_shown(frames) == list(range(12))
        assert set(result.clips[1].frame_indices) == {3, 4, 5}
        expected = videos.pattern(5, 224, 224)
        assert np.abs(frames[5].astype(int) - expected).mean() < (8 if suffix == ".jpg" else 4)


def test_missing_images_of_a_sequence_are_noted(tmp_path: Path) -> None:
    folder = videos.make_image_folder(tmp_path / "frames")
    (folder / "7.jpg").unlink()
    probed = probe(folder, 3.0)
    assert (probed.n_frames, probed.note) == (11, "1 numbers of the image sequence are missing")


def test_a_folder_of_images_needs_a_rate(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match=r"^no_frame_rate: a folder of images"):
        probe(videos.make_image_folder(tmp_path / "frames"))


def test_every_broken_video_has_a_reason_and_the_batch_continues(tmp_path: Path, decoder: DecoderProcess) -> None:
    empty_folder = tmp_path / "nothing"
    empty_folder.mkdir()
    (tmp_path / "empty.mp4").touch()
    good = videos.make_video(tmp_path / "good.mp4")
    broken = {
        tmp_path / "missing.mp4": "it cannot be read: No such file or directory",
        tmp_path / "empty.mp4": "empty: file of 0 bytes",
        empty_folder: "no_video_stream: the folder holds no .jpg, .jpeg, .png files",
        videos.make_garbage(tmp_path / "garbage.mp4"): "unreadable: Invalid data found when processing input",
        videos.make_audio_only(tmp_path / "audio.mp4"): "no_video_stream: the file holds audio only",
        videos.make_truncated(tmp_path / "cut.mp4"): "unreadable: Invalid data found when processing input",
        videos.make_truncated(tmp_path / "cut.mkv"): "truncated: header promises 4.00 s, file holds 1.",
        videos.make_truncated(tmp_path / "cut.webm", codec="libvpx-vp9"): "truncated: header promises 4.00 s, file holds 1.",
        videos.make_faststart_cut(tmp_path / "cut_faststart.mp4", n_frames=120): "truncated: header promises 120 frames",
        good: "",
    }  # fmt: skip
    for reason, (path, expected) in zip(reasons(decoder, *broken), broken.items(), strict=True):
        assert reason.startswith(expected) and bool(reason) == bool(expected), path.name


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9, 0.97])
def test_a_truncated_faststart_file_is_not_read_as_a_shorter_video(tmp_path: Path, keep: float) -> None:
    with pytest.raises(DecodeError, match=r"^truncated: header promises 120 frames, file holds "):
        probe(videos.make_faststart_cut(tmp_path / "cut.mp4", keep, n_frames=120))


def test_damaged_content_fails_with_the_messages_of_both_decoders(tmp_path: Path, decoder: DecoderProcess) -> None:
    path = videos.make_video(tmp_path / "damaged.mp4", n_frames=120)
    content = bytearray(path.read_bytes())
    middle = content.index(b"mdat") + 3000
    content[middle : middle + 400] = bytes(400)
    path.write_bytes(content)
    (reason,) = reasons(decoder, path)
    # FFmpeg's threads decode several packets at a time, so either of two damaged ones can be reported first.
    messages = ("Invalid data found when processing input", "damaged: error while decoding MB 1 2")
    assert reason.startswith("corrupt: decord: ") and any(f"; pyav: {each}" in reason for each in messages)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_pictures_concealed_by_a_decoder_are_refused(tmp_path: Path, decoder: DecoderProcess, codec: str) -> None:
    intact = videos.make_video(tmp_path / "intact.mp4", size=(640, 360), codec=codec).read_bytes()
    start, rng = intact.index(b"mdat") + 600, np.random.default_rng(1)
    damaged = [tmp_path / f"damaged{n}.mp4" for n in range(8)]
    for path in damaged:
        content = np.frombuffer(intact, np.uint8).copy()
        content[rng.integers(start, start + 30_000, size=20)] ^= 0xA5
        path.write_bytes(content.tobytes())
    assert all(reason.startswith("corrupt: decord: ") for reason in reasons(decoder, *damaged))


def test_frames_hidden_by_an_edit_list_are_skipped(tmp_path: Path, decoder: DecoderProcess) -> None:
    path = videos.make_edit_list(tmp_path / "trimmed.mp4", n_skipped=5)
    for result in decoder.decode([DecodeRequest(path, UniformSampling(48))]):
        assert result.probe is not None
        assert (result.probe.n_frames, result.probe.decoder) == (43, "pyav")
        assert indices_shown(all_frames(result)) == list(range(5, 48))


def test_a_hanging_decoder_is_stopped_and_the_next_videos_are_read(tmp_path: Path) -> None:
    hangs, good = videos.make_huge_picture(tmp_path / "hangs"), videos.make_video(tmp_path / "good.mp4")
    timeout = "timeout: no sign of life from the decoder in 0.25 s of computing"
    with DecoderProcess(timeout_seconds=0.25) as decoder:
        assert reasons(decoder, good, hangs, good) == ["", timeout, ""]


def test_a_decoder_blocked_on_its_file_is_a_reading_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "waits.mp4")  # opening it blocks, like a file server that does not answer
    good = videos.make_video(tmp_path / "good.mp4")
    with DecoderProcess(timeout_seconds=0.4) as decoder:
        requests = [DecodeRequest(path, UniformSampling(4)) for path in (tmp_path / "waits.mp4", good)]
        errors = [result.error for result in decoder.decode(requests)]
    assert isinstance(errors[0], ReadingError) and "neither computed nor answered for 2 s" in str(errors[0])
    assert errors[1] is None


def test_a_stopped_decoder_continues_where_it_was(tmp_path: Path) -> None:
    video = videos.make_video(tmp_path / "long.mp4", n_frames=300)
    with DecoderProcess(timeout_seconds=0.5) as decoder:
        for result in decoder.decode([DecodeRequest(video, UniformSampling(300))]):
            frames = [next(result.frames).copy()]
            (worker,) = readers_of(video)
            os.kill(worker, signal.SIGSTOP)
            threading.Timer(1.5, os.kill, (worker, signal.SIGCONT)).start()
            frames += [chunk.copy() for chunk in result.frames]
    assert indices_shown(np.concatenate(frames)) == list(range(300))


@pytest.mark.slow
def test_time_while_all_processes_are_stopped_is_not_a_timeout(tmp_path: Path) -> None:
    video = videos.make_video(tmp_path / "long.mp4", n_frames=300)
    program = (
        "import sys; from pathlib import Path\n"
        "from pipeline.video.decoding import *; from pipeline.video.frames import UniformSampling\n"
        "with DecoderProcess(timeout_seconds=1) as decoder:\n"
        "    for result in decoder.decode([DecodeRequest(Path(sys.argv[1]), UniformSampling(300))]):\n"
        "        print('begun', flush=True); print(sum(map(len, result.frames)))"
    )
    command = [sys.executable, "-c", program, str(video)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == "begun\n"
        processes = [parent.pid, *workers_of(parent.pid)]
        for process_id in processes:
            os.kill(process_id, signal.SIGSTOP)
        time.sleep(6)  # longer than a decoder may be idle
        for process_id in processes:
            os.kill(process_id, signal.SIGCONT)
        assert parent.stdout.read() == "300\n"


@pytest.mark.parametrize(("signal_name", "kind"), [("SIGSEGV", DecoderDeathError), ("SIGKILL", ReadingError)])
def test_a_crash_is_distinguished_from_a_kill_and_other_videos_are_read(
    tmp_path: Path, signal_name: str, kind: type[Exception]
) -> None:
    os.mkfifo(tmp_path / "waits.mp4")
    good = videos.make_video(tmp_path / "good.mp4")
    requests = [DecodeRequest(path, UniformSampling(4)) for path in (tmp_path / "waits.mp4", good, good)]
    killer = threading.Thread(target=signal_reader, args=(tmp_path / "waits.mp4", signal.Signals[signal_name]))
    with DecoderProcess(timeout_seconds=60) as decoder:
        killer.start()
        outcomes = [(type(result.error), len(list(result.frames))) for result in decoder.decode(requests)]
        killer.join()
    assert outcomes == [(kind, 0), (type(None), 1), (type(None), 1)]


def test_a_decoder_that_does_not_start_is_a_reading_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with DecoderProcess(timeout_seconds=60) as decoder:
        [result] = list(decoder.decode([DecodeRequest(tmp_path, UniformSampling(4))]))
    assert isinstance(result.error, ReadingError) and "does not start" in str(result.error)


def test_a_decoder_without_enough_memory_is_a_reading_error(tmp_path: Path) -> None:
    path = videos.make_video(tmp_path / "a.mp4", size=(1280, 720))
    before = workers_of(os.getpid())

    def requests() -> Iterator[DecodeRequest]:
        yield DecodeRequest(path, UniformSampling(4))
        for worker in workers_of(os.getpid()) - before:
            used = psutil.Process(worker).memory_info().vms
            resource.prlimit(worker, resource.RLIMIT_AS, (used + 2**20, resource.RLIM_INFINITY))
        yield DecodeRequest(path, UniformSampling(64))

    with DecoderProcess(timeout_seconds=60) as decoder:
        errors = []
        for result in decoder.decode(requests()):
            errors.append(result.error)
            try:
                list(result.frames)
            except ReadingError as error:
                errors[-1] = error
    assert errors[0] is None and isinstance(errors[1], ReadingError) and "too little memory" in str(errors[1])


def signal_reader(path: Path, number: signal.Signals) -> None:
    """Send a signal to the process that reads a file, once it does."""
    wait_until(lambda: readers_of(path))
    for process_id in readers_of(path):
        os.kill(process_id, number)


def test_closing_a_decoder_ends_its_process(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "hangs.mp4")
    good = videos.make_video(tmp_path / "good.mp4")
    before = workers_of(os.getpid())
    requests = [DecodeRequest(path, UniformSampling(4)) for path in (good, tmp_path / "hangs.mp4", good)]
    with pytest.raises(KeyboardInterrupt), DecoderProcess(timeout_seconds=60) as decoder:
        for _ in decoder.decode(requests):
            assert len(workers_of(os.getpid()) - before) == 1
            raise KeyboardInterrupt
    assert workers_of(os.getpid()) == before


def test_workers_end_when_their_parent_is_killed_even_if_they_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "hangs.mp4")
    program = (
        "import sys; from pathlib import Path\n"
        "from pipeline.video.lanes import *; from pipeline.video.frames import UniformSampling\n"
        "request = KeyedRequest('', DecodeRequest(Path(sys.argv[1]), UniformSampling(4)))\n"
        "list(DecoderPool(2, 60, 224).decode(iter([request, request]), lambda key, result: key))"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "hangs.mp4")])
    wait_until(lambda: len(workers_of(parent.pid)) == 2)
    workers = workers_of(parent.pid)
    wait_until(lambda: all(is_open(worker, tmp_path / "hangs.mp4") for worker in workers))
    parent.kill()
    parent.wait()
    wait_until(lambda: not any(is_running(worker) for worker in workers))


def test_a_caller_may_stop_reading_a_video(tmp_path: Path, decoder: DecoderProcess) -> None:
    paths = [videos.make_video(tmp_path / f"{n}.mp4", n_frames=n) for n in (200, 100, 50)]
    requests = [DecodeRequest(path, UniformSampling(200)) for path in paths]
    first_chunks = [next(result.frames).copy() for result in decoder.decode(requests)]
    assert [indices_shown(chunk) for chunk in first_chunks] == [list(range(64)), list(range(64)), list(range(50))]
    for result in decoder.decode(requests):
        assert result.request is requests[0]
        break  # the other requests stay unread
    assert [len(all_frames(result)) for result in decoder.decode(requests)] == [200, 100, 50]


def test_a_long_video_is_delivered_in_chunks(tmp_path: Path, decoder: DecoderProcess) -> None:
    path = videos.make_video(tmp_path / "long.mp4", n_frames=600)
    for result in decoder.decode([DecodeRequest(path, FixedRateSampling(4.0))]):
        chunks = [chunk.copy() for chunk in result.frames]
        assert [len(chunk) for chunk in chunks] == [64, 64, 64, 8]
        assert indices_shown(np.concatenate(chunks)) == list(range(1, 600, 3))


def test_a_decoder_takes_the_next_request_before_the_last_frames_are_read(tmp_path: Path) -> None:
    requests = [
        DecodeRequest(videos.make_video(tmp_path / f"{n}.mp4", n_frames=n), UniformSampling(n)) for n in (20, 30)
    ]
    yielded: list[DecodeRequest] = []
    with DecoderProcess(timeout_seconds=60) as decoder:
        for result in decoder.decode(yielded.append(each) or each for each in requests):  # type: ignore[func-returns-value]
            shown = [indices_shown(chunk) for chunk in result.frames if yielded == requests]
            assert shown == [list(range(len(result.frame_indices)))]


def test_a_chunk_slot_is_reused_only_after_it_was_read() -> None:
    with chunk_file(8) as file:
        reader, writer = ChunkMemory(file.fileno(), 8), ChunkMemory(file.fileno(), 8)
    unread: deque[Chunk] = deque()

    def read_one() -> None:
        chunk = unread.popleft()
        assert (reader.read(chunk) == n_read[0]).all()
        n_read[0] += 1
        writer.release()

    n_read = [0]
    for number in range(10):
        unread.append(writer.write([np.full((8, 8, 3), number, np.uint8)] * (number % 5 + 1), read_one))
        assert len(reader.read(unread[-1])) == number % 5 + 1
    assert n_read[0] == 10 - N_CHUNKS


def test_pyav_reports_a_heartbeat_per_frame(folder: Path) -> None:
    path, calls = video(folder, "h264.ts"), []
    list(read_with_pyav(path, probe(path), np.array([47]), 224, lambda: calls.append(None)))
    assert len(calls) >= 48


def test_frames_of_any_size_can_be_requested(tmp_path: Path) -> None:
    path = videos.make_video(tmp_path / "video.mp4", n_frames=10)
    with DecoderProcess(timeout_seconds=60, size=56) as decoder:
        for result in decoder.decode([DecodeRequest(path, UniformSampling(10))]):
            frames = all_frames(result)
            assert frames.shape == (10, 56, 56, 3) and indices_shown(frames) == list(range(10))


def test_decoders_other_than_those_of_the_identity_are_refused() -> None:
    check_decoders(installed_decoders())
    with pytest.raises(
        DecodeError,
        match=r"installed are decord-0\.6\.0, pyav-18\.1\.0, the configuration asks for decord-0\.5\.0, pyav-18\.1\.0",
    ):
        check_decoders(["decord-0.5.0", "pyav-18.1.0"])


def test_the_parent_process_loads_neither_decord_nor_torch() -> None:
    program = "import sys, pipeline.video.decoding; print({'decord', 'torch', 'prefect'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "set()\n"


@pytest.mark.parametrize("path", [path for path in REAL if path.name != "corrupted.mp4"], ids=lambda path: path.name)
def test_both_decoders_read_real_videos_alike(path: Path) -> None:
    if probe(path).decoder == "decord":
        assert_decoders_agree(path, max_difference=2)


@pytest.mark.skipif(not REAL, reason="the real videos are not beside this repository")
def test_real_videos_are_read_and_the_corrupt_one_is_refused(decoder: DecoderProcess) -> None:
    reason_of = dict(zip([path.name for path in REAL], reasons(decoder, *REAL), strict=True))
    assert reason_of.pop("corrupted.mp4").startswith("corrupt: decord: ")
    assert set(reason_of.values()) <= {""}
