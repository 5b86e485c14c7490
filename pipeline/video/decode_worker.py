"""The decoder process: reads requests from a pipe, sends frames. Started by `pipeline.video.decoding.DecoderPool`, never by hand.

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
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import av
import decord
import numpy as np

from cache.errors import DecodeError, ReadingError
from pipeline.video.chunk_memory import CHUNK_FRAMES, ChunkMemory, ChunkRead
from pipeline.video.decode_messages import Alive, BytesRead, DecodeRequest, Failed, Finished, Started, Trouble
from pipeline.video.decoding import union_of_frames
from pipeline.video.frames import VideoProbe, sample_clip
from pipeline.video.image_folder import decode_image
from pipeline.video.image_names import list_images
from pipeline.video.pictures import accept_unknown_side_data, logged_lines, pictures, refuse_damage
from pipeline.video.probing import count_frames, probe
from pipeline.video.scaler import Scaler
from pipeline.video.video_bytes import VideoBytes

Progress = Callable[[], None]
SEEK_PIXELS = 1 << 28  # decoded between two signs of life: 128 pictures of 1920 x 1080

# The last argument is the last frame up to which all were decoded before, -1 for none.
ReadFrames = Callable[[Path, VideoProbe, np.ndarray, int, Progress, int], Iterator[np.ndarray]]


def read_with_decord(
    path: Path, video: VideoProbe, indices: np.ndarray, size: int, on_progress: Progress, seen: int = -1
) -> Iterator[np.ndarray]:
    """Yields the frames `indices` (ascending, unique), each uint8 [size, size, 3]. Raises DecodeError or decord's."""
    reader = _open_with_decord(path, size)
    if len(reader) != video.n_frames:
        raise DecodeError(f"counts {len(reader)} frames, the file holds {video.n_frames}")
    visited = np.union1d(indices, _ends_of_groups(reader))
    visited = visited[visited > seen]
    wanted, n_read = set(indices.tolist()), 0
    with _decord_log() as reported, suppress(Exception):  # by which frame something fails is seen below
        for batch in _near_each_other(reader, visited, video):
            frames = reader.get_batch(batch).asnumpy()
            refuse_damage(logged_lines(reported()))
            on_progress()
            n_read += len(batch)
            yield from (frame for index, frame in zip(batch, frames, strict=True) if index in wanted)
    if n_read == len(visited):
        return
    reader, visited = _open_with_decord(path, size), visited[n_read:]
    with _decord_log() as reported:
        for index, frame in zip(visited.tolist(), _read_frames(reader, visited, video, on_progress), strict=True):
            refuse_damage(logged_lines(reported()))
            if index in wanted:
                yield frame


def _open_with_decord(path: Path, size: int) -> Any:
    # One thread: VP9 fails with more. fault_tol: by default a frame that cannot be decoded is silently replaced by its neighbour.
    return decord.VideoReader(str(path), ctx=decord.cpu(0), width=size, height=size, num_threads=1, fault_tol=1e-9)


def _near_each_other(reader: Any, indices: np.ndarray, video: VideoProbe) -> Iterator[np.ndarray]:
    """Yield the frames in batches that are decoded between two signs of life; up to the first one that is too far for that."""
    first, starts = 0, _starts(reader, indices)
    ends = np.searchsorted(indices, starts + _step(video))  # of the batch that begins with each frame
    while first < len(indices) and ends[first] > first:
        end = min(ends[first], first + CHUNK_FRAMES)
        yield indices[first:end]
        first = end


def _step(video: VideoProbe) -> int:
    """How many frames are decoded between two signs of life."""
    return max(1, SEEK_PIXELS // (video.width * video.height or 1))


def _starts(reader: Any, indices: np.ndarray) -> np.ndarray:
    """Where decoding begins for each frame: the keyframe before it."""
    keyframes = np.union1d([0], reader.get_key_indices())
    return keyframes[np.searchsorted(keyframes, indices, side="right") - 1]


def _read_frames(reader: Any, indices: np.ndarray, video: VideoProbe, on_progress: Progress) -> Iterator[np.ndarray]:
    """As `reader.get_batch`, with signs of life on the long way from a keyframe to a frame."""
    step, position = _step(video), 0
    for index, start in zip(indices.tolist(), _starts(reader, indices).tolist(), strict=True):
        for between in range(max(position, start) + step, index, step):
            reader.seek_accurate(between)
            on_progress()
        yield reader.get_batch([index]).asnumpy()[0]
        on_progress()
        position = index + 1


def _ends_of_groups(reader: Any) -> np.ndarray:
    """Frames that cannot be decoded without the whole of their group of pictures: int64 [groups].

    With them all of a video is decoded, so that damage is seen however few frames are asked.
    """
    return np.array([*reader.get_key_indices()[1:], len(reader)], np.int64) - 1


def read_with_pyav(
    path: Path, video: VideoProbe, indices: np.ndarray, size: int, on_progress: Progress, seen: int = -1
) -> Iterator[np.ndarray]:
    """As `read_with_decord`, from the first frame to the last one wanted, without ever seeking: slow, and right."""
    scale, wanted, count = Scaler(lambda _: (size, size)), deque(indices.tolist()), 0
    for count, frame in enumerate(pictures(path, on_progress) if wanted else (), start=1):
        if count - 1 == wanted[0]:
            yield scale(frame).to_ndarray()
            wanted.popleft()
        if not wanted:
            return
    if wanted:
        raise DecodeError(f"gives {count} frames, frame {wanted[0]} of {video.n_frames} was wanted")


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


def read_images(
    path: Path, video: VideoProbe, indices: np.ndarray, size: int, on_progress: Progress, seen: int = -1
) -> Iterator[np.ndarray]:
    """As `read_with_decord`, from a folder of images."""
    images, scale = list_images(path), Scaler(lambda _: (size, size))
    for index in indices:
        yield scale(decode_image(images[index])).to_ndarray()
        on_progress()


def in_chunks(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Frames as uint8 [<= 64, size, size, 3]."""
    while chunk := list(islice(frames, CHUNK_FRAMES)):
        yield np.stack(chunk)


READERS: dict[str, tuple[tuple[str, ReadFrames], ...]] = {
    # decord twice: what fails only in passing must not leave the video to another decoder.
    "decord": (("decord", read_with_decord), ("decord", read_with_decord), ("pyav", read_with_pyav)),
    "pyav": (("pyav", read_with_pyav),),
    "images": (("images", read_images),),
}


def serve(request: DecodeRequest, size: int, send: Callable[[object], None], on_progress: Progress) -> None:
    """Answers one request. `Failed` is sent only of bytes that can be read and are those that were identified."""
    source = VideoBytes(request.path, request.digest, request.stamp, on_progress)
    try:
        with source.checked_path(check_first=request.is_repeated) as path:
            if request.is_repeated:
                send(BytesRead())
            answer: Finished | Failed | Trouble = _decode(request, path, source, size, send, on_progress)
    except ReadingError as error:
        answer = Trouble(str(error))
    send(answer)


def _decode(
    request: DecodeRequest,
    path: Path,
    source: VideoBytes,
    size: int,
    send: Callable[[object], None],
    on_progress: Progress,
) -> Finished | Failed:
    """Sends the frames. Where decord fails, PyAV tries: at once, or in a new request if frames of decord's were sent."""
    try:
        video = probe(path, request.image_folder_fps, on_progress)
    except Exception as error:  # whatever they raise at odd bytes
        source.blame(error)
        is_ours = isinstance(error, DecodeError)
        return Failed(str(error) if is_ours else f"unreadable: {_first_line(error, path, request.path.name)}")
    failures = {"decord": request.decord_failure} if request.decord_failure else {}
    for decoder, read in [reader for reader in READERS[video.decoder] if reader[0] not in failures]:
        failures.pop(decoder, None)
        has_started = False
        try:
            if failures:  # where decord fails, a packet may not be a frame
                video = count_frames(path, video, on_progress)
            clips = tuple(sample_clip(clip, request.sampling, video.n_frames, video.fps) for clip in request.clips)
            note = "; ".join(filter(None, [video.note, *failures.values()]))
            held = request.held.get(decoder, ())
            wanted = np.setdiff1d(union_of_frames(clips), held)
            frames = read(path, video, wanted, size, on_progress, _last_seen(held, wanted))
            for message in _messages(Started(replace(video, decoder=decoder, note=note), clips, wanted), frames):
                send(message)
                has_started = True
            return Finished()
        except ConnectionError:
            raise
        except Exception as error:  # decord and FFmpeg raise many kinds
            source.blame(error)
            failures[decoder] = f"{decoder}: {_first_line(error, path, request.path.name)}"
            if has_started and decoder == "decord":  # two decoders never share a video's frames
                return Failed(failures[decoder], is_halfway=True)
            if has_started:
                break
    return Failed("corrupt: " + "; ".join(failures.values()))


def _last_seen(held: Sequence[int], wanted: np.ndarray) -> int:
    """The last frame that is held before the first one wanted, or -1: damage before it was looked for when it was decoded."""
    return max((index for index in held if not len(wanted) or index < wanted[0]), default=-1)


def _messages(started: Started, frames: Iterator[np.ndarray]) -> Iterator[object]:
    """Yield `started`, once the first frames are there or if there are none, and the frames in chunks."""
    chunks = in_chunks(frames)
    chunk = next(chunks, None)
    yield started
    while chunk is not None:
        yield chunk
        chunk = next(chunks, None)


def _first_line(error: Exception, path: Path, name: str) -> str:
    """An error's message without what differs from run to run and machine to machine: times of day, source lines, folders."""
    text = str(getattr(error, "strerror", None) or error).strip().split("\n")[0]
    return re.sub(r"\[\d\d:\d\d:\d\d\] \S+: ", "", text).replace(str(path), name)


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # returns when the parent's end of the pipe is gone, however it died
    os._exit(0)


def main() -> None:
    """Serve requests until the parent closes the pool."""
    with suppress(EOFError, ConnectionError):
        _serve_parent()


def _serve_parent() -> None:
    # Not at the end of a request but at once: a decoder that hangs would outlive its parent.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    decord.logging.set_level(decord.logging.QUIET)
    av.logging.set_level(av.logging.PANIC)
    accept_unknown_side_data()
    size, alive_every_seconds = int(sys.argv[3]), float(sys.argv[4])
    memory, sent_at = ChunkMemory(int(sys.argv[2]), size), 0.0
    with Connection(int(sys.argv[1])) as connection:

        def send(message: object) -> None:
            nonlocal sent_at
            if isinstance(message, np.ndarray):
                message = memory.write(message, release)
            connection.send(message)
            sent_at = time.monotonic()

        def release() -> None:
            assert isinstance(connection.recv(), ChunkRead)  # no request comes before this one's end was sent
            memory.release()

        def on_progress() -> None:
            if time.monotonic() - sent_at > alive_every_seconds:
                send(Alive())

        send(Alive())  # started
        while True:
            if isinstance(message := connection.recv(), DecodeRequest):
                serve(message, size, send, on_progress)
            else:
                memory.release()
