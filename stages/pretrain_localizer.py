"""Stand-in: the weights pass through untrained."""

from __future__ import annotations

from pydantic import Field

from pipeline.output import Output
from pipeline.stage import Config, RunContext, stage
from stages.extract_features import Features
from stages.import_backbone import Backbone
from stages.init_localizer import LocalizerWeights
from stages.list_questions import Questions
from stages.sample_frames import Frames
from stages.visual_prompt_weights import FILE


class PretrainLocalizer(Config):
    """Stand-in."""

    learning_rate: float = Field(3e-5, gt=0, description="learning rate")
    seed: int = Field(0, ge=0, description="seed")
    prompt: str = Field("moment", description="kind of question")


@stage(version=1, output=LocalizerWeights)
def pretrain_localizer(
    cfg: PretrainLocalizer,
    run: RunContext,
    questions: Questions,
    frames: Frames,
    features: Features,
    backbone: Backbone,
    localizer: LocalizerWeights,
    *,
    out: Output,
) -> None:
    """Stand-in."""
    (out.folder / FILE).write_bytes(localizer.checked_file(FILE).read_bytes())
    out.add_file(FILE)
