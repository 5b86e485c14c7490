"""The decoder process, which `pipeline.video.decoding.DecoderPool` starts: receives requests through a pipe and sends frames.

Both decoders scale to a square with swscale's bilinear filter, as the official loader does. On files that decord reads correctly,
PyAV with FFmpeg's scale filter gives the same pixels; with `VideoFrame.reformat` they differed by 0.05 to 0.65 of 255.

PyAV must be imported before decord, whose bundled libraries otherwise replace some of PyAV's.
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
from pipeline.video.frames import VideoProbe, sample_clip
from pipeline.video.image_folder import decode_image
from pipeline.video.image_names import list_images
from pipeline.video.pictures import LOG_LINE, accept_unknown_side_data, pictures, refuse_damage
from pipeline.video.probing import count_frames, probe
from pipeline.video.scaler import Scaler
from pipeline.video.video_bytes import VideoBytes

Progress = Callable[[], None]
SEEK_PIXELS = 1 << 28  # most pixels decoded between two progress calls: 128 pictures of 1920 x 1080

# The last argument is the frame up to which all frames were decoded in an earlier request, -1 for none.
ReadFrames = Callable[[Path, VideoProbe, np.ndarray, int, Progress, int], Iterator[np.ndarray]]


def read_with_decord(
    path: Path, video: VideoProbe, indices: np.ndarray, size: int, on_progress: Progress, last_decoded: int = -1
) -> Iterator[np.ndarray]:
    """Yield the frames `indices` (ascending, unique), each uint8 [size, size, 3]. Raises DecodeError or an error of decord."""
    reader = _open_with_decord(path, size)
    if len(reader) != video.n_frames:
        raise DecodeError(f"counts {len(reader)} frames, the file holds {video.n_frames}")
    visited = np.union1d(indices, _ends_of_groups(reader))
    visited = visited[visited > last_decoded]
    requested, n_read = set(indices.tolist()), 0
    with _decord_log() as read_log, suppress(Exception):  # the loop below finds the frame at fault
        for batch in _nearby_batches(reader, visited, video):
            frames = reader.get_batch(batch).asnumpy()
            refuse_damage(LOG_LINE.findall(read_log()))
            on_progress()
            n_read += len(batch)
            yield from (frame for index, frame in zip(batch, frames, strict=True) if index in requested)
    if n_read == len(visited):
        return
    reader, visited = _open_with_decord(path, size), visited[n_read:]
    with _decord_log() as read_log:
        for index, frame in zip(visited.tolist(), _read_frames(reader, visited, video, on_progress), strict=True):
            refuse_damage(LOG_LINE.findall(read_log()))
            if index in requested:
                yield frame


def _open_with_decord(path: Path, size: int) -> Any:
    # One thread: VP9 fails with more. fault_tol: by default a frame that cannot be decoded is silently replaced by another.
    return decord.VideoReader(str(path), ctx=decord.cpu(0), width=size, height=size, num_threads=1, fault_tol=1e-9)


def _nearby_batches(reader: Any, indices: np.ndarray, video: VideoProbe) -> Iterator[np.ndarray]:
    """Yield the frames in batches within `_step` of a keyframe, up to the first frame that is farther from its keyframe."""
    first, starts = 0, _starts(reader, indices)
    ends = np.searchsorted(indices, starts + _step(video))  # of the batch that begins with each frame
    while first < len(indices) and ends[first] > first:
        end = min(ends[first], first + CHUNK_FRAMES)
        yield indices[first:end]
        first = end


def _step(video: VideoProbe) -> int:
    """Return how many frames may be decoded between two progress calls."""
    return max(1, SEEK_PIXELS // (video.width * video.height or 1))


def _starts(reader: Any, indices: np.ndarray) -> np.ndarray:
    """Return the keyframe before each frame, at which decoding starts."""
    keyframes = np.union1d([0], reader.get_key_indices())
    return keyframes[np.searchsorted(keyframes, indices, side="right") - 1]


def _read_frames(reader: Any, indices: np.ndarray, video: VideoProbe, on_progress: Progress) -> Iterator[np.ndarray]:
    """Yield frames as `reader.get_batch` does, with progress calls between a keyframe and a frame far after it."""
    step, position = _step(video), 0
    for index, start in zip(indices.tolist(), _starts(reader, indices).tolist(), strict=True):
        for between in range(max(position, start) + step, index, step):
            reader.seek_accurate(between)
            on_progress()
        yield reader.get_batch([index]).asnumpy()[0]
        on_progress()
        position = index + 1


def _ends_of_groups(reader: Any) -> np.ndarray:
    """Return the last frame of each group of pictures: int64 [groups].

    Reading these decodes the whole video, so that damage is detected however few frames are requested.
    """
    return np.array([*reader.get_key_indices()[1:], len(reader)], np.int64) - 1


def read_with_pyav(
    path: Path, video: VideoProbe, indices: np.ndarray, size: int, on_progress: Progress, last_decoded: int = -1
) -> Iterator[np.ndarray]:
    """Yield frames as `read_with_decord` does, decoding from the first frame without seeking: slow but exact."""
    scale, remaining, count = Scaler(lambda _: (size, size)), deque(indices.tolist()), 0
    for count, frame in enumerate(pictures(path, on_progress) if remaining else (), start=1):
        if count - 1 == remaining[0]:
            yield scale(frame).to_ndarray()
            remaining.popleft()
        if not remaining:
            return
    if remaining:
        raise DecodeError(f"gives {count} frames, frame {remaining[0]} of {video.n_frames} was wanted")


@contextmanager
def _decord_log() -> Iterator[Callable[[], str]]:
    """Yield a function that returns the log of decord's FFmpeg, which it can only write to standard error."""
    error_stream = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        decord.logging.set_level(decord.logging.ERROR)
        try:
            yield lambda: os.pread(log.fileno(), os.fstat(log.fileno()).st_size, 0).decode(errors="replace")
        finally:
            decord.logging.set_level(decord.logging.QUIET)
            os.dup2(error_stream, 2)
            os.close(error_stream)


def read_images(
    path: Path, video: VideoProbe, indices: np.ndarray, size: int, on_progress: Progress, last_decoded: int = -1
) -> Iterator[np.ndarray]:
    """Yield frames as `read_with_decord` does, from a folder of images."""
    images, scale = list_images(path), Scaler(lambda _: (size, size))
    for index in indices:
        yield scale(decode_image(images[index])).to_ndarray()
        on_progress()


READERS: dict[str, tuple[tuple[str, ReadFrames], ...]] = {
    # decord twice, so that a passing failure does not switch to another decoder.
    "decord": (("decord", read_with_decord), ("decord", read_with_decord), ("pyav", read_with_pyav)),
    "pyav": (("pyav", read_with_pyav),),
    "images": (("images", read_images),),
}


def serve(request: DecodeRequest, size: int, send: Callable[[object], None], on_progress: Progress) -> None:
    """Answer one request. `Failed` is sent only if the bytes can be read and match the digest."""
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
    """Send the frames. Where decord fails, PyAV takes over: at once, or in a new request if decord's frames were sent."""
    try:
        video = probe(path, request.image_folder_fps, on_progress)
    except Exception as error:  # of any kind, for malformed bytes
        source.blame(error)
        is_decode_error = isinstance(error, DecodeError)
        return Failed(str(error) if is_decode_error else f"unreadable: {_first_line(error, path, request.path.name)}")
    failures = {"decord": request.decord_failure} if request.decord_failure else {}
    for decoder, read in [reader for reader in READERS[video.decoder] if reader[0] not in failures]:
        failures.pop(decoder, None)
        has_started = False
        try:
            if failures:  # where decord fails, packets may not correspond to frames
                video = count_frames(path, video, on_progress)
            clips = tuple(sample_clip(clip, request.sampling, video.n_frames, video.fps) for clip in request.clips)
            note = "; ".join(filter(None, [video.note, *failures.values()]))
            held = request.held.get(decoder, ())
            missing = np.setdiff1d(np.concatenate([clip.frame_indices for clip in clips]), held)
            frames = read(path, video, missing, size, on_progress, _last_decoded(held, missing))
            for message in _messages(Started(replace(video, decoder=decoder, note=note), clips, missing), frames):
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


def _last_decoded(held: Sequence[int], missing: np.ndarray) -> int:
    """Return the last held frame before the first missing one, or -1; the video was checked for damage up to it."""
    return max((index for index in held if not len(missing) or index < missing[0]), default=-1)


def _messages(started: Started, frames: Iterator[np.ndarray]) -> Iterator[object]:
    """Yield `started`, after the first chunk was decoded, and the frames in lists of <= 64, each uint8 [size, size, 3]."""
    chunk = list(islice(frames, CHUNK_FRAMES))
    yield started
    while chunk:
        yield chunk
        chunk = list(islice(frames, CHUNK_FRAMES))


def _first_line(error: Exception, path: Path, name: str) -> str:
    """Return an error's first line without what varies by run and machine: times, source lines, folders."""
    text = str(getattr(error, "strerror", None) or error).strip().split("\n")[0]
    return re.sub(r"\[\d\d:\d\d:\d\d\] \S+: ", "", text).replace(str(path), name)


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # returns when the parent's end of the pipe closes, however the parent ends
    os._exit(0)


def main() -> None:
    """Serve requests until the parent closes the pool."""
    # In a thread, so that a decoder that hangs ends with its parent.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    decord.logging.set_level(decord.logging.QUIET)
    av.logging.set_level(av.logging.PANIC)
    accept_unknown_side_data()
    size, alive_every_seconds = int(sys.argv[3]), float(sys.argv[4])
    memory, sent_at = ChunkMemory(int(sys.argv[2]), size), 0.0
    with suppress(EOFError, ConnectionError), Connection(int(sys.argv[1])) as connection:

        def send(message: object) -> None:
            nonlocal sent_at
            if isinstance(message, list):
                message = memory.write(message, release)
            connection.send(message)
            sent_at = time.monotonic()

        def release() -> None:
            assert isinstance(connection.recv(), ChunkRead)  # the next request comes only after `Finished`
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
