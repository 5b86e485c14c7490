"""Annotation files of any data set -> questions in one schema."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import astuple, replace
from operator import attrgetter
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from cache.errors import SevilaError
from cache.tables import Schema
from pipeline.batching import runs_of
from pipeline.datasets.adapter import group_of
from pipeline.datasets.question import Question, QuestionClip, Video
from pipeline.datasets.readers.subtitles import Cues, files_of_videos, read_cues
from pipeline.datasets.readers.text_file import digests_of_what_is_read
from pipeline.datasets.registry import adapter_named, adapter_names, read_split
from pipeline.engine.output import Output
from pipeline.engine.sources import AnnotationFiles
from pipeline.engine.stage import Artifact, Config, RunContext, stage
from pipeline.engine.typed_rows import ByKey, Grouped
from pipeline.models.prompts import has_subtitles

log = logging.getLogger("sevila")


class Questions(Artifact):
    """The questions of one split, the videos they ask about, and the annotation rows that could not be used."""

    kind = "questions"
    tables = {
        "questions": Schema(
            2,
            question_id="string",
            video_id="string",
            clip_id="string",  # the video id, with the bounds appended where the question has any
            question="string",  # as it is asked
            options="list<string>",  # empty: a query that asks for moments
            answer_index="int8",  # null: the file does not say which option is right
            question_type="string",  # as the data set has it; empty where it has none
            question_group="string",  # of several types, as the data set reports them; empty where it has none
            start_seconds="float64",  # null: from the start of the video
            end_seconds="float64",  # null: to its end
            note="string",  # what was made of odd values in the row; empty when nothing was odd
        ),
        # The parts of the video that answer a question, where the data set knows them: no row for a question without.
        "moments": Schema(1, question_id="string", start_seconds="float64", end_seconds="float64"),
        # How well every 2 s of the video show what a query asks for, in the video's order; no rows where nobody rated them.
        "ratings": Schema(1, question_id="string", clip="int32", ratings="list<float32>"),  # one an annotator, 0 to 4
        "videos": Schema(2, video_id="string", path="string", other_paths="list<string>"),
        "rejected": Schema(1, file="string", line="int32", reason="string"),
        # What is said, in the video's time; no rows unless they were asked for. An end may be infinite: that of the video.
        "subtitles": Schema(1, video_id="string", start_seconds="float64", end_seconds="float64", text="string"),
    }

    def questions(self) -> Sequence[Question]:
        """Return the questions in the order of their file, without their moments and ratings."""
        return self.typed_rows("questions", Question)

    def clips(self) -> Sequence[QuestionClip]:
        """Return what each of the questions is about, in the same order."""
        return self.typed_rows("questions", QuestionClip)

    def by_id(self) -> Mapping[str, Question]:
        """Return the questions by their ids, in the same order."""
        rows = self.questions()  # first, as reading the texts takes most
        return ByKey(self.column("questions", "question_id"), rows)

    def by_video(self) -> Mapping[str, Sequence[Question]]:
        """Return the questions of each video, in the same order."""
        rows = self.questions()
        return Grouped(self.column("questions", "video_id"), rows)

    def true_moments(self) -> dict[str, np.ndarray]:
        """Return the true moments, [G, 2] in seconds, of the questions for which they are known."""
        windows: dict[str, list[list[float]]] = defaultdict(list)
        table = self.columns("moments", "question_id", "start_seconds", "end_seconds")
        for question_id, *window in zip(*table.values(), strict=True):
            windows[question_id].append(window)
        return {question_id: np.array(values, np.float64) for question_id, values in windows.items()}

    def subtitles(self) -> dict[str, Cues]:
        """Return what is said in each video that has subtitles, by its id."""
        table = self.columns("subtitles", *self.tables["subtitles"].columns)
        video_ids, *columns = table.values()
        return {id: Cues(*(column[where] for column in columns)) for id, where in runs_of(video_ids).items()}

    def subtitles_for(self, template: str) -> dict[str, Cues] | None:
        """Return `subtitles`, or None where a scorer's template does not want them.

        Raises:
            SevilaError: it does, and the questions have none.
        """
        if not has_subtitles(template):
            return None
        if "subtitles" not in self.record.rows:
            raise SevilaError(
                f"{self.id}: was listed without subtitles, and the template {template!r} wants them; "
                "--set list_questions.subtitles=true"
            )
        return self.subtitles()


class ListQuestions(Config):
    """Which questions to ask."""

    later: ClassVar[Mapping[str, Any]] = {"subtitles": False}

    dataset: str = Field("plain", description="data set, as `sevila datasets` names it; plain: your own questions.csv")
    split: str = Field("", description="split to read, as the data set names it; plain: empty for all rows")

    @field_validator("dataset")
    @classmethod
    def _known(cls, name: str) -> str:
        adapter_named(name)
        return name

    subtitles: bool = Field(
        False, description="also read what is said in the videos, where the data set has subtitles (docs/scorers.md)"
    )

    @field_validator("subtitles")
    @classmethod
    def _has_some(cls, subtitles: bool, info: ValidationInfo) -> bool:
        name = info.data.get("dataset")
        if subtitles and name and not adapter_named(name).about.subtitles:
            having = ", ".join(each for each in adapter_names() if adapter_named(each).about.subtitles)
            raise ValueError(f"no subtitles of {name!r} are read; of these some are: {having}")
        return subtitles

    limit: int | None = Field(None, ge=1, description="keep only the first so many questions (a trial run)")


@stage(version=3, output=Questions, plan_needs_rows=True)
def list_questions(cfg: ListQuestions, run: RunContext, annotations: AnnotationFiles, *, out: Output) -> None:
    """List the questions of one split, with their videos, and report every annotation row that cannot be used."""
    source = adapter_named(cfg.dataset)
    assert annotations.path is not None
    with digests_of_what_is_read() as read:
        annotated = read_split(source, annotations.path, cfg.split)
        if cfg.subtitles:
            video_ids = {question.video_id for question in annotated.questions[: cfg.limit]}
            _write_subtitles([video for video in annotated.videos if video.video_id in video_ids], annotations, out)
    annotations.refuse_others(read)
    questions = annotated.questions[: cfg.limit]
    if not questions:
        reasons = "; ".join(f"{bad.file} line {bad.line}: {bad.reason}" for bad in annotated.rejected[:3])
        raise SevilaError(
            f"{annotations.path}: no usable question for split {cfg.split!r}; {reasons or 'the file has no row'}"
        )
    wanted = {question.video_id for question in questions}
    cells = attrgetter(*Questions.tables["questions"].columns)
    grouped = (replace(question, question_group=group_of(source, question.question_type)) for question in questions)
    out.write_tuples("questions", map(cells, grouped))
    out.write_tuples(
        "moments",
        ((question.question_id, *astuple(moment)) for question in questions for moment in question.moments),
    )
    ratings = [(question.question_id, *rating) for question in questions for rating in enumerate(question.ratings)]
    out.write_rows("ratings", [dict(zip(Questions.tables["ratings"].columns, row, strict=True)) for row in ratings])
    keys = Questions.tables["videos"].columns
    videos = [video for video in annotated.videos if video.video_id in wanted]
    out.write_rows("videos", [{key: getattr(video, key) for key in keys} for video in videos])
    out.write_rows("rejected", [vars(rejected) for rejected in annotated.rejected])
    if annotated.rejected:
        out.dropped["rejected annotation row"] += len(annotated.rejected)


def _write_subtitles(videos: Sequence[Video], annotations: AnnotationFiles, out: Output) -> None:
    files = files_of_videos(videos, annotations.subtitle_names)
    rows = [
        {"video_id": video.video_id, **cue._asdict()}
        for video in videos
        if video.video_id in files
        for cue in read_cues(files[video.video_id], video.subtitles_from)
    ]
    out.write_rows("subtitles", rows)
    n_without = len(videos) - len({row["video_id"] for row in rows})
    if n_without:
        log.warning("%d of %d videos have no subtitles", n_without, len(videos))
        out.dropped["video without subtitles"] += n_without
