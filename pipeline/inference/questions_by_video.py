"""Questions about keyframes as pictures: each video is decoded once, in parallel to the answering, into temporary files."""

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
    from pipeline.video.keyframe_files import KeyframeFiles


class QuestionsOfVideo(NamedTuple):
    """A video's file and questions, in the order of Keyframes."""

    video: VideoFile
    sampled: SampledVideo
    questions: list[tuple[Question, ChosenFrames]]

    @property
    def askable(self) -> list[tuple[Question, ChosenFrames]]:
        """The questions that can be asked if the video can be read."""
        return [
            (question, chosen)
            for question, chosen in self.questions
            if not chosen.reason and not why_not_asked(question)
        ]

    @property
    def frame_indices(self) -> list[int]:
        """The distinct keyframes of the questions that can be asked."""
        return sorted({index for _, chosen in self.askable for index in chosen.frame_indices})

    @property
    def problem(self) -> Reason:
        """Why the video is not read; empty if it is."""
        if self.video.path is None:
            return Reason(self.video.reason)
        if self.video.digest != self.sampled.content_digest:
            return Reason(f"{UNREADABLE}: other bytes than those that its frames were sampled from")
        return Reason() if self.askable else Reason("not_asked")

    def pixels_of_one(self, height: int | None) -> int:
        """Return the number of pixels of a picture with this height, or the video's own; 0 if the size is unknown."""
        width, video_height = self.sampled.width or 0, self.sampled.height or 0
        return int(width * video_height * ((height / video_height) ** 2 if height and video_height else 1.0))


def ask_videos(
    videos: Sequence[QuestionsOfVideo], reader: PictureReader, height: int | None, processes: int
) -> Iterator[list[Callable[[], WrittenAnswer]]]:
    """Yield for each video the functions that wait for the answers to its questions.

    Args:
        height: of the pictures, in pixels; None for the videos' own.
        processes: number of processes that decode.

    Raises:
        ReadingError: a video cannot be read because of the machine.
        MachineError: a process died.
    """
    from pipeline.video.keyframe_files import in_processes, write_decodable  # here, as most commands do not decode

    with TemporaryDirectory(prefix="sevila-keyframes-") as root:
        folders = [Path(root, str(number)) for number in range(len(videos))]
        readable = [(video, folder) for video, folder in zip(videos, folders, strict=True) if not video.problem]
        requests = (_request(video, folder, reader.suffix, height) for video, folder in readable)
        with closing(in_processes(write_decodable, requests, processes)) as written:
            for video, folder in zip(videos, folders, strict=True):
                problem = video.problem or _decoding_problem(video.video.video_id, written)
                yield [_ask(question, chosen, problem, folder, reader) for question, chosen in video.questions]
                rmtree(folder, ignore_errors=True)


def _request(asked: QuestionsOfVideo, folder: Path, suffix: str, height: int | None) -> KeyframeFiles:
    from pipeline.video.keyframe_files import KeyframeFile, KeyframeFiles

    folder.mkdir()
    files = [KeyframeFile(_picture(folder, index, suffix), (index,)) for index in asked.frame_indices]
    video = asked.video
    assert video.path is not None
    return KeyframeFiles(video.path, video.digest, video.stamp, tuple(files), height)


def _picture(folder: Path, index: int, suffix: str) -> Path:
    return folder / f"{index:08d}{suffix}"


def _decoding_problem(video_id: str, written: Iterator[str]) -> Reason:
    """Return why the next video's keyframes cannot be decoded; empty if they are written."""
    try:
        problem = next(written)
    except ReadingError as error:
        raise ReadingError(
            f"video {video_id!r}: {error}; run the same command again when the cause is fixed"
        ) from error
    return Reason(f"{UNREADABLE}: {problem}") if problem else Reason()


def _ask(
    question: Question, chosen: ChosenFrames, problem: Reason, folder: Path, reader: PictureReader
) -> Callable[[], WrittenAnswer]:
    reason = chosen.reason or why_not_asked(question) or problem
    if reason:
        return lambda: WrittenAnswer(reason)
    return reader.ask(question, [_picture(folder, index, reader.suffix) for index in chosen.frame_indices])
