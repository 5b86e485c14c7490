"""Stand-in: the weights pass through untrained."""

from __future__ import annotations

from pydantic import Field

from pipeline.output import Output
from pipeline.stage import Config, RunContext, stage
from stages.extract_features import Features
from stages.import_backbone import Backbone
from stages.init_answerer import AnswererWeights
from stages.list_questions import Questions
from stages.select_keyframes import Keyframes
from stages.visual_prompt_weights import FILE


class FinetuneAnswerer(Config):
    """Stand-in."""

    learning_rate: float = Field(3e-5, gt=0, description="learning rate")
    seed: int = Field(0, ge=0, description="seed")
    prompt: str = Field("multiple_choice", description="kind of question")


@stage(version=1, output=AnswererWeights)
def finetune_answerer(
    cfg: FinetuneAnswerer,
    run: RunContext,
    questions: Questions,
    keyframes: Keyframes,
    features: Features,
    backbone: Backbone,
    answerer: AnswererWeights,
    *,
    out: Output,
) -> None:
    """Stand-in."""
    (out.folder / FILE).write_bytes(answerer.checked_file(FILE).read_bytes())
    out.add_file(FILE)
