"""Import of BLIP-2 weights as the frozen backbone, identified by content; large files are referenced, not copied."""

from __future__ import annotations

from pydantic import Field

from pipeline.engine.output import Output
from pipeline.engine.stage import Config, RunContext, stage
from pipeline.engine.weights import Weights
from pipeline.inference.backbone import Backbone, backbone_facts


class ImportBackbone(Config):
    """Which BLIP-2 is the backbone."""

    weights: str = Field(
        "Salesforce/blip2-flan-t5-xl",
        description="name of a BLIP-2 (Flan-T5, OPT, LLaMA) with a path in --weights NAME=PATH or sevila.toml; else a hub id",
    )


@stage(version=2, output=Backbone)
def import_backbone(cfg: ImportBackbone, run: RunContext, weights: Weights, *, out: Output) -> None:
    """Check that a folder holds a complete, supported BLIP-2, and record its identity."""
    assert weights.path is not None
    Backbone.note_weights(weights, backbone_facts(weights.path), out)
