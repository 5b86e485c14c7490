"""The released trainable part of the Answerer: from BLIP-2, or from an official SeViLA checkpoint."""

from __future__ import annotations

from pipeline.engine.output import Output
from pipeline.engine.stage import RunContext, stage
from pipeline.engine.weights import Weights
from pipeline.inference.backbone import Backbone
from pipeline.inference.visual_prompt_weights import InitWeights, VisualPromptWeights, copy_weights


class AnswererWeights(VisualPromptWeights):
    """LayerNorm, query tokens, Q-Former and projection of an Answerer."""

    kind = "answerer_weights"


@stage(version=1, output=AnswererWeights)
def init_answerer(
    cfg: InitWeights, run: RunContext, backbone: Backbone, checkpoint: Weights | None, *, out: Output
) -> None:
    """Copy the Answerer's weights from BLIP-2 or from an official SeViLA checkpoint, by a strict key table."""
    copy_weights("answerer", run, backbone, checkpoint, out)
