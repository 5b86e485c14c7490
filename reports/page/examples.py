"""The questions of a report as paged data files, which the browser loads on demand.

The files are scripts that pass JSON to the page, because a page opened from disk can load no other kind of file.

    data/index-N.js    ids, texts, types, videos and answers of all questions, for search and filters
    data/page-N.js     options, frames, scores, keyframes and probabilities of some questions
    thumbs/S-V.js      the pictures of video V under sampling S
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from cache.printable import printable
from cache.store import Store
from pipeline.batching import cut
from pipeline.datasets.question import Question
from pipeline.selection.keyframes import RankBy
from pipeline.selection.uniform import uniform_positions
from reports.page.answered import contents_of, same_questions, single_frame_answers
from reports.page.runs import EvaluatedSetting, ReportedRun, stored_as
from stages.list_questions import Questions
from stages.sample_frames import Frames
from stages.score_frames import FrameScores

PAGE_BYTES, INDEX_BYTES = 1 << 19, 1 << 22
MAX_CELLS = 64  # of a strip; of clips with more frames, EVEN_CELLS evenly spread ones and all keyframes are shown
EVEN_CELLS = 40
Fragments = dict[str, bytes]


class Examples:
    """The questions of a report's first run, with their results in every setting of its runs."""

    def __init__(self, runs: Sequence[ReportedRun]) -> None:
        self.runs = runs
        self.store: Store = runs[0].store
        self.settings = [setting for run in runs for setting in run.settings]
        self.questions = Questions(self.store, runs[0].headline.questions).questions()
        self.frames = list(dict.fromkeys(setting.frames for setting in self.settings))
        self.scores = list(dict.fromkeys(setting.scores for setting in self.settings if setting.scores))
        self.videos = list(dict.fromkeys(question.video_id for question in self.questions))
        self.types = sorted({question.question_type for question in self.questions if question.question_type})
        self.shown_rows: dict[tuple[str, str], set[int]] = defaultdict(set)  # stored frames by (sampling id, video id)
        self._number = {question.question_id: number for number, question in enumerate(self.questions)}

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the data files into `folder` and return the metadata that the page needs."""
        folder.mkdir(parents=True, exist_ok=True)
        frames = [self._frames(id) for id in self.frames]
        scores = [self._scores(id) for id in self.scores]
        answered = [self._answered(setting) for setting in self.settings]
        moments = Questions(self.store, self.runs[0].headline.questions).true_moments()
        details = [self._detail(question, frames, scores, answered, moments) for question in self.questions]
        pages = cut([len(detail) for detail in details], PAGE_BYTES)
        for number, page in enumerate(pages):
            content = b"[" + b",".join(details[index] for index in page) + b"]"
            _write(folder / f"page-{number}.js", b"page", number, content)
        n_index = self._write_index(folder, [predictions for _, predictions in answered])
        return self._meta([page[0] for page in pages], n_index)

    def _meta(self, page_starts: list[int], n_index: int) -> dict[str, Any]:
        first, last = self.runs[0], self.runs[-1]
        n_before_last = len(self.settings) - len(last.settings)
        b = last.headline if self.runs[1:] else first.baseline
        lengths = [[int(n) for n in sorted(set(self._lengths[id]))] for id in self.frames]
        return {
            "pages": page_starts,
            "indexes": n_index,
            "types": list(map(printable, self.types)),
            "runs": [run.title for run in self.runs],
            "uniform": [
                {str(n): uniform_positions(n, self._k(id)).tolist() for n in clip_lengths}
                for id, clip_lengths in zip(self.frames, lengths, strict=True)
            ],
            "shown": [
                {str(n): self._shown(n, id) for n in clip_lengths}
                for id, clip_lengths in zip(self.frames, lengths, strict=True)
            ],
            "settings": [
                {
                    "run": number,
                    "name": setting.name,
                    "frames": self.frames.index(setting.frames),
                    "scorer": self.scores.index(setting.scores) if setting.scores else -1,
                    "answers": setting.answers is not None,
                }
                for number, run in enumerate(self.runs)
                for setting in run.settings
            ],
            "a": first.settings.index(first.headline),  # numbers of the settings that the page shows initially
            "b": -1 if b is None else n_before_last + last.settings.index(b),
        }

    def _k(self, frames: str) -> int:
        """Return the number of uniform frames to mark of a sampling: the k of the first headline or setting that uses it."""
        settings = [*(run.headline for run in self.runs), *self.settings]
        keyframes = next(
            (setting.keyframes for setting in settings if setting.frames == frames and setting.keyframes), None
        )
        return int(self.store.record(keyframes).config["k"]) if keyframes else 4

    @cached_property
    def _lengths(self) -> dict[str, set[int]]:
        return {id: set() for id in self.frames}

    def _detail(
        self,
        question: Question,
        frames: Sequence[Fragments],
        scores: Sequence[Fragments],
        answered: Sequence[tuple[Fragments, str]],
        moments: Mapping[str, np.ndarray],
    ) -> bytes:
        id = question.question_id
        true = moments.get(id)
        content = {
            "o": question.options,
            "y": question.answer_index,
            "m": [] if true is None else true.round(2).tolist(),
            "d": [question.start_seconds, question.end_seconds],
            "f": [_fragment(fragments, id) for fragments in frames],
            "c": [_fragment(fragments, id) for fragments in scores],
            "w": [_fragment(fragments, id) for fragments, _ in answered],
            "l": _fragment(self._frame_answers, id),
        }
        return orjson.dumps(content)

    def _frames(self, id: str) -> Fragments:
        """Return the frames of each question's clip: seconds and rows of their pictures; also fills `shown_rows`."""
        clips, lengths = Frames(self.store, id).clips(), self._lengths[id]
        clip_fragments: dict[tuple[str, str], bytes] = {}
        fragments = {}
        for question in self.questions:
            key = (question.video_id, question.clip_id)
            if key in clips and key not in clip_fragments:
                clip = clips[key]
                n = len(clip["row"])
                lengths.add(n)
                clip_fragments[key] = orjson.dumps({"s": clip["seconds"].round(2).tolist(), "r": clip["row"].tolist()})
                self.shown_rows[id, question.video_id].update(clip["row"][self._shown(n, id)].tolist())
            if key in clip_fragments:
                fragments[question.question_id] = clip_fragments[key]
        return fragments

    def _shown(self, n_frames: int, frames: str) -> list[int]:
        """Return the positions of a clip's frames that are always shown: all, or evenly spread ones of a long clip."""
        if n_frames <= MAX_CELLS:
            return list(range(n_frames))
        marked = uniform_positions(n_frames, self._k(frames))
        return sorted({*uniform_positions(n_frames, EVEN_CELLS).tolist(), *marked.tolist()})

    def _scores(self, id: str) -> Fragments:
        scores = stored_as(self.store, id, FrameScores).by_question()
        settings = [setting for setting in self.settings if setting.scores == id]
        question_ids = self._same_question_ids(settings[0])
        keyframes = [setting.keyframes for setting in settings if setting.keyframes]
        rank_by: RankBy = self.store.record(keyframes[0]).config["rank_by"] if keyframes else "logit_yes"
        return {
            question_id: orjson.dumps([float(f"{value:.4g}") for value in values.tolist()])
            for question_id, values in scores.ranking(rank_by).items()
            if question_id in question_ids
        }

    def _same_question_ids(self, setting: EvaluatedSetting) -> set[str]:
        """Return the ids of the questions that are the same in a setting."""
        is_own = setting.questions == self.runs[0].headline.questions
        return set(self._number) if is_own else same_questions(self.store, setting, self.questions)

    def _answered(self, setting: EvaluatedSetting) -> tuple[Fragments, str]:
        """Return the results of a setting for each question, and the chosen options as a string of one character each."""
        contents, rows = contents_of(self.store, setting, self._same_question_ids(setting))
        for video_id, question_rows in rows:
            self.shown_rows[setting.frames, video_id].update(question_rows)
        letters = ["-"] * len(self.questions)
        for id, content in contents.items():
            if (prediction := content.pop("prediction", None)) is not None:
                letters[self._number[id]] = chr(48 + prediction)
        return {id: orjson.dumps(content) for id, content in contents.items()}, "".join(letters)

    @cached_property
    def _frame_answers(self) -> Fragments:
        headline = self.runs[0].headline
        return single_frame_answers(self.store, headline.questions, headline.frames)

    def _write_index(self, folder: Path, predictions: Sequence[str]) -> int:
        video_of = {video_id: number for number, video_id in enumerate(self.videos)}
        type_of = {name: number for number, name in enumerate(self.types)}
        sizes = [len(question.question) + len(question.question_id) + 60 for question in self.questions]
        files = cut(sizes, INDEX_BYTES)
        for number, file in enumerate(files):
            questions = [self.questions[index] for index in file]
            content = {
                "i": [question.question_id for question in questions],
                "q": [question.question for question in questions],
                "t": [type_of.get(question.question_type, -1) for question in questions],
                "v": [video_of[question.video_id] for question in questions],
                "y": "".join("-" if q.answer_index is None else chr(48 + q.answer_index) for q in questions),
                "p": [text[file[0] : file[-1] + 1] for text in predictions],
            } | ({"videos": self.videos} if number == 0 else {})
            _write(folder / f"index-{number}.js", b"index", number, orjson.dumps(content))
        return len(files)


def _fragment(fragments: Fragments, id: str) -> orjson.Fragment | None:
    return orjson.Fragment(fragments[id]) if id in fragments else None


def _write(path: Path, function: bytes, number: int, content: bytes) -> None:
    path.write_bytes(b"R.%s(%d,%s)\n" % (function, number, content))
