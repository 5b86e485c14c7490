"""Import of a BLIP-2 for image-text matching as a frozen model, identified by content; its files are referenced, not copied."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pipeline.engine.output import Output
from pipeline.engine.stage import Config, RunContext, stage
from pipeline.engine.weights import Weights
from pipeline.inference.backbone import Backbone
from pipeline.inference.resident import resident

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.models.config import ModelConfig
    from pipeline.models.matcher import Matcher


class MatcherWeights(Backbone):
    """The frozen ViT and matching Q-Former of one BLIP-2: their sizes and the digests of the weight files."""

    kind = "matcher"
    note = "matcher.json"

    def sizes(self, folder: Path) -> ModelConfig:
        """Return the sizes of the model in a folder."""
        from pipeline.models.matcher import read_matcher_config

        return read_matcher_config(folder)

    def matcher(self, run: RunContext) -> Matcher:
        """Return the Q-Former and the matching head on the run's device."""
        from pipeline.models.matcher import load_matcher

        def load() -> Matcher:
            with self.folder(run) as folder:
                return load_matcher(folder, run.torch_device())

        return resident(self, "matcher", "float32", run, load)


class ImportMatcher(Config):
    """Which BLIP-2 for image-text matching."""

    weights: str = Field(
        "Salesforce/blip2-itm-vit-g",
        description="name of a BLIP-2 for image-text matching with a path in --weights NAME=PATH or sevila.toml; else a hub id",
    )


@stage(version=1, output=MatcherWeights)
def import_matcher(cfg: ImportMatcher, run: RunContext, weights: Weights, *, out: Output) -> None:
    """Check that a folder holds a complete BLIP-2 for image-text matching, and record its identity."""
    from pipeline.models.matcher import describe_matcher

    assert weights.path is not None
    MatcherWeights.note_weights(weights, describe_matcher(weights.path), out)
