"""The Answerer reads the keyframes and chooses an option (paper section 3.2)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from cache.errors import SevilaError
from cache.tables import Schema
from pipeline.batching import cut, token_batches
from pipeline.output import Shard, ShardedOutput
from pipeline.prompts import PROMPT_STYLES, numbered_frame_prefixes, single_frame_prefixes
from pipeline.selection import majority_vote
from pipeline.stage import Artifact, Config, RunContext, stage
from stages.extract_features import Features
from stages.import_backbone import Backbone
from stages.init_answerer import AnswererWeights
from stages.list_questions import Questions
from stages.progress import track
from stages.select_keyframes import Keyframes
from stages.visual_windows import WINDOW_FRAMES, Group, windows

if TYPE_CHECKING:
    from pipeline.models.answerer import Answerer


class Answers(Artifact):
    """One row per question, in Keyframes' order; with voting also one row per (question, keyframe)."""

    kind = "answers"
    tables = {
        "answers": Schema(
            1,
            question_id="string",
            video_id="string",
            status="string",  # ok or failed
            reason="string",
            prediction="int8",  # index of the chosen option; null when failed
            option_logits="list<float32>",  # raw logits of the letters; voting: their mean over the frames
            votes="list<int32>",  # frames that chose each option; empty when frames are concatenated
            first_token_id="int32",  # the greedy first token, normally the word "Option"; null when failed or voting
            n_frames="int32",
            truncated="bool",  # the question's text was longer than the model reads
        ),
        "frame_answers": Schema(
            1,
            question_id="string",
            frame_index="int64",
            prediction="int8",
            option_logits="list<float32>",
            first_token_id="int32",
        ),
    }


class AnswerQuestions(Config):
    """How the Answerer is asked."""

    method: Literal["concatenate", "vote"] = Field(
        "concatenate", description="read all keyframes together, or each alone and take the majority"
    )
    prompt: Literal["multiple_choice", "next_event"] = Field("multiple_choice", description="kind of question")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="arithmetic; bfloat16 on a GPU")


@stage(version=1, output=Answers, sharded=True)
def answer_questions(
    cfg: AnswerQuestions,
    run: RunContext,
    questions: Questions,
    keyframes: Keyframes,
    features: Features,
    backbone: Backbone,
    answerer: AnswererWeights,
    *,
    out: ShardedOutput,
) -> None:
    """Answer every question from its keyframes."""
    texts = {question["question_id"]: question for question in questions.rows("questions")}
    asked = [_answerable({**texts[row["question_id"]], **row}) for row in keyframes.rows("keyframes")]
    load = cache(lambda: _load(cfg, run, backbone, answerer))

    def plan() -> tuple[list[list[int]], dict[str, Any]]:
        n_tokens, width = backbone.feature_shape()
        sizes = [len(question["rows"]) * n_tokens * width * 2 for question in asked]
        batch_frames = max(1, run.batch_tokens // n_tokens)
        return cut(sizes, run.shard_bytes), {"batch_tokens": run.batch_tokens, "batch_frames": batch_frames}

    def work(shard: Shard) -> None:
        wanted = [asked[item] for item in shard.items]
        groups = list(_groups([question for question in wanted if question["status"] == "ok"]))
        rows = {question["question_id"]: _unanswered(question) for question in wanted}
        frame_rows: list[dict[str, Any]] = []
        with shard.phase("answer"):
            if groups:
                asking = _Asking(load(), cfg, shard.settings["batch_tokens"])
                stored = [_stored_rows(group) for group in groups]
                read = windows(features, stored, asking.answerer, run.torch_device(), shard.settings["batch_frames"])
                bar = track(read, "answer_questions", "window", len(groups))
                for group, (place, visual) in zip(groups, bar, strict=True):
                    answers, alone = asking.ask(group, place, visual)
                    rows |= answers
                    frame_rows += alone
        for row in rows.values():
            if row["status"] != "ok":
                shard.dropped[row["reason"].split(":")[0]] += 1
        shard.write_rows("answers", list(rows.values()))
        shard.write_rows("frame_answers", frame_rows)

    out.each_shard(plan, work)


def _answerable(question: dict[str, Any]) -> dict[str, Any]:
    """The question, failed if it asks for moments: there is nothing to choose from."""
    if question["status"] == "ok" and not question["options"]:
        return question | {"status": "failed", "reason": "no_options: it asks for moments, not for an option"}
    return question


def _groups(questions: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Cut questions into groups whose keyframes fit in a window; questions about one video share its frames."""
    group: list[dict[str, Any]] = []
    held: set[tuple[str, int]] = set()
    for question in questions:
        needed = {(question["video_id"], row) for row in question["rows"]}
        if group and len(held | needed) > WINDOW_FRAMES:
            yield group
            group, held = [], set()
        group.append(question)
        held |= needed
    if group:
        yield group


def _stored_rows(questions: list[dict[str, Any]]) -> Group:
    rows: dict[str, set[int]] = {}
    for question in questions:
        rows.setdefault(question["video_id"], set()).update(question["rows"])
    return [(video_id, sorted(wanted)) for video_id, wanted in rows.items()]


def _unanswered(question: dict[str, Any]) -> dict[str, Any]:
    row = {name: question[name] for name in ("question_id", "video_id", "status", "reason")}
    nothing: dict[str, Any] = {"prediction": None, "option_logits": [], "votes": [], "first_token_id": None}
    return row | nothing | {"n_frames": 0, "truncated": False}


def _load(cfg: AnswerQuestions, run: RunContext, backbone: Backbone, weights: AnswererWeights) -> Answerer:
    from pipeline.models.answerer import Answerer

    return Answerer(weights.load(run, backbone, cfg.precision), backbone.language(run, cfg.precision))


class _Asking:
    """Puts questions to the Answerer in batches of one number of frames and similar text length."""

    def __init__(self, answerer: Answerer, cfg: AnswerQuestions, batch_tokens: int) -> None:
        self.answerer = answerer
        self._cfg = cfg
        self._batch_tokens = batch_tokens

    def ask(
        self, questions: list[dict[str, Any]], place: dict[tuple[str, int], int], visual: Any
    ) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
        """Return the rows of `answers` by question id, and the rows of `frame_answers`."""
        texts = [
            PROMPT_STYLES[self._cfg.prompt].answer(question["question"], question["options"]) for question in questions
        ]
        token_ids, truncated = self.answerer.language.verbalizer.tokenize(texts)
        where = [[place[question["video_id"], row] for row in question["rows"]] for question in questions]
        rows = {}
        frame_rows: list[dict[str, Any]] = []
        if self._cfg.method == "concatenate":
            found = self._answer(visual, list(enumerate(where)), questions, token_ids)
        else:
            alone = [(number, [frame]) for number, frames in enumerate(where) for frame in frames]
            by_frame = iter(self._answer(visual, alone, questions, token_ids))
            found = []
            for question in questions:
                answers = [next(by_frame) for _ in question["rows"]]
                frame_rows += _frame_rows(question, answers)
                found.append(_vote(answers))
        for question, answer, cut_off in zip(questions, found, truncated, strict=True):
            n_frames = len(question["rows"])
            rows[question["question_id"]] = (
                _unanswered(question) | answer | {"n_frames": n_frames, "truncated": cut_off}
            )
        return rows, frame_rows

    def _answer(
        self,
        visual: Any,
        units: list[tuple[int, list[int]]],
        questions: list[dict[str, Any]],
        token_ids: list[list[int]],
    ) -> list[dict[str, Any]]:
        """Answer (question's number, frames in `visual`) units, in their order."""
        import torch

        answers: dict[int, dict[str, Any]] = {}
        for n_frames in sorted({len(frames) for _, frames in units}):
            same = [number for number, (_, frames) in enumerate(units) if len(frames) == n_frames]
            # The official code numbers frames only when there are several: one keyframe is read as when voting.
            prefixes = single_frame_prefixes() if n_frames == 1 else numbered_frame_prefixes(n_frames)
            prefix_tokens = max(len(ids) for ids in self.answerer.language.verbalizer.tokenize_prefixes(prefixes))
            lengths = [len(token_ids[units[number][0]]) for number in same]
            for batch in token_batches(lengths, n_frames * (visual.shape[1] + prefix_tokens), self._batch_tokens):
                chosen = [same[item] for item in batch]
                asked = [units[number][0] for number in chosen]
                n_options = [len(questions[number]["options"]) for number in asked]
                tokens = visual[torch.tensor([units[number][1] for number in chosen], device=visual.device)]
                out = self.answerer.answer(tokens, [token_ids[number] for number in asked], n_options, prefixes)
                logits, first = out.option_logits.cpu().numpy(), out.first_token_id.tolist()
                for position, number in enumerate(chosen):
                    answer = _checked(logits[position, : n_options[position]], questions[asked[position]])
                    answers[number] = answer | {"first_token_id": first[position]}
        return [answers[number] for number in range(len(units))]


def _checked(logits: np.ndarray, question: dict[str, Any]) -> dict[str, Any]:
    if not np.isfinite(logits).all():
        raise SevilaError(
            f"question {question['question_id']!r}: the Answerer gave {logits.tolist()}; "
            "the weights or the precision are broken: try --set answer_questions.precision=float32"
        )
    return {"prediction": int(logits.argmax()), "option_logits": logits.tolist(), "votes": []}


def _vote(answers: list[dict[str, Any]]) -> dict[str, Any]:
    logits = np.array([answer["option_logits"] for answer in answers], dtype=np.float64)
    winner, votes = majority_vote(logits)
    mean = logits.mean(axis=0).tolist()
    return {"prediction": int(winner), "option_logits": mean, "votes": votes.tolist(), "first_token_id": None}


def _frame_rows(question: dict[str, Any], answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = ("prediction", "option_logits", "first_token_id")
    return [
        {"question_id": question["question_id"], "frame_index": frame} | {name: answer[name] for name in names}
        for frame, answer in zip(question["frame_indices"], answers, strict=True)
    ]
