"""The reverse chain's labels: is this frame alone enough for the right answer?"""

from __future__ import annotations

from cache.tables import Schema
from pipeline.stage import Artifact


class PseudoLabels(Artifact):
    """One row per (question, frame): whether the Answerer gives the right answer from this frame alone."""

    kind = "pseudo_labels"
    tables = {
        "pseudo_labels": Schema(
            1,
            question_id="string",
            video_id="string",
            position="int32",
            frame_index="int64",
            seconds="float64",
            label="bool",
            prediction="int8",
            option_logits="list<float32>",
            truncated="bool",
        ),
        "verdicts": Schema(
            1,
            question_id="string",
            video_id="string",
            status="string",
            reason="string",
            n_frames="int32",
            n_yes="int32",
            vote_prediction="int8",
            votes="list<int32>",
            any_frame_right="bool",
        ),
    }
