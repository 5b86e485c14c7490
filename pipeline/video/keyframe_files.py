"""Extraction of frames from a video in its own shape: as images, or as a short video of these frames."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import av

from cache.errors import DecodeError, MachineError, ReadingError
from cache.files import published
from pipeline.video.containers import best_video_stream, open_container
from pipeline.video.image_folder import decode_image
from pipeline.video.image_names import list_images
from pipeline.video.pictures import accept_unknown_side_data, ignore_progress, orientation, pictures
from pipeline.video.scaler import Scaler
from pipeline.video.video_bytes import VideoBytes


class OutputFormat(NamedTuple):
    """FFmpeg's settings of a kind of output file."""

    format: str
    codec: str
    pixel_format: str
    color_range: str
    options: dict[str, str]


# Close to the original: 8 bits, half the resolution of colour. All pictures of videos are keyframes, for exact seeks.
STILLS = {
    ".jpg": OutputFormat("image2", "mjpeg", "yuvj420p", "JPEG", {"qmin": "2", "qmax": "2"}),
    ".png": OutputFormat("image2", "png", "rgb24", "JPEG", {"compression_level": "1"}),
}
H264 = OutputFormat("mp4", "libx264", "yuv420p", "MPEG", {"crf": "12", "g": "1", "bf": "0", "preset": "fast"})

Put = Callable[[Any], None]  # writes a picture


@dataclass(frozen=True)
class KeyframeFile:
    """A file to write: a .jpg or .png of one frame, or an .mp4 of several, one a second; `frames` are ascending indices."""

    path: Path
    frames: tuple[int, ...]


@dataclass(frozen=True)
class KeyframeFiles:
    """The files to write from one video, which is read once.

    `digest` and `stamp` come from its identification; `height` is that of the output in pixels, None for the video's own.
    """

    path: Path
    digest: str | None
    stamp: tuple[int, ...]
    files: tuple[KeyframeFile, ...]
    height: int | None = None


def write_files(video: KeyframeFiles) -> str:
    """Write the files from one video and return an error message, or "". To be run in a process of its own.

    Pictures are upright, in the display aspect ratio, with sides rounded to even numbers of pixels.

    Raises:
        OSError: a file cannot be written, for example because the disk is full.
    """
    try:
        return write_decodable(video)
    except ReadingError as error:
        return str(error)


def write_decodable(video: KeyframeFiles) -> str:
    """Do as `write_files`, but raise `ReadingError` for a failure of the machine, which may not recur."""
    accept_unknown_side_data()
    source = VideoBytes(video.path, video.digest, video.stamp, ignore_progress)
    try:
        with ExitStack() as files:
            writers: dict[int, list[Put]] = defaultdict(list)  # by frame index
            for file in video.files:
                put = files.enter_context(_still(file.path) if file.path.suffix in STILLS else _clip(file.path))
                for index in file.frames:
                    writers[index].append(put)
            with source.checked_path(check_first=False) as path:
                scale = Scaler(partial(upright_sides, pixel_shape(path), video.height))
                for index, picture in _pictures(path, sorted(writers)):
                    scaled = scale(picture)
                    for put in writers[index]:
                        put(scaled)
    except _WritingError as error:
        raise error.cause from error
    except (DecodeError, av.FFmpegError) as error:
        return str(error)
    return ""


def in_processes(
    write: Callable[[KeyframeFiles], str], videos: Iterable[KeyframeFiles], processes: int
) -> Generator[str, None, None]:
    """Yield the results of `write` for each video, in order, from processes that run a few videos ahead.

    Raises:
        MachineError: a process died.
    """
    ahead: deque[Future[str]] = deque()
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        try:
            for video in videos:
                ahead.append(pool.submit(write, video))
                if len(ahead) > processes:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        except BrokenProcessPool as error:
            raise MachineError("a process that reads videos was killed; run again: written files stay") from error
        finally:
            pool.shutdown(cancel_futures=True)


class _WritingError(Exception):
    """An output file cannot be written."""

    def __init__(self, error: OSError | av.FFmpegError, path: Path) -> None:
        super().__init__(str(error))
        self.cause = OSError(error.errno, error.strerror, str(path.parent))


def _pictures(path: Path, indices: list[int]) -> Iterator[tuple[int, Any]]:
    if path.is_dir():
        images = list_images(path)
        yield from ((index, decode_image(images[index])) for index in indices)
        return
    remaining = deque(indices)
    for number, picture in enumerate(pictures(path)):
        if number == remaining[0]:
            yield remaining.popleft(), picture
            if not remaining:
                return
    raise DecodeError(f"frame {remaining[0]} was wanted, and the video ends before it")


def pixel_shape(path: Path) -> Fraction:
    """Return the pixel aspect ratio (width / height) of a video."""
    if path.is_dir():
        return Fraction(1)
    with open_container(path) as container:
        return Fraction(best_video_stream(container).sample_aspect_ratio or 1)


def upright_sides(pixel_shape: Fraction, height: int | None, picture: Any) -> tuple[int, int]:
    """Return the even width and height of a picture when it is upright and its pixels are square."""
    sides = [pixel_shape * picture.width, Fraction(picture.height)]
    if orientation(picture)[1]:  # turned by a quarter
        sides.reverse()
    factor = Fraction(height) / sides[1] if height else 1
    upright_width, upright_height = (max(2, 2 * round(side * factor / 2)) for side in sides)
    return upright_width, upright_height


@contextmanager
def _still(path: Path) -> Iterator[Put]:
    """Yield a function that writes the picture of an image file; the file appears when the block ends."""
    with published(path) as part:

        def put(picture: Any) -> None:
            with _encoded(part, path, STILLS[path.suffix]) as put_picture:
                put_picture(picture)

        yield put


@contextmanager
def _clip(path: Path) -> Iterator[Put]:
    """Yield a function that appends pictures to a video; the file appears when the block ends."""
    with published(path) as part, _encoded(part, path, H264) as put:
        yield put


@contextmanager
def _encoded(part: Path, path: Path, output: OutputFormat) -> Iterator[Put]:
    """Yield a function that encodes pictures into `part`, the temporary file of `path`."""
    with _writing(path):
        container = av.open(str(part), "w", format=output.format)
    try:
        stream: Any = container.add_stream(output.codec, rate=1, options=output.options)
        stream.pix_fmt = output.pixel_format
        stream.codec_context.thread_count = 1  # videos are written in parallel
        count = 0

        def put(picture: Any) -> None:
            nonlocal count
            if not count:
                stream.width, stream.height = picture.width, picture.height
            picture = picture.reformat(
                *(stream.width, stream.height, output.pixel_format),
                src_color_range="JPEG",
                dst_color_range=output.color_range,
            )
            picture.pts, picture.time_base = count, Fraction(1)
            with _writing(path):
                container.mux(stream.encode(picture))
            count += 1

        yield put
        with _writing(path):
            container.mux(stream.encode(None))
            container.close()
    finally:
        # Closing fails after a write error, which is the one to report.
        with suppress(OSError, av.FFmpegError):
            container.close()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, av.FFmpegError) as error:
        raise _WritingError(error, path) from error
