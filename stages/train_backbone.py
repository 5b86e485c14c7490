"""Stand-in: nothing is trained."""

from __future__ import annotations

from pydantic import Field

from pipeline.output import Output
from pipeline.stage import Config, RunContext, stage
from stages.import_backbone import Backbone


class TrainBackbone(Config):
    """Stand-in."""

    seed: int = Field(0, ge=0, description="seed")


@stage(version=1, output=Backbone)
def train_backbone(cfg: TrainBackbone, run: RunContext, *, out: Output) -> None:
    """Stand-in."""
    raise NotImplementedError
