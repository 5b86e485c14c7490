"""The Answerer's trainable part, as released: BLIP-2's own, or the Answerer of an official SeViLA checkpoint."""

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
    """Take the Answerer's weights out of BLIP-2, or out of an official SeViLA checkpoint, strictly."""
    copy_weights("answerer", run, backbone, checkpoint, out)
