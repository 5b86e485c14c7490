"""Code shared by the trainings of Localizer and Answerer: a VisualPrompt is trained on cached features of questions' frames."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cache.errors import SevilaError
from cache.pool_reader import PoolReader
from pipeline.engine.output import Output
from pipeline.engine.pooled import PooledArtifact
from pipeline.engine.progress import steps_bar
from pipeline.engine.stage import RunContext
from pipeline.inference.backbone import Backbone
from pipeline.inference.not_finite import LOSS
from pipeline.inference.visual_prompt_weights import FILE, VisualPromptWeights
from pipeline.inference.visual_windows import queries_of
from pipeline.models.transfer import to_device
from pipeline.training.task import MicroBatch, Task, TrainingConfig, TrainingJob, train

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.answerer import Answerer
    from pipeline.models.language import Language
    from pipeline.models.localizer import Localizer
    from pipeline.models.visual_prompt import VisualPrompt

log = logging.getLogger("sevila")

HELD_BYTES = 1 << 30  # size of the cache of features in memory, enough for a small data set


class MicroBatchRow(NamedTuple):
    """One row of a micro-batch: a sample's number, and the stored rows of its video that the model reads together."""

    sample: int
    stored: tuple[int, ...]
    target: int


class Data(NamedTuple):
    """A loaded micro-batch: features [F, P, D] of the distinct frames, and for each row the indices of its frames, [R, K]."""

    rows: Sequence[MicroBatchRow]
    features: Any
    where: np.ndarray


@dataclass(frozen=True)
class HeldOutSplit:
    """Questions to train on and to validate with; no video is in both."""

    train: list[Any]
    held_out: list[Any]


def split_by_video(samples: list[Any], percent: float, seed: int, name: str) -> HeldOutSplit:
    """Hold out `percent` of the videos, chosen by a hash of seed and video id, with all their questions."""

    def rank(video_id: str) -> bytes:
        return hashlib.sha256(f"{seed} {video_id}".encode()).digest()

    videos = sorted({sample.video_id for sample in samples}, key=rank)
    n_held_out = round(len(videos) * percent / 100)
    if percent and not n_held_out:
        log.info("%s: %d videos are too few to hold out %g %% of them: no validation", name, len(videos), percent)
    held_out = set(videos[:n_held_out])
    return HeldOutSplit(
        [sample for sample in samples if sample.video_id not in held_out],
        [sample for sample in samples if sample.video_id in held_out],
    )


def train_prompt(
    out: Output, cfg: TrainingConfig, run: RunContext, make_task: Callable[[RunContext], Task], file: str = FILE
) -> None:
    """Train, and write the weights to `file`, and the curves."""
    from pipeline.models.checkpoint import save_tensors

    name = out.stage.name
    with out.phase("train"):
        trained = train(TrainingJob(name, out.folder.name, cfg, run, out.snapshots, make_task, steps_bar))
    out.hardware = trained.hardware
    if trained.n_left_out:
        out.dropped.update({LOSS: trained.n_left_out})
    save_tensors(trained.weights, out.folder / file)
    out.add_file(file)
    out.write_rows("curves", trained.curves)
    out.write_rows("validation", trained.validation)


def trained_parts(
    cfg: TrainingConfig, run: RunContext, backbone: Backbone, weights: VisualPromptWeights
) -> tuple[VisualPrompt, Language]:
    """Return a VisualPrompt of this training's own, and the frozen language model, which other steps share."""
    language = backbone.language(run, cfg.precision)
    prompt = weights.load_to_train(run, backbone, cfg.precision)
    return prompt, language.saving_memory() if cfg.gradient_checkpointing else language


def refuse_no_samples(samples: list[Any], skipped: Counter[str], name: str, required: str, out: Output) -> None:
    """Record the counts of skipped questions by reason; raise `SevilaError` if there is no sample."""
    out.dropped.update(skipped)
    if not samples:
        reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.most_common()) or "there is no question"
        raise SevilaError(f"{name}: no question to train on: {reasons}; expected {required}")


def micro_batches(samples: Sequence[int], lengths: Sequence[int], size: int) -> list[list[int]]:
    """Cut a batch into micro-batches of `size` questions with similar lengths of text, to minimise padding."""
    order = sorted(samples, key=lambda number: lengths[number])
    return [order[start : start + size] for start in range(0, len(order), size)]


class FrameReader:
    """Reads the features of micro-batches, each frame once per micro-batch; not thread-safe."""

    def __init__(self, features: PooledArtifact, video_of: Callable[[int], str]) -> None:
        queries_of(features, None)  # raises unless these are ViT features, which training needs
        self._features = features
        self._video_of = video_of
        self._held: dict[str, np.ndarray] = {}
        self._held_bytes = self._frame_bytes = 0

    def load(self, micro_batch: MicroBatch) -> Data:
        """Return a micro-batch with the features of its frames."""
        rows_of: dict[str, set[int]] = {}
        for row in micro_batch.rows:
            rows_of.setdefault(self._video_of(row.sample), set()).update(row.stored)
        groups = [(video_id, sorted(stored)) for video_id, stored in sorted(rows_of.items())]
        features = np.concatenate([self._frames(video_id, stored) for video_id, stored in groups])
        frames = [(video_id, stored) for video_id, rows in groups for stored in rows]
        index = {frame: number for number, frame in enumerate(frames)}
        where = [[index[self._video_of(row.sample), stored] for stored in row.stored] for row in micro_batch.rows]
        return Data(micro_batch.rows, features, np.array(where))

    @cached_property
    def _pool(self) -> PoolReader:
        return self._features.open()

    def _frames(self, video_id: str, rows: list[int]) -> np.ndarray:
        if video_id not in self._held:
            self._frame_bytes = self._frame_bytes or self._pool.read(video_id, rows[:1]).nbytes
            n_bytes = self._pool.n_rows(video_id) * self._frame_bytes
            if self._held_bytes + n_bytes > HELD_BYTES:
                return self._pool.read(video_id, rows)
            self._held[video_id] = self._pool.read(video_id, slice(None))
            self._held_bytes += n_bytes
        return self._held[video_id][rows]


def visual_tokens(model: Localizer | Answerer, data: Data) -> Tensor:
    """Return visual tokens [R, K, Q, L] of a micro-batch, with gradients; the Q-Former runs once per distinct frame."""
    device = str(model.language.device)
    visual = model.prompt(to_device(data.features, device))  # [F, Q, L]
    # Not visual[where], whose gradient is summed in no fixed order.
    chosen = visual.index_select(0, to_device(data.where.ravel(), device))
    return chosen.unflatten(0, data.where.shape)
