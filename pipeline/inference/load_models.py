"""Loading of the Localizer and the Answerer, on first use."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Generic, TypeVar

from pipeline.engine.stage import RunContext
from pipeline.inference.backbone import Backbone
from pipeline.inference.visual_prompt_weights import VisualPromptWeights

if TYPE_CHECKING:
    from pipeline.models.answerer import Answerer
    from pipeline.models.language import Language
    from pipeline.models.localizer import Localizer

Model = TypeVar("Model")


class OnDemand(Generic[Model]):
    """A model that is loaded on first use, once: shards in which all videos failed need none."""

    def __init__(self, load: Callable[[], Model]) -> None:
        self._load = load

    @cached_property
    def model(self) -> Model:
        """The model on the run's device."""
        return self._load()


def load_localizer(
    run: RunContext, backbone: Backbone, weights: VisualPromptWeights, precision: str, saving_memory: bool = False
) -> Localizer:
    """Return the Localizer on the run's device, its language model frozen and in evaluation mode.

    Args:
        saving_memory: recompute the language model's blocks in a training's backward pass.
    """
    from pipeline.models.localizer import Localizer

    return Localizer(weights.load(run, backbone, precision), _language(run, backbone, precision, saving_memory))


def load_answerer(
    run: RunContext, backbone: Backbone, weights: VisualPromptWeights, precision: str, saving_memory: bool = False
) -> Answerer:
    """Return the Answerer; arguments as for `load_localizer`."""
    from pipeline.models.answerer import Answerer

    return Answerer(weights.load(run, backbone, precision), _language(run, backbone, precision, saving_memory))


def _language(run: RunContext, backbone: Backbone, precision: str, saving_memory: bool) -> Language:
    language = backbone.language(run, precision)
    return language.saving_memory() if saving_memory else language
