"""The Answerer reads the keyframes and chooses an option (paper section 3.2)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from cache.tables import Schema
from pipeline.batching import token_batches
from pipeline.engine.joined import rows_of_all
from pipeline.engine.output import Shard, ShardedOutput
from pipeline.engine.progress import track
from pipeline.engine.stage import Artifact, Config, Plan, RunContext, stage
from pipeline.inference.backbone import Backbone
from pipeline.inference.frame_by_frame import plan_by_frames
from pipeline.inference.not_finite import ANSWERS, BROKEN, SCORES
from pipeline.inference.option_reader import READOUT_DESCRIPTION, OptionReader, OptionValues, Readout
from pipeline.inference.visual_windows import WINDOW_FRAMES, Group, Windows
from pipeline.memory import Halving
from pipeline.models.prompts import numbered_frame_prefixes, single_frame_prefixes
from pipeline.models.transfer import to_device
from pipeline.selection.keyframes import majority_vote
from stages.extract_features import Features
from stages.init_answerer import AnswererWeights
from stages.list_questions import Questions
from stages.select_keyframes import Keyframes

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.answerer import Answerer


class Answers(Artifact):
    """One row per question, in Keyframes' order; with voting also one row per (question, keyframe)."""

    kind = "answers"
    # Codes of failures that are not the video's.
    reasons_of_questions = ("no_options", "too_many_options", "no_moments", "no_true_frame", SCORES, ANSWERS)
    tables = {
        "answers": Schema(
            1,
            question_id="string",
            video_id="string",
            status="string",  # ok or failed
            reason="string",
            prediction="int8",  # index of the chosen option; null when failed
            # Raw logits of the letters; readout text: summed log-probabilities of the option's tokens, </s> included, and
            # text_per_token: their mean. Voting: the mean over the frames.
            option_logits="list<float32>",
            votes="list<int32>",  # frames that chose each option; empty when frames are concatenated
            # The greedy first token, normally the word "Option"; null when failed or voting, or when texts are read.
            first_token_id="int32",
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
    readout: Readout = Field("letter", description=READOUT_DESCRIPTION)
    precision: Literal["float32", "bfloat16"] = Field("float32", description="arithmetic; bfloat16 on a GPU")


def plan_questions(
    cfg: AnswerQuestions,
    run: RunContext,
    questions: Questions,
    keyframes: Keyframes,
    features: Features,
    backbone: Backbone,
    answerer: AnswererWeights,
) -> Plan:
    """Cut the questions, rows of Keyframes, into shards by the size of their keyframes' features."""
    return plan_by_frames([len(rows) for rows in keyframes.columns("keyframes", "rows")["rows"]], run, backbone)


@stage(version=1, output=Answers, plan=plan_questions, gpu=True)
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
    without_features = {video["video_id"]: video["reason"] for video in features.rows("videos") if video["reason"]}
    asked = [
        _answerable({**texts[row["question_id"]], **row}, without_features.get(row["video_id"], ""))
        for row in rows_of_all(keyframes, "keyframes", questions)
    ]
    windows = Windows(features, run.torch_device())
    asking = cache(lambda batch_tokens: _Asking(_load(cfg, run, backbone, answerer), cfg, windows, batch_tokens))

    def work(shard: Shard) -> None:
        wanted = [asked[item] for item in shard.items]
        units = [unit for question in wanted if question["status"] == "ok" for unit in _units(question, cfg.method)]
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        if units:
            with shard.phase("answer"):
                found |= asking(shard.settings["batch_tokens"]).answers(units, shard)
        rows = [_row(question, found[question["question_id"]], cfg.method) for question in wanted]
        shard.dropped.update(row["reason"].split(":")[0] for row in rows if row["status"] != "ok")
        shard.write_rows("answers", rows)
        alone = cfg.method == "vote"
        frame_rows = [
            row for question in wanted if alone for row in _frame_rows(question, found[question["question_id"]])
        ]
        shard.write_rows("frame_answers", frame_rows)

    out.each_shard(work)
    out.refuse_all(ANSWERS, len(asked), f"the Answerer gave no question finite values; {BROKEN}")


def _answerable(question: dict[str, Any], without_features: str) -> dict[str, Any]:
    """The question, failed if its video has no features, or if it asks for moments: there is nothing to choose from."""
    if question["status"] == "ok" and without_features:
        return question | {"status": "failed", "reason": without_features}
    if question["status"] == "ok" and not question["options"]:
        return question | {"status": "failed", "reason": "no_options: it asks for moments, not for an option"}
    return question


Unit = tuple[dict[str, Any], list[int]]  # a question and the stored rows that it is answered from at once


def _units(question: dict[str, Any], method: str) -> list[Unit]:
    return [(question, [row]) for row in question["rows"]] if method == "vote" else [(question, question["rows"])]


def _groups(units: list[Unit]) -> Iterator[list[Unit]]:
    """Cut units into groups whose frames fit in a window; questions about one video share its frames."""
    group: list[Unit] = []
    held: set[tuple[str, int]] = set()
    for question, rows in units:
        needed = {(question["video_id"], row) for row in rows}
        if group and len(held | needed) > WINDOW_FRAMES:
            yield group
            group, held = [], set()
        group.append((question, rows))
        held |= needed
    if group:
        yield group


def _stored_rows(group: list[Unit]) -> Group:
    wanted: dict[str, set[int]] = {}
    for question, rows in group:
        wanted.setdefault(question["video_id"], set()).update(rows)
    return [(video_id, sorted(rows)) for video_id, rows in wanted.items()]


def _row(question: dict[str, Any], answers: list[dict[str, Any]], method: str) -> dict[str, Any]:
    row = {name: question[name] for name in ("question_id", "video_id", "status", "reason")}
    nothing: dict[str, Any] = {"prediction": None, "option_logits": [], "votes": [], "first_token_id": None}
    row |= nothing | {"n_frames": len(answers and question["rows"]), "truncated": False}
    if not answers:
        return row
    if reason := _reason(answers):
        return row | {"status": "failed", "reason": reason, "n_frames": 0}
    answer = answers[0] | (_vote(answers) if method == "vote" else {})
    return row | {name: value for name, value in answer.items() if name in row and name != "reason"}


def _reason(answers: list[dict[str, Any]]) -> str:
    """Return why a question has no answer: the first of its units' reasons."""
    return next((answer["reason"] for answer in answers if answer["reason"]), "")


def _load(cfg: AnswerQuestions, run: RunContext, backbone: Backbone, weights: AnswererWeights) -> Answerer:
    from pipeline.models.answerer import Answerer

    return Answerer(weights.load(run, backbone, cfg.precision), backbone.language(run, cfg.precision))


class _Asking:
    """Puts units to the Answerer in batches of one number of frames and similar text length."""

    def __init__(self, answerer: Answerer, cfg: AnswerQuestions, windows: Windows, batch_tokens: int) -> None:
        self._answerer, self._windows = answerer, windows
        self._reader = OptionReader(answerer, cfg.prompt, cfg.readout, batch_tokens, forced=False)
        self._batch_tokens = batch_tokens
        self._halving = Halving("answer_questions")

    def answers(self, units: list[Unit], shard: Shard) -> dict[str, list[dict[str, Any]]]:
        """Return the answers of units by question, one for each of its units."""
        groups = list(_groups(units))
        stored = [_stored_rows(group) for group in groups]
        read = self._windows.tokens(stored, self._answerer, shard.settings["batch_frames"])
        answers: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for group, (place, visual) in zip(groups, track(read, shard, "window", len(groups)), strict=True):
            for (question, _), answer in zip(group, self._ask(group, place, visual), strict=True):
                answers[question["question_id"]].append(answer)
        return answers

    def _ask(self, units: list[Unit], place: dict[tuple[str, int], int], visual: Tensor) -> list[dict[str, Any]]:
        """Return an answer per unit, or the reason why there is none."""
        answers: list[dict[str, Any]] = [{"reason": self._reader.refusal(question)} for question, _ in units]
        asked = self._reader.prepare([question for question, _ in units])
        answerable = [number for number, answer in enumerate(answers) if not answer["reason"]]

        def ask(prefixes: list[str], chosen: list[int]) -> tuple[list[int], Tensor]:
            where = [[place[units[number][0]["video_id"], row] for row in units[number][1]] for number in chosen]
            frames = visual[to_device(np.array(where), str(visual.device))]
            return chosen, self._reader.ask(frames, [asked[number] for number in chosen], prefixes)

        said: list[tuple[list[int], Tensor]] = []
        for n_frames in sorted({len(units[number][1]) for number in answerable}):
            same = [number for number in answerable if len(units[number][1]) == n_frames]
            # The official code numbers frames only when there are several: one keyframe is read as when voting.
            prefixes = single_frame_prefixes() if n_frames == 1 else numbered_frame_prefixes(n_frames)
            verbalizer = self._answerer.language.verbalizer
            prefix_tokens = max(len(ids) for ids in verbalizer.tokenize_prefixes(prefixes))
            lengths = [len(asked[number].token_ids) for number in same]
            for batch in token_batches(lengths, n_frames * (visual.shape[1] + prefix_tokens), self._batch_tokens):
                said += self._halving(partial(ask, prefixes), [same[item] for item in batch])
        for chosen, table in said:  # only now: until here nobody has waited for the device
            values = self._reader.values(table.cpu().numpy(), [asked[number] for number in chosen])
            for number, options in zip(chosen, values, strict=True):
                answers[number] |= _answer(options) | {"truncated": asked[number].truncated}
        return answers


def _answer(options: OptionValues) -> dict[str, Any]:
    answer: dict[str, Any] = {"prediction": int(options.values.argmax()), "option_logits": options.values.tolist()}
    answer["reason"] = options.problem
    return answer | {"votes": [], "first_token_id": options.first_token_id}


def _vote(answers: list[dict[str, Any]]) -> dict[str, Any]:
    logits = np.array([answer["option_logits"] for answer in answers], dtype=np.float64)
    winner, votes = majority_vote(logits)
    mean = logits.mean(axis=0).tolist()
    return {"prediction": int(winner), "option_logits": mean, "votes": votes.tolist(), "first_token_id": None}


def _frame_rows(question: dict[str, Any], answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = ("prediction", "option_logits", "first_token_id")
    return [
        {"question_id": question["question_id"], "frame_index": frame} | {name: answer[name] for name in names}
        for frame, answer in zip(question["frame_indices"], answers, strict=bool(answers))
        if not _reason(answers)
    ]
