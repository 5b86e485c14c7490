"""Frames out of a video's file in its own shape: as images, or as short videos that hold just these."""

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
from typing import Any

import av

from cache.errors import DecodeError, MachineError, ReadingError
from cache.files import published
from pipeline.video.containers import best_video_stream, open_container
from pipeline.video.image_folder import decode_image
from pipeline.video.image_names import list_images
from pipeline.video.pictures import accept_unknown_side_data, nothing, orientation, pictures
from pipeline.video.scaler import Scaler
from pipeline.video.video_bytes import VideoBytes

# Close to the original: 8 bits, half the resolution of colour. In videos each picture stands for itself: no seek misses one.
JPEG = {
    "format": "image2",
    "codec": "mjpeg",
    "pixels": "yuvj420p",
    "range": "JPEG",
    "options": {"qmin": "2", "qmax": "2"},
}
PNG = {"format": "image2", "codec": "png", "pixels": "rgb24", "range": "JPEG", "options": {"compression_level": "1"}}
STILLS = {".jpg": JPEG, ".png": PNG}
H264 = {
    "format": "mp4",
    "codec": "libx264",
    "pixels": "yuv420p",
    "range": "MPEG",
    "options": {"crf": "12", "g": "1", "bf": "0", "preset": "fast"},
}

Put = Callable[[Any], None]  # takes a picture


@dataclass(frozen=True)
class WantedFile:
    """A file to write: a .jpg or .png of one frame, or an .mp4 of several, one a second; `frames` are ascending indices."""

    path: Path
    frames: tuple[int, ...]


@dataclass(frozen=True)
class WantedFiles:
    """The files to write of one video, which is read once.

    `digest` and `stamp` are those of its identification; `height` of what is written, in pixels, None for the video's own.
    """

    path: Path
    digest: str | None
    stamp: tuple[int, ...]
    files: tuple[WantedFile, ...]
    height: int | None = None


def write_files(wanted: WantedFiles) -> str:
    """Write the files of one video and return why there are none; empty if all is well. For a process of its own.

    Pictures are upright, in the shape that players show, their sides rounded to even numbers of pixels.

    Raises:
        OSError: the disk is full, say.
    """
    try:
        return write_decodable(wanted)
    except ReadingError as error:
        return str(error)


def write_decodable(wanted: WantedFiles) -> str:
    """Do as `write_files`, but raise `ReadingError` for what is no fault of the video's bytes: the same may succeed later."""
    accept_unknown_side_data()
    source = VideoBytes(wanted.path, wanted.digest, wanted.stamp, nothing)
    try:
        with ExitStack() as files:
            takers: dict[int, list[Put]] = defaultdict(list)
            for file in wanted.files:
                put = files.enter_context(_still(file.path) if file.path.suffix in STILLS else _clip(file.path))
                for index in file.frames:
                    takers[index].append(put)
            with source.checked_path(check_first=False) as path:
                scale = Scaler(partial(upright_sides, pixel_shape(path), wanted.height))
                for index, picture in _pictures(path, sorted(takers)):
                    scaled = scale(picture)
                    for put in takers[index]:
                        put(scaled)
    except _WritingError as error:
        raise error.cause from error
    except (DecodeError, av.FFmpegError) as error:
        return str(error)
    return ""


def in_processes(
    write: Callable[[WantedFiles], str], wanted: Iterable[WantedFiles], processes: int
) -> Generator[str, None, None]:
    """Yield what `write` returns of each video, in their order, from processes that are but a few videos ahead.

    Raises:
        MachineError: a process died.
    """
    ahead: deque[Future[str]] = deque()
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        try:
            for each in wanted:
                ahead.append(pool.submit(write, each))
                if len(ahead) > processes:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        except BrokenProcessPool as error:
            raise MachineError("a process that reads videos was killed; run again: what is written stays") from error
        finally:
            pool.shutdown(cancel_futures=True)


class _WritingError(Exception):
    """A file cannot be written, which is no fault of the video's."""

    def __init__(self, error: OSError | av.FFmpegError, path: Path) -> None:
        super().__init__(str(error))
        self.cause = OSError(error.errno, error.strerror, str(path.parent))


def _pictures(path: Path, indices: list[int]) -> Iterator[tuple[int, Any]]:
    if path.is_dir():
        images = list_images(path)
        yield from ((index, decode_image(images[index])) for index in indices)
        return
    wanted = iter(indices)
    index = next(wanted)
    for number, picture in enumerate(pictures(path)):
        if number == index:
            yield index, picture
            following = next(wanted, None)
            if following is None:
                return
            index = following
    raise DecodeError(f"frame {index} was wanted, and the video ends before it")


def pixel_shape(path: Path) -> Fraction:
    """Return the width of a video's pixels by their height."""
    if path.is_dir():
        return Fraction(1)
    with open_container(path) as container:
        return Fraction(best_video_stream(container).sample_aspect_ratio or 1)


def upright_sides(pixel_shape: Fraction, height: int | None, picture: Any) -> tuple[int, int]:
    """Return width and height of what a picture becomes, upright and with square pixels."""
    sides = [pixel_shape * picture.width, Fraction(picture.height)]
    if orientation(picture)[1]:  # turned by a quarter
        sides.reverse()
    factor = Fraction(height) / sides[1] if height else 1
    wide, high = (max(2, 2 * round(side * factor / 2)) for side in sides)
    return wide, high


@contextmanager
def _still(path: Path) -> Iterator[Put]:
    """Yield what takes the picture of a file, which is closed at once and appears at the block's end."""
    with published(path) as part:

        def put(picture: Any) -> None:
            with _encoded(part, path, STILLS[path.suffix]) as put_picture:
                put_picture(picture)

        yield put


@contextmanager
def _clip(path: Path) -> Iterator[Put]:
    """Yield what takes the pictures of a video, which appears when all are in it."""
    with published(path) as part, _encoded(part, path, H264) as put:
        yield put


@contextmanager
def _encoded(part: Path, path: Path, kind: dict[str, Any]) -> Iterator[Put]:
    """Yield what encodes pictures into `part`, which is to be `path`."""
    with _writing(path):
        container = av.open(str(part), "w", format=kind["format"])
    try:
        stream: Any = container.add_stream(kind["codec"], rate=1, options=kind["options"])
        stream.pix_fmt = kind["pixels"]
        stream.codec_context.thread_count = 1  # as many videos at once as there are cores
        count = 0

        def put(picture: Any) -> None:
            nonlocal count
            if not count:
                stream.width, stream.height = picture.width, picture.height
            picture = picture.reformat(
                stream.width, stream.height, kind["pixels"], src_color_range="JPEG", dst_color_range=kind["range"]
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
        # It cannot be closed after an error of writing, which is the one to report.
        with suppress(OSError, av.FFmpegError):
            container.close()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, av.FFmpegError) as error:
        raise _WritingError(error, path) from error
