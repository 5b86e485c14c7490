"""The Shapes backbone: a tiny BLIP-2 Flan-T5, trained from scratch in three phases and saved in Hugging Face's layout.

1. read: T5 on text alone, with frames described in words and questions about them.
2. see: the ViT on single images, with a classification head for each attribute.
3. tell: the Q-Former on features of the frozen ViT, to output the frozen T5's embeddings of the words for the image.

Training uses no video and no question of any split.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from safetensors.torch import load_file, save
from torch import Tensor
from transformers import Blip2ForConditionalGeneration
from transformers.utils import logging

from pipeline.models.t5_language import T5Language
from pipeline.models.verbalizer import Verbalizer
from pipeline.shapes.model import new_model
from pipeline.shapes.optimising import ShowStep
from pipeline.shapes.reading import reading_figures, train_reading
from pipeline.shapes.seeing import describing_figures, train_describing, train_seeing
from pipeline.shapes.tokenizer import write_tokenizer
from pipeline.threads import as_suits

PHASES = ("read", "see", "tell")
HELD_OUT = 1 << 20  # added to the seed for held-out texts and images

Bar = Callable[[str, int, int], AbstractContextManager[ShowStep]]  # (description, steps, steps done)


class ShapesBackbone:
    """The model during training; `save_state` and `load_state` allow resuming after each phase."""

    def __init__(self, folder: Path, seed: int) -> None:
        """Write the tokenizer to `folder`, and initialise an untrained model."""
        write_tokenizer(folder / "tokenizer.json")
        self._folder, self._seed = folder, seed
        self._verbalizer = Verbalizer(folder / "tokenizer.json")
        self.model: Blip2ForConditionalGeneration = new_model(self._verbalizer, seed)
        self._language = T5Language(self.model.language_model, self._verbalizer)

    def train(self, phase: str, steps: int, batch: int, bar: Bar) -> None:
        """Run one phase."""
        with bar(f"train_backbone, {phase}", steps, 0) as show, as_suits(self.model.num_parameters()):
            if phase == "read":
                train_reading(self._language, self._seed, steps, batch, show)
            elif phase == "see":
                train_seeing(self.model, self._seed, steps, batch, show)
            else:
                train_describing(self.model, self._verbalizer, self._seed, steps, batch, show)

    def figures(self) -> dict[str, dict[str, float]]:
        """Return the trained model's accuracies on held-out texts and images: {phase: {figure: share}}."""
        held_out = self._seed + HELD_OUT
        return {
            "read": reading_figures(self._language, held_out),
            "tell": describing_figures(self.model, self._verbalizer, held_out),
        }

    def save_state(self, path: Path) -> None:
        """Write the current parameters."""
        state = {name: tensor.detach().clone().contiguous() for name, tensor in self.model.state_dict().items()}
        path.write_bytes(save(state))  # unlike `save_file`, raises `OSError` if the disk is full

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore parameters that `save_state` wrote."""
        self.model.load_state_dict(state)

    def save(self) -> None:
        """Write `config.json` and `model.safetensors` beside the tokenizer, and nothing else."""
        bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        self.model.save_pretrained(self._folder)
        (self._folder / "generation_config.json").unlink(missing_ok=True)  # unused
        if bars:
            logging.enable_progress_bar()


def read_phase_state(path: Path) -> dict[str, Tensor]:
    """Return the parameters that `save_state` wrote."""
    return load_file(path)
