"""Pseudo-labels (paper section 3.3, the reverse chain): whether the Answerer answers correctly from a single frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic import Field

from cache.printable import printable
from cache.tables import Schema, read_columns
from pipeline.batching import runs_of
from pipeline.datasets.question import Question
from pipeline.engine.joined import refuse_cut, refuse_other_frames, typed_rows_of_all
from pipeline.engine.output import Shard, ShardedOutput
from pipeline.engine.row_schema import schema_of
from pipeline.engine.stage import Artifact, Config, RunContext, stage
from pipeline.inference.asked_videos import asked_videos
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
from pipeline.video.clip_frames import digest_of_frames, digests_of_clips
from stages.extract_features import Features
from stages.init_answerer import AnswererWeights
from stages.list_questions import Questions
from stages.sample_frames import Frames

if TYPE_CHECKING:
    from torch import Tensor


class Verdict(NamedTuple):
    """A summary of a question's frames; a row of the table `verdicts`. What is unknown for a failed question is None."""

    question_id: str
    video_id: str
    status: str  # ok or failed
    reason: Reason
    n_frames: int = 0  # of the question's clip
    n_yes: int = 0  # frames with label yes
    vote_prediction: int | None = None  # index of the option that most frames choose
    votes: Sequence[int] = ()  # frames that choose each option; empty if failed
    any_frame_right: bool | None = None  # n_yes > 0
    vote_right: bool | None = None  # vote_prediction is the correct option


class PseudoLabels(Artifact):
    """The frozen Answerer's answer from each single frame, and whether it is correct.

    Rows are in the order of FrameScores: videos, questions, positions. Every question has a row in `verdicts`; a question
    without a known answer, or of a failed video, has no labels.
    """

    kind = "pseudo_labels"
    tables = {
        "pseudo_labels": Schema(
            1,
            *("question_id", "position"),
            question_id="string",
            video_id="string",
            position="int32",  # in the question's clip; a frame repeated in a clip repeats its row
            frame_index="int64",
            seconds="float64",
            label="bool",  # true, "yes": the answer from this frame alone is correct
            prediction="int8",  # index of the chosen option
            option_logits="list<float32>",  # as in Answers; letters are read after the forced word "Option"
            truncated="bool",  # the question's text exceeded the model's maximum length
        ),
        "verdicts": schema_of(1, Verdict, "question_id", vote_prediction="int8"),
    }

    def by_question(self, questions: Questions, frames: Frames) -> dict[str, np.ndarray]:
        """Return the labels of each labelled question's frames, [T] bool in time order.

        Raises `CorruptArtifactError` unless each question has a verdict, the labels that it counts, and these are its frames'.
        """
        labels: dict[str, np.ndarray] = {}
        stored: list[tuple[str, int]] = []
        for path in self.table_files("pseudo_labels"):  # one after the other: all frame numbers take most
            table = read_columns([path], self.tables["pseudo_labels"], ("question_id", "frame_index", "label"))
            for id, where in runs_of(table["question_id"]).items():
                labels[id] = table["label"][where]
                stored.append((id, digest_of_frames(table["frame_index"][where])))
        verdicts = typed_rows_of_all(self, "verdicts", questions, Verdict)
        counted = [(verdict.question_id, verdict.n_frames, verdict.n_yes) for verdict in verdicts if verdict.n_frames]
        n_labels = [(id, len(of_frames), int(of_frames.sum())) for id, of_frames in labels.items()]
        refuse_cut(self, n_labels, self, counted, "questions with labels")
        videos = {verdict.video_id for verdict in verdicts if verdict.n_frames}
        digests = digests_of_clips(frames.clips_of(questions), questions.clips(), videos)
        wanted = [(id, digest) for id, digest in digests if id in labels]
        refuse_other_frames(self, stored, frames, wanted)
        return labels

    def figures(self) -> dict[str, Any]:
        """Return counts, the share of yes labels, and the accuracies of voting and of the best frame, in percent.

        Accuracies are over the `n_known` questions with a known answer; a failed question counts as wrong.
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
        figures = self.figures()
        unlabelled = figures["n_questions"] - figures["n_labelled"]
        share = or_dash(_percent(unlabelled, figures["n_questions"]))
        reasons = ", ".join(f"{count} {printable(reason)}" for reason, count in sorted(self.record.dropped.items()))
        return (
            f"{figures['n_frames']} frames labelled, {or_dash(figures['yes_percent'])} of them yes, for "
            f"{figures['n_labelled']} of {figures['n_questions']} questions; "
            f"{share} without labels{f' ({reasons})' if reasons else ''}\n"
            f"majority of the frames {or_dash(figures['vote_percent'])} right, any frame "
            f"{or_dash(figures['oracle_percent'])} (of {figures['n_known']} questions with a known answer; those without "
            "labels count as wrong)"
        )


NOTHING_TO_LEARN = ("no_options", "no_answer")  # failure codes of questions without a known correct option


class LabelFrames(Config):
    """How the Answerer is asked, as in AnswerQuestions."""

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
    """Label every frame of every question's clip by whether the Answerer answers correctly from it alone."""
    videos, by_video = features.videos(), features.questions_by_video(questions)
    frame_by_frame = FrameByFrame(frames.clips_of(questions), features, run, "label_frames", answerer)
    loaded = OnDemand(partial(load_answerer, run, backbone, answerer, cfg.precision))

    def work(shard: Shard) -> None:
        items = asked_videos(shard.items, videos, by_video)
        asked = [question for item in items for question in item.questions]
        reasons = [_reason(question, item.video) for item in items for question in item.questions]
        labels = LabelColumns()
        if not all(reasons):
            with shard.phase("label"):
                reader = OptionReader(
                    loaded.model, cfg.prompt, cfg.readout, shard.settings["batch_tokens"], forced=True
                )
                reasons = [reason or reader.refusal(question) for question, reason in zip(asked, reasons, strict=True)]
                labelled = [question for question, reason in zip(asked, reasons, strict=True) if not reason]
                labels = _labels(frame_by_frame, reader, labelled, shard)
        shard.write_columns("pseudo_labels", labels.columns)
        verdicts = [
            _verdict(question, reason or labels.failed.get(question.question_id, Reason()), labels)
            for question, reason in zip(asked, reasons, strict=True)
        ]
        shard.dropped.update(verdict.reason.code for verdict in verdicts if verdict.status != "ok")
        shard.write_rows("verdicts", verdicts)

    out.each_shard(work)
    n_asked = sum(len(by_video[video.video_id]) for video in videos)
    out.refuse_all(ANSWERS, n_asked, f"the Answerer gave no question finite values; {BROKEN}")


def _reason(question: Question, video: VideoFeatures) -> Reason:
    """Return why a question's frames cannot be labelled; empty if they can."""
    if question.options and question.answer_index is None:
        return Reason("no_answer: the annotations do not say which option is right")
    return why_not_asked(question) or video.reason


class _Labeller:
    """Asks the Answerer about (question, frame) pairs.

    Unlike the official code, which labels with the dropout of the frozen T5 active, so that labels differ between runs, and
    accepts letters for which a question has no option.
    """

    def __init__(self, reader: OptionReader, questions: Sequence[Question]) -> None:
        self.model = reader.answerer
        self.reader = reader
        self.prepared = reader.prepare(questions)
        self.lengths = [len(question.token_ids) for question in self.prepared]
        self.n_prefix_tokens = n_single_frame_prefix_tokens(self.model)
        self.n_values = 1 + max(len(question.options) for question in questions)

    def ask(self, visual: Tensor, numbers: Sequence[int]) -> Tensor:
        """Return the options' values of R pairs; `visual` are their frames, [R, Q, L]."""
        prepared = [self.prepared[number] for number in numbers]
        return self.reader.ask(visual.unsqueeze(1), prepared, single_frame_prefixes())


class LabelColumns(NamedTuple):
    """The labels of questions' frames as columns of `pseudo_labels`, and the rows of each question, by question id.

    `failed` has the reason of each question with a frame without finite values; these have no labels.
    """

    columns: dict[str, Any] = dict.fromkeys(PseudoLabels.tables["pseudo_labels"].columns, ())
    where: Mapping[str, slice] = {}
    failed: Mapping[str, Reason] = {}


def _labels(
    frame_by_frame: FrameByFrame, reader: OptionReader, questions: Sequence[Question], shard: Shard
) -> LabelColumns:
    """Label every frame of the questions' clips."""
    if not questions:
        return LabelColumns()
    labeller = _Labeller(reader, questions)
    prepared = labeller.prepared
    answered = frame_by_frame.ask(labeller, questions, shard)
    options = reader.values(answered.values, [prepared[number] for number in answered.number])
    failed: dict[str, Reason] = {}
    for number, index, value in zip(answered.number.tolist(), answered.frame_index.tolist(), options, strict=True):
        if problem := value.problem_of(f"frame {index}: "):
            failed.setdefault(prepared[number].question.question_id, problem)
    kept = np.flatnonzero([prepared[number].question.question_id not in failed for number in answered.number])
    numbers = answered.number[kept]
    predictions = np.array([int(options[row].values.argmax()) for row in kept], np.int64)
    answers = np.array([each.question.answer_index for each in prepared], np.int64)
    columns = {
        **{name: column[kept] for name, column in answered.places().items()},
        "label": predictions == answers[numbers],
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
