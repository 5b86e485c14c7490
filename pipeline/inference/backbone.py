"""Artifacts of frozen models: BLIP-2, and the base of other models in folders of weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cache.errors import MissingSourceError
from pipeline.engine.output import Output
from pipeline.engine.stage import Artifact, RunContext
from pipeline.engine.weights import Weights
from pipeline.inference.resident import resident

if TYPE_CHECKING:
    from pipeline.models.config import ModelConfig
    from pipeline.models.language import Language
    from pipeline.models.verbalizer import Verbalizer
    from pipeline.models.vision import VisionEncoder


class ImportedModel(Artifact):
    """Weights outside the store: facts about the model and the digests of its files."""

    note: ClassVar[str]  # name of the artifact's file with this content

    def description(self) -> dict[str, Any]:
        """Return the weights' name, their files' SHA-256, and the model's identity and sizes."""
        content: dict[str, Any] = json.loads(self.checked_file(self.note).read_text())
        return content

    @classmethod
    def note_weights(cls, weights: Weights, facts: Mapping[str, Any], out: Output) -> None:
        """Write the weights' name, their files' SHA-256 and facts about the model; refuse weights that were replaced since."""
        weights.refuse_changed()
        content = {"name": weights.name, "files": dict(weights.files), **facts}
        (out.folder / cls.note).write_text(json.dumps(content, indent=1, sort_keys=True))
        out.add_file(cls.note)

    @contextmanager
    def folder(self, run: RunContext) -> Iterator[Path]:
        """Yield the folder of the weights on this machine.

        Raises:
            MissingSourceError: they are missing, have other content, or were replaced within the block.
        """
        description = self.description()
        assert run.sources is not None
        weights = run.sources.weights(description["name"])
        if weights.problem:
            raise MissingSourceError(weights.problem)
        digests = set(weights.files.values())
        changed = {name for name, digest in description["files"].items() if digest not in digests}
        if changed:
            raise MissingSourceError(
                f"{weights.path}: {', '.join(sorted(changed))} differ from the files that {self.id} was built from; "
                "restore those, or run the recipe again to import these as another backbone"
            )
        assert weights.path is not None
        yield weights.path
        weights.refuse_changed()


class Backbone(ImportedModel):
    """The frozen ViT and language model of one BLIP-2."""

    kind = "backbone"
    note = "backbone.json"

    def feature_shape(self) -> tuple[int, int]:
        """Return (tokens, width) of one frame's features: (257, 1408) for ViT-g."""
        tokens, width = self.description()["feature_shape"]
        return tokens, width

    def encoder_fingerprint(self) -> str:
        """Return the fingerprint of the ViT: backbones with the same ViT share features, even if the language models differ."""
        return str(self.description()["encoder"])

    def vision_encoder(self, run: RunContext, precision: str) -> VisionEncoder:
        """Return the frozen ViT on the run's device."""
        import torch

        from pipeline.models.checkpoint import load_vision_encoder

        def load() -> VisionEncoder:
            with self.folder(run) as folder:
                return load_vision_encoder(self.sizes(folder), folder, getattr(torch, precision), run.torch_device())

        return resident(self, "vision", precision, run, load)

    def language(self, run: RunContext, precision: str) -> Language:
        """Return the frozen language model and its tokenizer on the run's device. Raises as `load_language_in`."""
        from pipeline.models.eight_bits import load_language_in

        def load() -> Language:
            with self.folder(run) as folder:
                return load_language_in(precision, self.sizes(folder), folder, run.torch_device())

        return resident(self, "language", precision, run, load)

    def verbalizer(self, run: RunContext) -> Verbalizer:
        """Return the tokenizer."""
        from pipeline.models.checkpoint import load_verbalizer

        with self.folder(run) as folder:
            return load_verbalizer(self.sizes(folder), folder)

    def config(self, run: RunContext) -> ModelConfig:
        """Return the sizes of the model."""
        with self.folder(run) as folder:
            return self.sizes(folder)

    def sizes(self, folder: Path) -> ModelConfig:
        """Return the sizes of the model in a folder."""
        from pipeline.models.config import read_blip2_config

        return read_blip2_config(folder)


class StoredBackbone(Backbone):
    """A backbone whose artifact contains the weights."""

    @contextmanager
    def folder(self, run: RunContext) -> Iterator[Path]:
        """Yield the artifact's own folder. Raises `CorruptArtifactError` if a file of the weights has changed."""
        for name in FILES:
            self.checked_file(name)
        yield self.path


FILES = ("config.json", "model.safetensors", "tokenizer.json")


def backbone_facts(folder: Path) -> dict[str, Any]:
    """Return the fingerprint of the ViT and the sizes of a BLIP-2 in a folder in the Hugging Face layout.

    Raises:
        CheckpointError: a file or tensor is missing or superfluous, or they do not belong together.
    """
    from pipeline.models.checkpoint import check_blip2, load_verbalizer, vision_fingerprint
    from pipeline.models.config import read_blip2_config

    config = read_blip2_config(folder)
    load_verbalizer(config, folder)
    check_blip2(config, folder)
    return {
        "encoder": vision_fingerprint(config, folder),
        "feature_shape": list(config.feature_shape),
        "image_size": config.image_size,
    }


def describe_backbone(out: Output) -> None:
    """Add the weights that a stage has written into its artifact's folder, and their facts. Raises as `backbone_facts`."""
    content = {"name": "", "files": {}, **backbone_facts(out.folder)}  # no files outside the artifact
    (out.folder / Backbone.note).write_text(json.dumps(content, indent=1, sort_keys=True))
    for name in (*FILES, Backbone.note):
        out.add_file(name)
