"""Training of the tiny Shapes backbone from scratch; later stages keep it frozen, as they do BLIP-2."""

from __future__ import annotations

from pydantic import Field

from cache.tables import Schema
from pipeline.engine.output import Output
from pipeline.engine.progress import steps_bar
from pipeline.engine.stage import Config, RunContext, stage
from pipeline.inference.backbone import StoredBackbone, describe_backbone


class TrainedBackbone(StoredBackbone):
    """A backbone with stored weights, and its accuracies on held-out texts and images."""

    tables = {"figures": Schema(1, phase="string", figure="string", share="float64")}


class TrainBackbone(Config):
    """Seed, length and batch size of the training phases."""

    seed: int = Field(0, ge=0, description="seed of the weights, texts and images")
    reading_steps: int = Field(1600, ge=1, description="steps of the language model on written frames and questions")
    seeing_steps: int = Field(500, ge=1, description="steps of the ViT on single images")
    telling_steps: int = Field(400, ge=1, description="steps of the Q-Former with ViT and language model frozen")
    batch_size: int = Field(128, ge=4, description="texts or images per step")


@stage(version=3, output=TrainedBackbone, resumes=True)
def train_backbone(cfg: TrainBackbone, run: RunContext, *, out: Output) -> None:
    """Train a tiny BLIP-2 from scratch on single images and text of the Shapes world, not on its videos or questions.

    Always on the CPU: the same number of threads gives the same bytes. After an interruption, resume after the last finished
    phase.
    """
    from pipeline.shapes.backbone import PHASES, ShapesBackbone, read_phase_state

    backbone = ShapesBackbone(out.folder, cfg.seed)
    steps = {"read": cfg.reading_steps, "see": cfg.seeing_steps, "tell": cfg.telling_steps}
    snapshot = out.snapshots.newest(lambda path: (int(path.stem), read_phase_state(path)))
    n_done = 0
    if snapshot is not None:
        n_done, state = snapshot
        backbone.load_state(state)
    for number, phase in enumerate(PHASES[n_done:], start=n_done + 1):
        with out.phase(phase):
            backbone.train(phase, steps[phase], cfg.batch_size, steps_bar)
        out.snapshots.save(number, backbone.save_state)
    backbone.save()
    out.write_rows(
        "figures",
        [
            {"phase": phase, "figure": figure, "share": share}
            for phase, figures in backbone.figures().items()
            for figure, share in figures.items()
        ],
    )
    describe_backbone(out)
