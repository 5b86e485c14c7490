"""BLIP-2 weights on this machine -> the frozen backbone by content; large files are referenced, not copied."""

from __future__ import annotations

from pydantic import Field

from pipeline.engine.output import Output
from pipeline.engine.stage import Config, RunContext, stage
from pipeline.engine.weights import Weights
from pipeline.inference.backbone import Backbone


class ImportBackbone(Config):
    """Which BLIP-2 to build on."""

    weights: str = Field(
        "Salesforce/blip2-flan-t5-xl",
        description="name of a BLIP-2 Flan-T5: placed by --weights NAME=PATH or sevila.toml, else a model hub id",
    )


@stage(version=2, output=Backbone)
def import_backbone(cfg: ImportBackbone, run: RunContext, weights: Weights, *, out: Output) -> None:
    """Check that a folder holds a complete BLIP-2 Flan-T5 that fits, and note what identifies it."""
    from pipeline.models.checkpoint import check_blip2, vision_fingerprint
    from pipeline.models.config import read_blip2_config
    from pipeline.models.verbalizer import Verbalizer

    assert weights.path is not None
    config = read_blip2_config(weights.path)
    Verbalizer(weights.path / "tokenizer.json")
    check_blip2(config, weights.path)
    facts = {
        "encoder": vision_fingerprint(config, weights.path),
        "feature_shape": list(config.feature_shape),
        "image_size": config.image_size,
    }
    Backbone.note_weights(weights, facts, out)
