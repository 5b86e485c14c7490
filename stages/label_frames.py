"""The reverse chain (paper section 3.3): is this frame alone enough for the Answerer to find the right option?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from cache.printable import printable
from cache.tables import Schema
from pipeline.engine.output import Shard, ShardedOutput
from pipeline.engine.stage import Artifact, Config, RunContext, stage
from pipeline.inference.backbone import Backbone
from pipeline.inference.frame_by_frame import FrameByFrame, Pair, plan_videos, questions_of
from pipeline.inference.not_finite import ANSWERS, BROKEN
from pipeline.inference.option_reader import READOUT_DESCRIPTION, OptionReader, OptionValues, Readout
from pipeline.models.prompts import single_frame_prefixes
from pipeline.selection.keyframes import majority_vote
from stages.extract_features import Features
from stages.init_answerer import AnswererWeights
from stages.list_questions import Questions
from stages.sample_frames import Frames

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.answerer import Answerer


class PseudoLabels(Artifact):
    """What the frozen Answerer says of every frame by itself, and whether that is right.

    Rows are in the order of FrameScores: videos, questions, positions. Every question has a row in `verdicts`; one whose
    right answer is not known, or whose video failed, has no labels.
    """

    kind = "pseudo_labels"
    tables = {
        "pseudo_labels": Schema(
            1,
            question_id="string",
            video_id="string",
            position="int32",  # of the frame in the question's clip; a frame repeated in a clip repeats its row
            frame_index="int64",
            seconds="float64",
            label="bool",  # true, "yes": the frame alone gives the right answer
            prediction="int8",  # index of the option that the frame gives
            option_logits="list<float32>",  # as in Answers; letters are read after the word "Option", which is given
            truncated="bool",  # the question's text was longer than the model reads
        ),
        "verdicts": Schema(
            1,
            question_id="string",
            video_id="string",
            status="string",  # ok or failed
            reason="string",
            n_frames="int32",  # 0 when failed
            n_yes="int32",
            vote_prediction="int8",  # index of the option that most frames choose; null when failed, as the two below
            votes="list<int32>",  # frames that choose each option; empty when failed
            any_frame_right="bool",
            vote_right="bool",
        ),
    }

    def figures(self) -> dict[str, Any]:
        """Return counts, the share of yes labels, and how often voting and an oracle among the frames are right, in percent.

        Accuracies are over the questions whose right answer is known, `n_known`; one that failed counts as wrong.
        """
        rows = self.rows("verdicts")
        known = [row for row in rows if row["reason"].split(":")[0] not in NOTHING_TO_LEARN]
        n_frames = sum(row["n_frames"] for row in rows)
        return {
            "n_questions": len(rows),
            "n_known": len(known),
            "n_labelled": sum(row["status"] == "ok" for row in rows),
            "n_frames": n_frames,
            "yes_percent": _percent(sum(row["n_yes"] for row in rows), n_frames),
            "vote_percent": _percent(sum(row["vote_right"] is True for row in known), len(known)),
            "oracle_percent": _percent(sum(row["any_frame_right"] is True for row in known), len(known)),
        }

    def text(self) -> str:
        """Return the figures for a terminal."""
        found = self.figures()
        without = found["n_questions"] - found["n_labelled"]
        share = _shown(_percent(without, found["n_questions"]))
        why = ", ".join(f"{count} {printable(reason)}" for reason, count in sorted(self.record.dropped.items()))
        return (
            f"{found['n_frames']} frames labelled, {_shown(found['yes_percent'])} of them yes, for {found['n_labelled']} of "
            f"{found['n_questions']} questions; {share} without labels{f' ({why})' if why else ''}\n"
            f"majority of the frames {_shown(found['vote_percent'])} right, any frame {_shown(found['oracle_percent'])} "
            f"(of {found['n_known']} questions with a known answer; those without labels count as wrong)"
        )


NOTHING_TO_LEARN = ("no_options", "no_answer")  # codes of questions that have no right option to be found


class LabelFrames(Config):
    """How the Answerer is asked; as it is for answering."""

    prompt: Literal["multiple_choice", "next_event"] = Field("multiple_choice", description="kind of question")
    readout: Readout = Field("letter", description=READOUT_DESCRIPTION)
    precision: Literal["float32", "bfloat16"] = Field("float32", description="arithmetic; bfloat16 on a GPU")


@stage(version=1, output=PseudoLabels, plan=plan_videos, gpu=True)
def label_frames(
    cfg: LabelFrames,
    run: RunContext,
    questions: Questions,
    frames: Frames,
    features: Features,
    backbone: Backbone,
    answerer: AnswererWeights,
    *,
    out: ShardedOutput,
) -> None:
    """Label every frame of every question's clip by whether the Answerer finds the right option in it alone."""
    videos, asked = features.rows("videos"), questions_of(features, questions)
    frame_by_frame = FrameByFrame(frames.clips_of(questions), features, run, "label_frames")
    load = cache(lambda: _load(cfg, run, backbone, answerer))

    def work(shard: Shard) -> None:
        wanted = [videos[item] for item in shard.items]
        every = [
            question | {"reason": _reason(question, video)} for video in wanted for question in asked[video["video_id"]]
        ]
        rows: list[dict[str, Any]] = []
        if any(not question["reason"] for question in every):
            with shard.phase("label"):
                reader = OptionReader(load(), cfg.prompt, cfg.readout, shard.settings["batch_tokens"], forced=True)
                every = [question | {"reason": question["reason"] or reader.refusal(question)} for question in every]
                labelled = [question for question in every if not question["reason"]]
                needed = {question["video_id"] for question in labelled}
                seen = [video for video in wanted if video["video_id"] in needed]
                rows = list(frame_by_frame.rows(_Labeller(reader, labelled), labelled, seen, shard))
        bad = _not_finite(rows)
        every = [question | {"reason": bad.get(question["question_id"], question["reason"])} for question in every]
        rows = [row for row in rows if row["question_id"] not in bad]
        shard.write_rows("pseudo_labels", rows)
        labels = {id: list(group) for id, group in groupby(rows, key=lambda row: row["question_id"])}
        verdicts = [_verdict(question, labels.get(question["question_id"], [])) for question in every]
        shard.dropped.update(row["reason"].split(":")[0] for row in verdicts if row["status"] != "ok")
        shard.write_rows("verdicts", verdicts)

    out.each_shard(work)
    n_asked = sum(len(asked[video["video_id"]]) for video in videos)
    out.refuse_all(ANSWERS, n_asked, f"the Answerer gave no question finite values; {BROKEN}")


def _not_finite(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return why each question of these rows has no labels that has a frame without finite values, by its id."""
    reasons: dict[str, str] = {}
    for row in rows:
        if problem := OptionValues(np.array(row["option_logits"]), None).problem:
            reasons.setdefault(row["question_id"], problem.replace(":", f": frame {row['frame_index']}:", 1))
    return reasons


def _reason(question: dict[str, Any], video: dict[str, Any]) -> str:
    """Return why a question's frames cannot be labelled; nothing if they can."""
    if not question["options"]:
        return "no_options: it asks for moments, not for an option"
    if question["answer_index"] is None:
        return "no_answer: the annotations do not say which option is right"
    return str(video["reason"])


def _load(cfg: LabelFrames, run: RunContext, backbone: Backbone, weights: AnswererWeights) -> Answerer:
    from pipeline.models.answerer import Answerer

    return Answerer(weights.load(run, backbone, cfg.precision), backbone.language(run, cfg.precision))


class _Labeller:
    """Asks the Answerer about (question, frame) pairs.

    The official code leaves the dropout of the frozen T5 on while it labels, so that its labels differ from run to run, and
    lets letters win that a question has no option for; neither is copied.
    """

    def __init__(self, reader: OptionReader, questions: Sequence[dict[str, Any]]) -> None:
        self.model = reader.answerer
        self._reader = reader
        self._asked = reader.prepare(questions)
        self.lengths = [len(each.token_ids) for each in self._asked]

    def ask(self, visual: Tensor, pairs: Sequence[Pair]) -> Tensor:
        """Return the options' values of R pairs; `visual` are their frames, [R, Q, L]."""
        asked = [self._asked[number] for number, _ in pairs]
        return self._reader.ask(visual.unsqueeze(1), asked, single_frame_prefixes())

    def columns(self, said: np.ndarray, pairs: Sequence[Pair]) -> Iterator[dict[str, Any]]:
        """Yield the columns of each pair's row, its label among them."""
        asked = [self._asked[number] for number, _ in pairs]
        for each, options in zip(asked, self._reader.values(said, asked), strict=True):
            prediction = int(options.values.argmax())
            row: dict[str, Any] = {"label": prediction == each.question["answer_index"], "prediction": prediction}
            yield row | {"option_logits": options.values.tolist(), "truncated": each.truncated}


def _verdict(question: dict[str, Any], labels: list[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(PseudoLabels.tables["verdicts"].columns)
    row |= {name: question[name] for name in ("question_id", "video_id", "reason")}
    row |= {"status": "failed" if question["reason"] else "ok", "n_frames": len(labels), "votes": []}
    row["n_yes"] = sum(label["label"] for label in labels)
    if labels:
        winner, votes = majority_vote(np.array([label["option_logits"] for label in labels], np.float64))
        row |= {"vote_prediction": winner, "votes": votes.tolist(), "any_frame_right": row["n_yes"] > 0}
        row["vote_right"] = winner == question["answer_index"]
    return row


def _percent(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None


def _shown(percent: float | None) -> str:
    return "-" if percent is None else f"{percent:.1f} %"
