"""Contents of a file or folder of weights in any layout: the ViT, the language model, a Localizer, an Answerer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cache.errors import CheckpointError
from pipeline.models import keys
from pipeline.models.checkpoint import read_tensor
from pipeline.models.languages.t5 import T5
from pipeline.models.tensors import TensorReaders, open_checkpoint

FOLDER_TABLES = {
    "ViT": keys.HUGGING_FACE_VISION,
    "language model": keys.HUGGING_FACE_LANGUAGE,
    "Q-Former": keys.HUGGING_FACE_PROMPT,
}
FILE_TABLES = {
    "ViT": keys.OFFICIAL_VISION,
    "language model": keys.OFFICIAL_LANGUAGE,
    "Localizer": keys.OFFICIAL_LOCALIZER,
    "Answerer": keys.OFFICIAL_ANSWERER,
}
# Each has LayerNorm, query tokens, Q-Former and projection, so that any two can be compared.
Q_FORMERS = ("Q-Former", "Localizer", "Answerer")
OWN_PREFIXES = ("layer_norm.", "projection.", "qformer.")


@dataclass(frozen=True)
class WeightParts:
    """Opened weights; `parts` has the foreign names of each tensor, by part and our name."""

    path: Path
    readers: TensorReaders
    parts: Mapping[str, Mapping[str, list[str]]]

    def tensor(self, part: str, own: str) -> Tensor:
        """Return a tensor of a part by our name, in the shape and dtype of the file. Raises `CheckpointError`."""
        return read_tensor(self.path, self.readers, self.parts[part][own])

    def size(self, part: str) -> tuple[int, int]:
        """Return the numbers of tensors and of elements of a part; reads the tensors."""
        return len(self.parts[part]), sum(self.tensor(part, own).numel() for own in self.parts[part])


def open_weights(path: Path, own_part: str = "Q-Former") -> WeightParts:
    """Return the parts in a file or folder; `own_part` is the part of a file with our own names.

    Raises:
        CheckpointError: it has no weights of these models.
    """
    readers = open_checkpoint(path)
    tables = FOLDER_TABLES if path.is_dir() else FILE_TABLES
    if "query_tokens" in readers and all(name.startswith((*OWN_PREFIXES, "query_tokens")) for name in readers):
        tables = {own_part: keys.OWN}
    parts = {}
    for part, table in tables.items():
        sources, _ = table.resolve(readers)
        copies = [own for own in T5.copies if part == "language model" and T5.copies[own] in sources]
        parts[part] = {own: names for own, names in sources.items() if own not in copies}
    parts = {part: sources for part, sources in parts.items() if sources}
    if not parts:
        first = ", ".join(sorted(readers)[:3])
        raise CheckpointError(
            f"{path}: has no weights of a BLIP-2 or of SeViLA (first tensors: {first}); expected a BLIP-2 in the Hugging Face "
            "layout, or a file with official names"
        )
    return WeightParts(path, readers, parts)


class TensorDifference(NamedTuple):
    """A tensor that differs: the largest difference, or why it cannot be computed."""

    part: str
    tensor: str
    max_difference: float | None
    problem: str = ""


class PartComparison(NamedTuple):
    """A part of A against a part of B."""

    part_a: str
    part_b: str
    n_tensors: int
    differences: list[TensorDifference]

    @property
    def max_difference(self) -> float:
        """The largest difference of all tensors."""
        return max((tensor.max_difference or 0.0 for tensor in self.differences), default=0.0)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        differences = [tensor._asdict() for tensor in self.differences]
        return self._asdict() | {"max_difference": self.max_difference, "differences": differences}

    def lines(self, shown: int) -> list[str]:
        """Return readable lines with the `shown` tensors that differ most."""
        parts = self.part_a if self.part_a == self.part_b else f"{self.part_a} against {self.part_b}"
        if not self.differences:
            return [f"{parts}: all {self.n_tensors} tensors are equal to the bit"]
        head = (
            f"{parts}: {len(self.differences)} of {self.n_tensors} tensors differ, by {self.max_difference:.3g} at most"
        )
        worst = sorted(self.differences, key=lambda item: -(item.max_difference or float("inf")))
        lines = [f"  {item.tensor}: {item.problem or f'{item.max_difference:.3g}'}" for item in worst[:shown]]
        return [head, *lines, *([f"  and {len(worst) - shown} more"] if len(worst) > shown else [])]


def compare_weights(a: WeightParts, b: WeightParts) -> list[PartComparison]:
    """Return a comparison of each common part; if no Q-Former is common by name, of all pairs of the two's Q-Formers.

    Raises:
        CheckpointError: they have no part in common.
    """
    pairs = [(part, part) for part in a.parts if part in b.parts]
    if not any(part in Q_FORMERS for part, _ in pairs):
        pairs += [(x, y) for x in a.parts for y in b.parts if x in Q_FORMERS and y in Q_FORMERS]
    if not pairs:
        raise CheckpointError(
            f"{a.path} has {', '.join(a.parts)}, and {b.path} {', '.join(b.parts)}: they have no part in common"
        )
    return [_compare_part(a, b, *pair) for pair in pairs]


def _compare_part(a: WeightParts, b: WeightParts, part_a: str, part_b: str) -> PartComparison:
    names = sorted({*a.parts[part_a], *b.parts[part_b]})
    differences = []
    for name in names:
        if name not in a.parts[part_a] or name not in b.parts[part_b]:
            lacking = a.path if name not in a.parts[part_a] else b.path
            differences.append(TensorDifference(part_a, name, None, f"{lacking} does not have it"))
            continue
        x, y = a.tensor(part_a, name), b.tensor(part_b, name)
        if x.shape != y.shape:
            differences.append(TensorDifference(part_a, name, None, f"{list(x.shape)} against {list(y.shape)}"))
        elif not torch.equal(x.double(), y.double()):
            differences.append(TensorDifference(part_a, name, float((x.double() - y.double()).abs().max())))
    return PartComparison(part_a, part_b, len(names), differences)
