"""Training a frame selector on answers alone: the frozen Answerer answers from the frames that the selector picks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pipeline.engine.pooled import PooledArtifact
from pipeline.engine.recipe import TRAINED_SELECTORS
from pipeline.engine.stage import RunContext
from pipeline.inference.backbone import Backbone
from pipeline.inference.visual_prompt_weights import VisualPromptWeights
from pipeline.models.prompts import AnsweringPrompt
from pipeline.training.answerer_training import AnswererTask
from pipeline.training.prompt_training import Data, HeldOutSplit, visual_tokens
from pipeline.training.task import TrainingConfig

if TYPE_CHECKING:
    from torch import Tensor

ATP, TOP_K = TRAINED_SELECTORS


class SelectorTraining(TrainingConfig):
    """How a selector is trained; SeViLA's authors published no details of theirs."""

    selector: Literal["atp", "differentiable_top_k"] = Field(
        "atp",
        description="how frames are selected in training: atp, one frame sampled by score (straight-through Gumbel softmax); or "
        "differentiable_top_k, the expected top k under noise",
    )
    k: int = Field(4, ge=1, description="frames that differentiable_top_k selects; atp always selects one")
    noise_deviation: float = Field(
        0.05, gt=0, description="standard deviation of the noise on differentiable_top_k's scores, which are in [0, 1]"
    )
    noise_draws: int = Field(500, ge=1, description="noise samples over which the expected top k is averaged")
    learning_rate: float = Field(1e-4, gt=0, le=1, description="peak learning rate, after the warm-up")
    warmup_steps: int = Field(500, ge=0, description="optimizer steps of linear warm-up; then cosine down to 0")
    micro_batch_size: int = Field(
        8,
        ge=1,
        description="questions in one forward pass: bounds memory; processes share the micro-batches of a batch. Part of the "
        "identity, because each micro-batch draws its own noise",
    )
    prompt: AnsweringPrompt = "multiple_choice"


class SelectorTask:
    """Predict the correct option from selected frames (a `Task`); a row is a question with all frames of its clip."""

    judged_by = AnswererTask.judged_by
    n_counts = AnswererTask.n_counts

    def __init__(
        self,
        cfg: SelectorTraining,
        split: HeldOutSplit,
        features: PooledArtifact,
        backbone: Backbone,
        weights: VisualPromptWeights,
        run: RunContext,
    ) -> None:
        import torch

        from pipeline.models.frame_selector import FrameSelector

        self._cfg = cfg
        self._answering = answering = AnswererTask(cfg, split, features, backbone, weights, run)
        self._answerer = answering.answerer
        self._answerer.prompt.requires_grad_(False).eval()
        with torch.random.fork_rng(devices=[]):  # the same initial weights in every process
            torch.manual_seed(cfg.seed)
            self.module = FrameSelector(self._answerer.prompt.projection.out_features)
        self.module.to(self._answerer.language.device)
        self.n_samples, self.load, self.cut = answering.n_samples, answering.load, answering.cut
        self.validation, self.figures, self.names = answering.validation, answering.figures, answering.names

    def loss(self, data: Data) -> Tensor:
        """Return the summed cross-entropy of "Option X" given the selected frames, a float32 scalar."""
        from pipeline.models.frame_selector import one_frame, top_k_frames

        cfg = self._cfg
        visual, scores = self._scored(data)
        if cfg.selector == ATP:
            passed = one_frame(scores)
        else:
            passed = top_k_frames(scores, self._n_passed(scores), cfg.noise_draws, cfg.noise_deviation)
        return self._answering.loss_of(data, self._mixed(passed, visual))

    def judge(self, data: Data) -> Tensor:
        """Return the counts of `AnswererTask.judge` given the best frame (atp), or the best k."""
        from pipeline.models.perturbed_top_k import hard_top_k

        visual, scores = self._scored(data)
        return self._answering.judged(data, self._mixed(hard_top_k(scores, self._n_passed(scores)), visual))

    def _n_passed(self, scores: Tensor) -> int:
        return 1 if self._cfg.selector == ATP else min(self._cfg.k, scores.shape[1])

    def _scored(self, data: Data) -> tuple[Tensor, Tensor]:
        """Return the frames' visual tokens [R, T, Q, L], without gradient, and their scores [R, T]."""
        import torch

        from pipeline.models.frame_selector import text_vectors

        with torch.no_grad():
            visual = visual_tokens(self._answerer, data)
            texts = text_vectors(self._answerer.language, self._answering.token_ids(data))
        return visual, self.module(visual.mean(dim=2), texts)

    @staticmethod
    def _mixed(passed: Tensor, visual: Tensor) -> Tensor:
        """Return the selected visual tokens [R, K, Q, L], given indicators or shares [R, K, T] and all frames' tokens."""
        mixed: Tensor = (passed.float() @ visual.flatten(2)).unflatten(2, visual.shape[2:])
        return mixed
