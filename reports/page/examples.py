"""Every question of a report as paged data files: what browsers load, a page at a time, when somebody looks at a question.

They are scripts that hand JSON to the page, as a page that was opened from a disk may read no other files.

    data/index-N.js    ids, texts, types, videos and what each setting answered: to search and filter all questions at once
    data/page-N.js     options, frames, scores, keyframes and probabilities of some questions
    thumbs/S-V.js      the pictures of video V under sampling S
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
MOST_CELLS = 64  # of a strip; of clips with more frames, EVEN_CELLS evenly spread ones are shown, and all keyframes
EVEN_CELLS = 40
Fragments = dict[str, bytes]


@dataclass(frozen=True)
class ShownSetting:
    """A setting that a reader may look at; `run` is the number of its run in the report."""

    run: int
    setting: EvaluatedSetting


class Examples:
    """The questions of a report's first run, as every setting of its runs answered them."""

    def __init__(self, runs: Sequence[ReportedRun]) -> None:
        self.runs = runs
        self.store: Store = runs[0].store
        self.shown = [ShownSetting(number, setting) for number, run in enumerate(runs) for setting in run.settings]
        self.questions = Questions(self.store, runs[0].headline.questions).questions()
        self.frames = list(dict.fromkeys(each.setting.frames for each in self.shown))
        self.scores = list(dict.fromkeys(each.setting.scores for each in self.shown if each.setting.scores))
        self.videos = list(dict.fromkeys(question.video_id for question in self.questions))
        self.types = sorted({question.question_type for question in self.questions if question.question_type})
        self.wanted_rows: dict[tuple[str, str], set[int]] = defaultdict(set)  # stored frames by sampling and video
        self._number = {question.question_id: number for number, question in enumerate(self.questions)}

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the data files into `folder` and return what the page has to know of them."""
        folder.mkdir(parents=True, exist_ok=True)
        frames = [self._frames(id) for id in self.frames]
        scores = [self._scores(id) for id in self.scores]
        answered = [self._answered(each.setting) for each in self.shown]
        moments = Questions(self.store, self.runs[0].headline.questions).true_moments()
        details = [self._detail(question, frames, scores, answered, moments) for question in self.questions]
        pages = cut([len(detail) for detail in details], PAGE_BYTES)
        for number, page in enumerate(pages):
            _write(folder / f"page-{number}.js", b"page", number, b"[" + b",".join(details[at] for at in page) + b"]")
        n_index = self._write_index(folder, [predictions for _, predictions in answered])
        return self._meta([page[0] for page in pages], n_index)

    def _meta(self, page_starts: list[int], n_index: int) -> dict[str, Any]:
        names = [next(each.setting.row for each in self.shown if each.setting.scores == id) for id in self.scores]
        lengths = [[int(n) for n in sorted(set(self._lengths[id]))] for id in self.frames]
        return {
            "pages": page_starts,
            "indexes": n_index,
            "questions": len(self.questions),
            "types": list(map(printable, self.types)),  # as the page lists them
            "runs": [run.title for run in self.runs],
            "scorers": names,
            "uniform": [
                {str(n): uniform_positions(n, self._k(id)).tolist() for n in of_set}
                for id, of_set in zip(self.frames, lengths, strict=True)
            ],
            "shown": [
                {str(n): self._shown(n, id) for n in of_set} for id, of_set in zip(self.frames, lengths, strict=True)
            ],
            "settings": [
                {
                    "run": each.run,
                    "name": each.setting.name,
                    "frames": self.frames.index(each.setting.frames),
                    "scorer": self.scores.index(each.setting.scores) if each.setting.scores else -1,
                    "answers": each.setting.answers is not None,
                }
                for each in self.shown
            ],
            "a": self._default(self.runs[0], self.runs[0].headline),
            "b": self._default(self.runs[-1], self.runs[-1].headline if self.runs[1:] else self.runs[0].baseline),
        }

    def _k(self, frames: str) -> int:
        """Return how many uniform frames of a sampling are marked: as many as the keyframes of the headline that looks at it."""
        settings = [*(run.headline for run in self.runs), *(each.setting for each in self.shown)]
        keyframes = next((each.keyframes for each in settings if each.frames == frames and each.keyframes), None)
        return int(self.store.record(keyframes).config["k"]) if keyframes else 4

    @cached_property
    def _lengths(self) -> dict[str, set[int]]:
        return {id: set() for id in self.frames}

    def _default(self, run: ReportedRun, setting: EvaluatedSetting | None) -> int:
        return -1 if setting is None else self.shown.index(ShownSetting(self.runs.index(run), setting))

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
            "f": [_fragment(of_set, id) for of_set in frames],
            "c": [_fragment(of_scorer, id) for of_scorer in scores],
            "w": [_fragment(of_setting, id) for of_setting, _ in answered],
            "l": _fragment(self._alone, id),
        }
        return orjson.dumps(content)

    def _frames(self, id: str) -> Fragments:
        """Return the frames of each question's clip: seconds, and where their pictures are; those to show are noted."""
        clips, lengths = Frames(self.store, id).clips(), self._lengths[id]
        of_clip: dict[tuple[str, str], bytes] = {}
        fragments = {}
        for question in self.questions:
            key = (question.video_id, question.clip_id)
            if key in clips and key not in of_clip:
                clip = clips[key]
                n = len(clip["row"])
                lengths.add(n)
                of_clip[key] = orjson.dumps({"s": clip["seconds"].round(2).tolist(), "r": clip["row"].tolist()})
                self.wanted_rows[id, question.video_id].update(clip["row"][self._shown(n, id)].tolist())
            if key in of_clip:
                fragments[question.question_id] = of_clip[key]
        return fragments

    def _shown(self, n_frames: int, frames: str) -> list[int]:
        """Return which of a clip's frames are shown whatever the keyframes: all, or where they are many some evenly spread."""
        if n_frames <= MOST_CELLS:
            return list(range(n_frames))
        marked = uniform_positions(n_frames, self._k(frames))
        return sorted({*uniform_positions(n_frames, EVEN_CELLS).tolist(), *marked.tolist()})

    def _scores(self, id: str) -> Fragments:
        scores = stored_as(self.store, id, FrameScores).by_question()
        asked = self._asked(next(each.setting for each in self.shown if each.setting.scores == id))
        rank_by: RankBy = next(
            (
                self.store.record(each.setting.keyframes).config["rank_by"]
                for each in self.shown
                if each.setting.scores == id and each.setting.keyframes
            ),
            "logit_yes",
        )
        return {
            question_id: orjson.dumps([float(f"{value:.4g}") for value in values.tolist()])
            for question_id, values in scores.ranking(rank_by).items()
            if question_id in asked
        }

    def _asked(self, setting: EvaluatedSetting) -> set[str]:
        """Return the ids of the questions that a setting was asked as they are here."""
        is_own = setting.questions == self.runs[0].headline.questions
        return set(self._number) if is_own else same_questions(self.store, setting, self.questions)

    def _answered(self, setting: EvaluatedSetting) -> tuple[Fragments, str]:
        """Return what a setting has for each question, and the options chosen as a text: a letter a question."""
        contents, rows = contents_of(self.store, setting, self._asked(setting))
        for video_id, of_question in rows:
            self.wanted_rows[setting.frames, video_id].update(of_question)
        letters = ["-"] * len(self.questions)
        for id, content in contents.items():
            if (prediction := content.pop("prediction", None)) is not None:
                letters[self._number[id]] = chr(48 + prediction)
        return {id: orjson.dumps(content) for id, content in contents.items()}, "".join(letters)

    @cached_property
    def _alone(self) -> Fragments:
        headline = self.runs[0].headline
        return single_frame_answers(self.store, headline.questions, headline.frames)

    def _write_index(self, folder: Path, predictions: Sequence[str]) -> int:
        video_of = {video_id: number for number, video_id in enumerate(self.videos)}
        type_of = {name: number for number, name in enumerate(self.types)}
        sizes = [len(question.question) + len(question.question_id) + 60 for question in self.questions]
        files = cut(sizes, INDEX_BYTES)
        for number, file in enumerate(files):
            questions = [self.questions[at] for at in file]
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


def _write(path: Path, what: bytes, number: int, content: bytes) -> None:
    path.write_bytes(b"R.%s(%d,%s)\n" % (what, number, content))
