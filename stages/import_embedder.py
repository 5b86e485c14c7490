"""Import of a CLIP or SigLIP as a frozen model, identified by content; its files are referenced, not copied."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from cache.fingerprint import fingerprint
from pipeline.engine.output import Output
from pipeline.engine.stage import Config, RunContext, stage
from pipeline.engine.weights import Weights
from pipeline.inference.backbone import ImportedModel
from pipeline.inference.resident import resident

if TYPE_CHECKING:
    from pipeline.models.embedder import Embedder


class EmbedderWeights(ImportedModel):
    """A frozen CLIP or SigLIP: its sizes and the digests of its weight files."""

    kind = "embedder"
    note = "embedder.json"

    def identity(self) -> str:
        """Return the fingerprint of the weights, independent of their name."""
        return fingerprint(sorted(self.description()["files"].values()))

    def load(self, run: RunContext, precision: str) -> Embedder:
        """Return the model on the run's device."""
        import torch

        from pipeline.models.embedder import load_embedder

        def load() -> Embedder:
            with self.folder(run) as folder:
                return load_embedder(folder, getattr(torch, precision), run.torch_device())

        return resident(self, "embedder", precision, run, load)


class ImportEmbedder(Config):
    """Which CLIP or SigLIP."""

    weights: str = Field(
        "openai/clip-vit-large-patch14",
        description="name of a CLIP or SigLIP with a path in --weights NAME=PATH or sevila.toml; else a hub id",
    )


@stage(version=1, output=EmbedderWeights)
def import_embedder(cfg: ImportEmbedder, run: RunContext, weights: Weights, *, out: Output) -> None:
    """Check that a folder holds a complete CLIP or SigLIP, and record its identity."""
    from pipeline.models.embedder import describe_embedder

    assert weights.path is not None
    EmbedderWeights.note_weights(weights, describe_embedder(weights.path), out)
