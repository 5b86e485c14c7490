"""The decoder process: reads requests from a pipe, sends frames. Started by `pipeline.decoding.DecoderPool`, never by hand.

Both decoders scale with swscale's bilinear filter straight to a square, as the official loader does. On files that decord reads
right, PyAV with FFmpeg's scale filter gives the same pixels; with `VideoFrame.reformat` it differed by 0.05 to 0.65 of 255.

PyAV is imported before decord: in the other order decord's bundled libraries take the place of some of PyAV's.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import av
import av.filter
import decord
import numpy as np

from cache.errors import DecodeError
from pipeline.decoding import CHUNK_FRAMES, Alive, DecodeRequest, Failed, Finished, Started, union_of_frames
from pipeline.frames import VideoProbe, sample_clip
from pipeline.probing import best_video_stream, list_images, probe

Progress = Callable[[], None]
# Decoders patch a damaged picture with its neighbours and say so only in their logs: h264, then mpeg4.
DAMAGE = re.compile(r"error while decoding MB|Error at MB|damaged at")

Reader = Callable[[Path, VideoProbe, np.ndarray, int, Progress], Iterator[np.ndarray]]


def read_with_decord(
    path: Path, video: VideoProbe, indices: np.ndarray, size: int, on_progress: Progress
) -> Iterator[np.ndarray]:
    """Yields the frames `indices` (ascending, unique) in chunks, uint8 [<= 64, size, size, 3]. Raises DecodeError or decord's."""
    # One thread: VP9 fails with more. fault_tol: by default a frame that cannot be decoded is silently replaced by its neighbour.
    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), width=size, height=size, num_threads=1, fault_tol=1e-9)
    if len(reader) != video.n_frames:
        raise DecodeError(f"counts {len(reader)} frames, the file holds {video.n_frames}")
    with _decord_log() as reported:
        for start in range(0, len(indices), CHUNK_FRAMES):
            chunk = reader.get_batch(indices[start : start + CHUNK_FRAMES]).asnumpy()
            _refuse_damage(reported())
            yield chunk
            on_progress()


def read_with_pyav(
    path: Path, video: VideoProbe, indices: np.ndarray, size: int, on_progress: Progress
) -> Iterator[np.ndarray]:
    """As `read_with_decord`, from the first frame to the last one wanted, without ever seeking: slow, and right."""
    wanted, position, count = indices.tolist(), 0, 0
    if not wanted:
        return
    scale = Scaler(size)
    chunk: list[np.ndarray] = []
    with _pyav_log() as log, av.open(str(path)) as container:
        stream = best_video_stream(container)
        stream.codec_context.thread_count = 1  # the pool's workers are the parallelism
        for frame in container.decode(stream):
            on_progress()
            _refuse_damage("\n".join(message for _, _, message in log))
            log.clear()
            if frame.is_corrupt:
                raise DecodeError(f"frame {count} is damaged")
            if count == wanted[position]:
                chunk.append(scale(frame))
                position += 1
            count += 1
            if chunk and (len(chunk) == CHUNK_FRAMES or position == len(wanted)):
                yield np.stack(chunk)
                chunk = []
            if position == len(wanted):
                return
    raise DecodeError(f"gives {count} frames, frame {wanted[position]} of {video.n_frames} was wanted")


@contextmanager
def _decord_log() -> Iterator[Callable[[], str]]:
    """Gives a function that returns what decord's FFmpeg has reported: on standard error, it knows no other way."""
    own_error_stream = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        decord.logging.set_level(decord.logging.ERROR)
        try:
            yield lambda: os.pread(log.fileno(), os.fstat(log.fileno()).st_size, 0).decode(errors="replace")
        finally:
            decord.logging.set_level(decord.logging.QUIET)
            os.dup2(own_error_stream, 2)
            os.close(own_error_stream)


@contextmanager
def _pyav_log() -> Iterator[list[tuple[int, str, str]]]:
    """What PyAV's FFmpeg reports: (level, source, message)."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture(local=False) as log:
            yield log
    finally:
        av.logging.set_level(level)


def _refuse_damage(log: str) -> None:
    if found := DAMAGE.search(log):
        line_end = log.find("\n", found.start())
        raise DecodeError(f"damaged picture: {log[found.start() : line_end if line_end >= 0 else None]}")


def read_images(
    path: Path, video: VideoProbe, indices: np.ndarray, size: int, on_progress: Progress
) -> Iterator[np.ndarray]:
    """As `read_with_decord`, from a folder of images."""
    images = list_images(path)
    for start in range(0, len(indices), CHUNK_FRAMES):
        chunk = []
        for index in indices[start : start + CHUNK_FRAMES]:
            chunk.append(_read_image(images[index], size))
            on_progress()
        yield np.stack(chunk)


def _read_image(file_path: Path, size: int) -> np.ndarray:
    try:
        with file_path.open("rb") as file, av.open(file, "r") as container:
            for frame in container.decode(best_video_stream(container)):
                return Scaler(size)(frame)
    except (av.FFmpegError, OSError) as error:
        raise DecodeError(f"{file_path.name}: {error.strerror or error}") from None
    raise DecodeError(f"{file_path.name}: holds no picture")


class Scaler:
    """Turns decoded frames upright, squashes them to `size` x `size` and converts them to RGB, in this order, as decord does."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.graph: Any = None
        self.input_format: tuple[object, ...] = ()

    def __call__(self, frame: Any) -> np.ndarray:
        input_format = (frame.width, frame.height, frame.format.name, frame.rotation)
        if input_format != self.input_format:  # some streams change resolution on the way
            self.graph, self.input_format = self._build(frame), input_format
        self.graph.push(frame)
        return self.graph.pull().to_ndarray()

    def _build(self, frame: Any) -> Any:
        # The angle, anticlockwise, by which a player turns the picture.
        turns = {90: [("transpose", "cclock")], 180: [("hflip", ""), ("vflip", "")], 270: [("transpose", "clock")]}
        upright = turns.get(frame.rotation % 360, [])
        graph = av.filter.Graph()
        graph.threads = 1
        nodes = [
            graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
        ]
        scale = ("scale", f"{self.size}:{self.size}:flags=bilinear")
        nodes += [graph.add(name, args) for name, args in [*upright, scale, ("format", "rgb24")]]
        graph.link_nodes(*nodes, graph.add("buffersink")).configure()
        return graph


READERS: dict[str, tuple[tuple[str, Reader], ...]] = {
    "decord": (("decord", read_with_decord), ("pyav", read_with_pyav)),
    "pyav": (("pyav", read_with_pyav),),
    "images": (("images", read_images),),
}


def serve(request: DecodeRequest, size: int, send: Callable[[object], None], on_progress: Progress) -> None:
    """Answers one request. If decord fails before its first chunk, PyAV tries; two decoders never share a video's frames."""
    try:
        video = probe(request.path, request.image_folder_fps, on_progress)
    except DecodeError as error:
        return send(Failed(str(error)))
    clips = tuple(sample_clip(clip, request.sampling, video.n_frames, video.fps) for clip in request.clips)
    indices = union_of_frames(clips)
    failures: list[str] = []
    for decoder, read in READERS[video.decoder]:
        note = "; ".join(filter(None, [video.note, *failures]))
        started = Started(replace(video, decoder=decoder, note=note), clips)
        has_started = False
        try:
            for chunk in read(request.path, video, indices, size, on_progress):
                if not has_started:
                    send(started)
                    has_started = True
                send(chunk)
            if not has_started:
                send(started)  # no clip, no frames
            return send(Finished())
        except ConnectionError:
            raise
        except Exception as error:  # decord and FFmpeg raise many kinds; all of them are this video's failure
            failures.append(f"{decoder}: {_first_line(error, request.path)}")
            if has_started:
                break
    send(Failed("corrupt: " + "; ".join(failures), video))


def _first_line(error: Exception, path: Path) -> str:
    """An error's message without what differs from run to run and machine to machine: times of day, source lines, folders."""
    text = str(getattr(error, "strerror", None) or error).strip().split("\n")[0]
    return re.sub(r"\[\d\d:\d\d:\d\d\] \S+: ", "", text).replace(str(path), path.name)


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # returns when the parent's end of the pipe is gone, however it died
    os._exit(0)


def main() -> None:
    # Not at the end of a request but at once: a decoder that hangs would outlive its parent.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    decord.logging.set_level(decord.logging.QUIET)
    av.logging.set_level(av.logging.PANIC)
    size = int(sys.argv[2])
    sent_at = 0.0
    with Connection(int(sys.argv[1])) as connection:

        def send(message: object) -> None:
            nonlocal sent_at
            connection.send(message)
            sent_at = time.monotonic()

        def on_progress() -> None:
            if time.monotonic() - sent_at > 1:
                send(Alive())

        while True:
            serve(connection.recv(), size, send, on_progress)


if __name__ == "__main__":
    with suppress(EOFError, ConnectionError):  # the parent has closed the pool
        main()
