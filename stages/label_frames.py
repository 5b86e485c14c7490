"""The reverse chain (paper section 3.3): is this frame alone enough for the Answerer to find the right option?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic import Field

from cache.printable import printable
from cache.tables import Schema
from pipeline.batching import runs_of
from pipeline.datasets.question import Question
from pipeline.engine.joined import refuse_cut, typed_rows_of_all
from pipeline.engine.output import Shard, ShardedOutput
from pipeline.engine.row_schema import schema_of
from pipeline.engine.stage import Artifact, Config, RunContext, stage
from pipeline.inference.backbone import Backbone
from pipeline.inference.frame_by_frame import FrameByFrame, n_single_frame_prefix_tokens, plan_videos
from pipeline.inference.load_models import OnDemand, load_answerer
from pipeline.inference.not_finite import ANSWERS, BROKEN
from pipeline.inference.option_reader import READOUT_DESCRIPTION, OptionReader, Readout
from pipeline.inference.visual_windows import VideoFeatures
from pipeline.inference.written_answers import why_not_asked
from pipeline.models.prompts import AnsweringPrompt, single_frame_prefixes
from pipeline.precision import PRECISION_DESCRIPTION, LanguagePrecision
from pipeline.reasons import Reason
from pipeline.selection.keyframes import majority_vote
from pipeline.text_table import or_dash
from stages.extract_features import Features
from stages.init_answerer import AnswererWeights
from stages.list_questions import Questions
from stages.sample_frames import Frames

if TYPE_CHECKING:
    from torch import Tensor


class Verdict(NamedTuple):
    """The frames of a question together; a row of the table `verdicts`. All that is not known of a failed one is None."""

    question_id: str
    video_id: str
    status: str  # ok or failed
    reason: Reason
    n_frames: int = 0  # of the question's clip
    n_yes: int = 0  # of these, from which alone the answer is right
    vote_prediction: int | None = None  # index of the option that most frames choose
    votes: Sequence[int] = ()  # frames that choose each option; empty when failed
    any_frame_right: bool | None = None  # n_yes is above 0
    vote_right: bool | None = None  # vote_prediction is the right option


class PseudoLabels(Artifact):
    """The frozen Answerer's answer from every frame by itself, and whether it is right.

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
        "verdicts": schema_of(1, Verdict, vote_prediction="int8"),
    }

    def by_question(self, questions: Questions) -> dict[str, np.ndarray]:
        """Return the labels of each question's frames, [T] bool in time order; of those that have any.

        Raises `CorruptArtifactError` unless each question has its verdict, and its labels if that says so.
        """
        table = self.columns("pseudo_labels", "question_id", "label")
        labels = {id: table["label"][where] for id, where in runs_of(table["question_id"]).items()}
        verdicts = typed_rows_of_all(self, "verdicts", questions, Verdict)
        wanted = [(verdict.question_id, verdict.n_frames) for verdict in verdicts if verdict.n_frames]
        refuse_cut(self, [(id, len(each)) for id, each in labels.items()], self, wanted, "questions with labels")
        return labels

    def figures(self) -> dict[str, Any]:
        """Return counts, the share of yes labels, and how often voting and an oracle among the frames are right, in percent.

        Accuracies are over the questions whose right answer is known, `n_known`; one that failed counts as wrong.
        """
        verdicts = self.typed_rows("verdicts", Verdict)
        known = [verdict for verdict in verdicts if verdict.reason.code not in NOTHING_TO_LEARN]
        n_frames = sum(verdict.n_frames for verdict in verdicts)
        return {
            "n_questions": len(verdicts),
            "n_known": len(known),
            "n_labelled": sum(verdict.status == "ok" for verdict in verdicts),
            "n_frames": n_frames,
            "yes_percent": _percent(sum(verdict.n_yes for verdict in verdicts), n_frames),
            "vote_percent": _percent(sum(verdict.vote_right is True for verdict in known), len(known)),
            "oracle_percent": _percent(sum(verdict.any_frame_right is True for verdict in known), len(known)),
        }

    def text(self) -> str:
        """Return the figures for a terminal."""
        of = self.figures()
        without = of["n_questions"] - of["n_labelled"]
        share = or_dash(_percent(without, of["n_questions"]))
        why = ", ".join(f"{count} {printable(reason)}" for reason, count in sorted(self.record.dropped.items()))
        return (
            f"{of['n_frames']} frames labelled, {or_dash(of['yes_percent'])} of them yes, for {of['n_labelled']} of "
            f"{of['n_questions']} questions; {share} without labels{f' ({why})' if why else ''}\n"
            f"majority of the frames {or_dash(of['vote_percent'])} right, any frame {or_dash(of['oracle_percent'])} "
            f"(of {of['n_known']} questions with a known answer; those without labels count as wrong)"
        )


NOTHING_TO_LEARN = ("no_options", "no_answer")  # codes of questions that have no right option to be found


class LabelFrames(Config):
    """How the Answerer is asked; as it is for answering."""

    prompt: AnsweringPrompt = "multiple_choice"
    readout: Readout = Field("letter", description=READOUT_DESCRIPTION)
    precision: LanguagePrecision = Field("float32", description=PRECISION_DESCRIPTION)


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
    videos, by_video = features.videos(), features.questions_by_video(questions)
    frame_by_frame = FrameByFrame(frames.clips_of(questions), features, run, "label_frames", answerer)
    loaded = OnDemand(partial(load_answerer, run, backbone, answerer, cfg.precision))

    def work(shard: Shard) -> None:
        wanted = [videos[item] for item in shard.items]
        every = [question for video in wanted for question in by_video[video.video_id]]
        reasons = [_reason(question, video) for video in wanted for question in by_video[video.video_id]]
        labels = LabelColumns()
        if not all(reasons):
            with shard.phase("label"):
                reader = OptionReader(
                    loaded.model, cfg.prompt, cfg.readout, shard.settings["batch_tokens"], forced=True
                )
                reasons = [reason or reader.refusal(question) for question, reason in zip(every, reasons, strict=True)]
                labelled = [question for question, reason in zip(every, reasons, strict=True) if not reason]
                labels = _labels(frame_by_frame, reader, labelled, wanted, shard)
        shard.write_columns("pseudo_labels", labels.columns)
        verdicts = [
            _verdict(question, reason or labels.failed.get(question.question_id, Reason()), labels)
            for question, reason in zip(every, reasons, strict=True)
        ]
        shard.dropped.update(verdict.reason.code for verdict in verdicts if verdict.status != "ok")
        shard.write_rows("verdicts", verdicts)

    out.each_shard(work)
    n_asked = sum(len(by_video[video.video_id]) for video in videos)
    out.refuse_all(ANSWERS, n_asked, f"the Answerer gave no question finite values; {BROKEN}")


def _reason(question: Question, video: VideoFeatures) -> Reason:
    """Return why a question's frames cannot be labelled; nothing if they can."""
    if question.options and question.answer_index is None:
        return Reason("no_answer: the annotations do not say which option is right")
    return why_not_asked(question) or video.reason


class _Labeller:
    """Asks the Answerer about (question, frame) pairs.

    The official code leaves the dropout of the frozen T5 on while it labels, so that its labels differ from run to run, and
    lets letters win that a question has no option for; neither is copied.
    """

    def __init__(self, reader: OptionReader, questions: Sequence[Question]) -> None:
        self.model = reader.answerer
        self.reader = reader
        self.prepared = reader.prepare(questions)
        self.lengths = [len(each.token_ids) for each in self.prepared]
        self.n_prefix_tokens = n_single_frame_prefix_tokens(self.model)
        self.n_values = 1 + max(len(question.options) for question in questions)

    def ask(self, visual: Tensor, numbers: Sequence[int]) -> Tensor:
        """Return the options' values of R pairs; `visual` are their frames, [R, Q, L]."""
        prepared = [self.prepared[number] for number in numbers]
        return self.reader.ask(visual.unsqueeze(1), prepared, single_frame_prefixes())


class LabelColumns(NamedTuple):
    """The labels of the frames of questions as columns of `pseudo_labels`, and where each question's stand in them.

    `failed` says why a question has none that has a frame without finite values.
    """

    columns: dict[str, Any] = dict.fromkeys(PseudoLabels.tables["pseudo_labels"].columns, ())
    where: Mapping[str, slice] = {}
    failed: Mapping[str, Reason] = {}


def _labels(
    frame_by_frame: FrameByFrame,
    reader: OptionReader,
    questions: Sequence[Question],
    videos: Sequence[VideoFeatures],
    shard: Shard,
) -> LabelColumns:
    """Label every frame of the clips of the questions, which are about some of these videos."""
    if not questions:
        return LabelColumns()
    labeller, needed = _Labeller(reader, questions), {question.video_id for question in questions}
    prepared = labeller.prepared
    answered = frame_by_frame.ask(labeller, questions, [video for video in videos if video.video_id in needed], shard)
    options = reader.values(answered.values, [prepared[number] for number in answered.number])
    failed: dict[str, Reason] = {}
    for number, index, value in zip(answered.number.tolist(), answered.frame_index.tolist(), options, strict=True):
        if problem := value.problem_of(f"frame {index}: "):
            failed.setdefault(prepared[number].question.question_id, problem)
    kept = np.flatnonzero([prepared[number].question.question_id not in failed for number in answered.number])
    numbers, predictions = (
        answered.number[kept],
        np.array([int(options[row].values.argmax()) for row in kept], np.int64),
    )
    right = np.array([each.question.answer_index for each in prepared], np.int64)
    places = {name: column[kept] for name, column in answered.places().items()}
    columns = {
        **places,
        "label": predictions == right[numbers],
        "prediction": predictions,
        "option_logits": [options[row].values for row in kept],
        "truncated": np.array([each.truncated for each in prepared], bool)[numbers],
    }
    return LabelColumns(columns, runs_of(columns["question_id"]), failed)


def _verdict(question: Question, reason: Reason, labels: LabelColumns) -> Verdict:
    where = labels.where.get(question.question_id)
    if where is None:
        return Verdict(question.question_id, question.video_id, "failed" if reason else "ok", reason)
    is_yes = labels.columns["label"][where]
    winner, votes = majority_vote(np.array(labels.columns["option_logits"][where], np.float64))
    return Verdict(
        question.question_id,
        question.video_id,
        "ok",
        reason,
        n_frames=len(is_yes),
        n_yes=int(is_yes.sum()),
        vote_prediction=winner,
        votes=votes.tolist(),
        any_frame_right=bool(is_yes.any()),
        vote_right=winner == question.answer_index,
    )


def _percent(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None
