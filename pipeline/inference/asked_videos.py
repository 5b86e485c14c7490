"""Questions about keyframes as pictures: each video is decoded once, beside the answering, and none of its pictures stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from cache.errors import ReadingError
from pipeline.datasets.question import Question
from pipeline.engine.sources import VideoFile
from pipeline.inference.written_answers import UNREADABLE, PictureReader, WrittenAnswer, why_not_asked
from pipeline.reasons import Reason
from pipeline.selection.keyframes import ChosenFrames
from pipeline.video.frames import SampledVideo

if TYPE_CHECKING:
    from pipeline.video.keyframe_files import WantedFiles


class AskedVideo(NamedTuple):
    """The questions of one video, in Keyframes' order, and its file."""

    video: VideoFile
    sampled: SampledVideo
    questions: list[tuple[Question, ChosenFrames]]

    @property
    def askable(self) -> list[tuple[Question, ChosenFrames]]:
        """Those that can be asked if the video can be read."""
        return [each for each in self.questions if not each[1].reason and not why_not_asked(each[0])]

    @property
    def frame_indices(self) -> list[int]:
        """The distinct frames that its questions are answered from."""
        return sorted({index for _, chosen in self.askable for index in chosen.frame_indices})

    @property
    def problem(self) -> Reason:
        """Why none of its frames is read; empty if they are."""
        if self.video.path is None:
            return Reason(self.video.reason)
        if self.video.digest != self.sampled.content_digest:
            return Reason(f"{UNREADABLE}: other bytes than those that its frames were sampled from")
        return Reason() if self.askable else Reason("not_asked")

    def pixels_of_one(self, height: int | None) -> int:
        """Return how many pixels one of its pictures has, of a height or of the video's own; 0 where that is not known."""
        width, own = self.sampled.width or 0, self.sampled.height or 0
        return int(width * own * ((height / own) ** 2 if height and own else 1.0))


def ask_videos(
    wanted: Sequence[AskedVideo], reader: PictureReader, height: int | None, processes: int
) -> Iterator[list[Callable[[], WrittenAnswer]]]:
    """Yield, video by video, what waits for the answer of each of its questions.

    Args:
        height: of the pictures, in pixels; None for the videos' own.
        processes: that decode.

    Raises:
        ReadingError: a video cannot be read now, which is no fault of its bytes.
        MachineError: a process died.
    """
    from pipeline.video.keyframe_files import in_processes, write_decodable  # here: most commands decode nothing

    with TemporaryDirectory(prefix="sevila-keyframes-") as folder:
        places = [Path(folder, str(number)) for number in range(len(wanted))]
        readable = [each for each in zip(wanted, places, strict=True) if not each[0].problem]
        requests = (_request(*each, reader.suffix, height) for each in readable)
        with closing(in_processes(write_decodable, requests, processes)) as written:
            for of_video, place in zip(wanted, places, strict=True):
                problem = of_video.problem or _decoding_problem(of_video.video.video_id, written)
                yield [_ask(*each, problem, place, reader) for each in of_video.questions]
                rmtree(place, ignore_errors=True)


def _request(of_video: AskedVideo, place: Path, suffix: str, height: int | None) -> WantedFiles:
    from pipeline.video.keyframe_files import WantedFile, WantedFiles

    place.mkdir()
    files = [WantedFile(_picture(place, index, suffix), (index,)) for index in of_video.frame_indices]
    video = of_video.video
    assert video.path is not None
    return WantedFiles(video.path, video.digest, video.stamp, tuple(files), height)


def _picture(place: Path, index: int, suffix: str) -> Path:
    return place / f"{index:08d}{suffix}"


def _decoding_problem(video_id: str, written: Iterator[str]) -> Reason:
    """Return why the next video's keyframes cannot be decoded; empty if they are written."""
    try:
        problem = next(written)
    except ReadingError as error:
        raise ReadingError(f"video {video_id!r}: {error}; the same command goes on when the cause is gone") from error
    return Reason(f"{UNREADABLE}: {problem}") if problem else Reason()


def _ask(
    question: Question, chosen: ChosenFrames, problem: Reason, place: Path, reader: PictureReader
) -> Callable[[], WrittenAnswer]:
    reason = chosen.reason or why_not_asked(question) or problem
    if reason:
        return lambda: WrittenAnswer(reason)
    return reader.ask(question, [_picture(place, index, reader.suffix) for index in chosen.frame_indices])
