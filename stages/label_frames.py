"""Stand-in: no labels."""

from __future__ import annotations

from pydantic import Field

from cache.tables import Schema
from pipeline.output import Shard, ShardedOutput
from pipeline.stage import Artifact, Config, RunContext, stage
from stages.extract_features import Features
from stages.import_backbone import Backbone
from stages.init_answerer import AnswererWeights
from stages.list_questions import Questions
from stages.sample_frames import Frames


class PseudoLabels(Artifact):
    """Stand-in."""

    kind = "pseudo_labels"
    tables = {"verdicts": Schema(1, question_id="string")}

    def text(self) -> str:
        return "stand-in"


class LabelFrames(Config):
    """Stand-in."""

    prompt: str = Field("multiple_choice", description="kind of question")


@stage(version=1, output=PseudoLabels, sharded=True)
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
    """Stand-in."""

    def work(shard: Shard) -> None:
        shard.write_rows("verdicts", [])

    out.each_shard(lambda: ([[0]], {}), work)
