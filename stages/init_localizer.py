"""The released trainable part of the Localizer: from BLIP-2, or from an official SeViLA checkpoint."""

from __future__ import annotations

from pipeline.engine.output import Output
from pipeline.engine.stage import RunContext, stage
from pipeline.engine.weights import Weights
from pipeline.inference.backbone import Backbone
from pipeline.inference.visual_prompt_weights import InitWeights, VisualPromptWeights, copy_weights


class LocalizerWeights(VisualPromptWeights):
    """LayerNorm, query tokens, Q-Former and projection of a Localizer."""

    kind = "localizer_weights"


@stage(version=1, output=LocalizerWeights)
def init_localizer(
    cfg: InitWeights, run: RunContext, backbone: Backbone, checkpoint: Weights | None, *, out: Output
) -> None:
    """Copy the Localizer's weights from BLIP-2 or from an official SeViLA checkpoint, by a strict key table."""
    copy_weights("localizer", run, backbone, checkpoint, out)
