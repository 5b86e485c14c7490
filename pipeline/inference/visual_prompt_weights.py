"""The base of the artifacts of Localizer and Answerer weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field

from pipeline.engine.output import Output
from pipeline.engine.row_schema import schema_of
from pipeline.engine.stage import Artifact, Config, RunContext
from pipeline.engine.weights import Weights
from pipeline.inference.backbone import Backbone
from pipeline.inference.resident import resident
from pipeline.precision import activations

if TYPE_CHECKING:
    from pipeline.models.visual_prompt import VisualPrompt

FILE = "visual_prompt.safetensors"


class TrainingStep(NamedTuple):
    """One optimizer step; a row of the table `curves`."""

    step: int  # steps done, from 1
    epoch: int  # from 0
    loss: float  # mean cross-entropy of the batch's target tokens, before the step
    learning_rate: float  # of the step
    gradient_norm: float  # before clipping
    frames_per_second: float  # by the wall clock


class ValidationFigure(NamedTuple):
    """One figure over the held-out videos at the end of an epoch; a row of the table `validation`, empty without such videos."""

    step: int  # steps done, from 1
    epoch: int  # from 0
    figure: str  # loss, accuracy, ...
    value: float  # a loss, a share from 0 to 1, or a number of rows


class VisualPromptWeights(Artifact):
    """LayerNorm, query tokens, Q-Former and projection, float32, in safetensors; after a training, with its curves."""

    tables = {"curves": schema_of(1, TrainingStep), "validation": schema_of(1, ValidationFigure)}
    measured = ("curves",)

    def identity(self) -> str:
        """Return the digest of the weights, which does not depend on their origin."""
        return str(self.record.files[FILE]["sha256"])

    def load(self, run: RunContext, backbone: Backbone, precision: str) -> VisualPrompt:
        """Return the frozen module on the run's device, with matrix products in `precision`, or bfloat16 if that has 8 bits."""
        return resident(
            self,
            "visual prompt",
            precision,
            run,
            lambda: self.load_to_train(run, backbone, precision).requires_grad_(False),
        )

    def load_to_train(self, run: RunContext, backbone: Backbone, precision: str) -> VisualPrompt:
        """Return a module as `load` does that is shared with no other step, and whose parameters require a gradient."""
        import torch

        from pipeline.models.checkpoint import load_saved_visual_prompt

        prompt = load_saved_visual_prompt(backbone.config(run), self.checked_file(FILE), run.torch_device())
        prompt.compute_dtype = getattr(torch, activations(precision))
        return prompt


class InitWeights(Config):
    """The source of a part's weights."""

    weights: str = Field("", description="name of an official SeViLA checkpoint; empty: BLIP-2's own Q-Former")


def copy_weights(
    part: Literal["localizer", "answerer"], run: RunContext, backbone: Backbone, checkpoint: Weights | None, out: Output
) -> None:
    """Write one part's weights from an official checkpoint, or from the backbone's BLIP-2 without one."""
    from pipeline.models.checkpoint import load_visual_prompt, save_tensors

    if checkpoint is None:
        with backbone.folder(run) as folder:
            prompt = load_visual_prompt(backbone.config(run), folder, "blip2")
    else:
        assert checkpoint.path is not None
        prompt = load_visual_prompt(backbone.config(run), checkpoint.path, part)
        checkpoint.refuse_changed()
    save_tensors(prompt.state_dict(), out.folder / FILE)
    out.add_file(FILE)
